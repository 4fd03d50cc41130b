"""What an engine is left with where the way to other weights breaks off."""

import pytest
from redis import ConnectionError as RedisAway

from tests.trainer.delivery.conftest import House
from trainer.delivery.engine import Engine, EngineBusy, EngineUnavailable
from trajectories.errors import AdapterError, EngineError
from trajectories.lease import LeaseLost
from trajectories.registry import Weights
from trajectories.resources import VersionState


def busy(engine: Engine, seconds: float) -> None:
    """A pause that is given up: calls run for longer than they are waited for."""
    raise EngineBusy("calls run")


def test_what_answers_wrong_is_out_where_its_calls_do_not_let_it_pause(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    house.engines[0].logprob_error = 0.5
    resume = Engine.resume
    with monkeypatch.context() as patch:

        def long_answers(engine: Engine) -> None:
            resume(engine)
            patch.setattr(Engine, "pause", busy)

        patch.setattr(Engine, "resume", long_answers)
        with pytest.raises(AdapterError, match="as trained"):
            house.swap.prove(entry)
        house.swap.reject(2, "wrong")
    assert house.served()[0] == entry.model
    assert house.weights().is_out
    house.engines[0].logprob_error = 0.0
    house.now += 31
    assert house.swap.reconcile() == []
    assert house.noted() == [1, 1]


def test_what_another_engine_refused_is_out_where_it_cannot_be_taken_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    house.engines[1].refuse_reload = ["size mismatch"]
    with pytest.raises(AdapterError, match="refused version 2"):
        house.swap.prove(entry)
    monkeypatch.setattr(Engine, "pause", busy)
    house.swap.reject(2, "refused")
    assert house.weights().is_out


def test_an_engine_that_is_out_stays_out_until_it_has_answered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    house.engines[0].refuse_reload = ["out of memory"] * 2
    with pytest.raises(AdapterError):
        house.swap.prove(entry)
    house.swap.reject(2, "refused")
    reason = house.weights().reason
    was_out = []
    note = house.registry.note_weights

    def noted(said: Weights) -> int:
        was_out.append(said.is_out)
        return note(said)

    monkeypatch.setattr(house.registry, "note_weights", noted)
    house.now += 31
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "pause", busy)
        assert house.swap.reconcile() != []
    assert was_out == [True, True]
    assert house.weights().reason == reason
    house.now += 31
    assert house.swap.reconcile() == []
    assert was_out[2:] == [True, False]


def test_a_pause_that_was_given_up_is_taken_back_later_where_nobody_heard(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    engine = house.engines[0]

    def paused(one: Engine, seconds: float) -> None:
        engine.is_paused = True
        raise EngineBusy("calls run")

    def away(_: Engine) -> None:
        raise EngineUnavailable("a moment's trouble")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "pause", paused)
        patch.setattr(Engine, "resume", away)
        with pytest.raises(EngineUnavailable):
            house.swap.prove(entry)
    assert engine.is_paused
    assert house.swap.reconcile() == []
    assert not engine.is_paused
    assert house.noted() == [1, 1]
    engine.is_paused = True  # the pause came after the resume
    assert house.swap.reconcile() == []
    assert not engine.is_paused


@pytest.mark.parametrize("error", [EngineUnavailable("504 of a proxy"), ValueError("a bug")])
def test_weights_of_nobody_are_out_before_a_call_meets_them(
    house: House, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    resume = Engine.resume
    was_out = []

    def break_off(*_: object) -> None:
        raise error

    def seen(engine: Engine) -> None:
        was_out.append(house.weights().is_out)
        resume(engine)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "reload", break_off)
        patch.setattr(Engine, "resume", seen)
        with pytest.raises(type(error)):
            house.swap.prove(entry)
    assert was_out == [True]
    house.now += 31
    assert house.swap.reconcile() == []
    assert house.noted() == [1, 1]


def test_what_serves_is_given_back_without_redis(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house.promote(1)
    entry = house.add(2)
    house.engines[0].refuse_reload = ["out of memory"]
    reload = Engine.reload

    def away() -> None:
        raise RedisAway("away")

    with monkeypatch.context() as patch:

        def refused(engine: Engine, path: str, seconds: float) -> None:
            patch.setattr(house.registry, "snapshot", away)
            reload(engine, path, seconds)

        patch.setattr(Engine, "reload", refused)
        with pytest.raises((AdapterError, RedisAway)):
            house.swap.prove(entry)
    assert house.served()[0] == first.model
    assert not house.engines[0].is_paused


def test_an_engine_that_restarts_at_its_pause_is_asked_again_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    house.engines[0].restart()

    def refused(*_: object) -> None:
        raise EngineUnavailable("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "pause", refused)
        assert "connection refused" in house.swap.reconcile()[0]
    assert house.swap.reconcile() == []
    assert house.noted() == [1, 1]


def test_a_pause_given_up_for_a_candidate_does_not_hold_up_what_serves(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house.promote(1)
    house.promote(2)
    entry = house.add(3)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "pause", busy)
        with pytest.raises(EngineUnavailable, match=r"trainer.pause_seconds"):
            house.swap.prove(entry)
    house.swap.roll_back(1)
    assert house.served() == [first.model, first.model]
    assert house.noted() == [1, 1]


def test_a_rollback_reaches_an_engine_that_has_a_candidate(house: House) -> None:
    house.promote(1)
    house.promote(2)
    entry = house.add(3)
    house.engines[1].is_down = True
    with pytest.raises(EngineUnavailable):
        house.swap.prove(entry)
    assert house.noted() == [2, 2], "while one is away no other one begins"
    house.engines[1].restart()
    house.engines[1].dies_of = entry.model
    with pytest.raises(EngineUnavailable):
        house.swap.prove(entry)
    assert house.noted() == [3, None]
    house.swap.roll_back(1)
    assert house.noted()[0] == 1
    house.engines[1].restart()
    with pytest.raises(AdapterError, match="from version 2, but version 1 serves by now"):
        house.swap.prove(entry)
    house.swap.reject(3, "superseded")
    house.now += 31
    house.swap.reconcile()
    assert house.noted() == [1, 1]
    assert house.state(3) is VersionState.REJECTED


def test_whoever_lost_its_lease_meanwhile_names_and_notes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)
    is_lost = False

    def guard() -> None:
        if is_lost:
            raise LeaseLost("the lease was taken")

    house.restart(guard=guard)
    reload = Engine.reload

    def for_long(engine: Engine, path: str, seconds: float) -> None:
        nonlocal is_lost
        reload(engine, path, seconds)
        is_lost = True

    monkeypatch.setattr(Engine, "reload", for_long)
    with pytest.raises(LeaseLost):
        house.swap.prove(entry)
    assert house.engines[0].weights_name == "changing"
    assert house.noted() == [None, 1]
    assert not house.engines[0].is_paused


def test_an_answer_that_is_no_json_is_no_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.trainer.fake_engine.json.dumps", lambda _: "{")
    with Engine(house.engines[0].url) as engine, pytest.raises(EngineError, match="not answer"):
        engine.models()
