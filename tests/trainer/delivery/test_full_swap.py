"""Full weights: one engine after the other, paused; never weights that nobody answers for."""

import threading
import time
from pathlib import Path

import pytest

from tests.trainer.delivery.conftest import House
from trainer.delivery.engine import Engine, EngineUnavailable
from trajectories import keys
from trajectories.errors import AdapterError, RegistryError, SettingsError
from trajectories.registry import Heartbeat, beat
from trajectories.resources import PolicyVersion, VersionState


def test_engines_are_paused_one_after_the_other_and_noted_when_they_answer_for_it(
    house: House,
) -> None:
    assert house.swap.reconcile() == []
    assert house.noted() == [0, 0]
    entry = house.promote(1)
    assert house.served() == [entry.model, entry.model]
    assert house.noted() == [1, 1]
    for engine in house.engines:
        assert [name for name, _ in engine.events] == ["pause", "reload", "resume"]
        assert engine.weights_name == entry.model
    assert house.swap.reconcile() == []
    assert len(house.engines[0].events) == 3, "nothing is done twice"


def test_no_gateway_stamps_while_weights_change_and_each_one_is_waited_for(house: House) -> None:
    house.swap.reconcile()
    entry = house.add(1)
    house.redis.sadd(keys.GATEWAYS, "g1")

    def say(revision: int) -> None:
        beat(
            house.redis,
            [Heartbeat(gateway="g1", revision=revision, in_flight={}, open_trajectories={}, at=0)],
        )

    say(house.registry.revision())
    change = threading.Thread(target=house.swap.prove, args=(entry,))
    change.start()
    deadline = time.monotonic() + 10
    while house.noted()[0] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert house.engines[0].events == [], "not paused while a gateway might still stamp"
    assert house.engines[1].events == []
    while change.is_alive():
        assert time.monotonic() < deadline
        say(house.registry.revision())
        time.sleep(0.02)
    assert house.noted() == [1, 1]


def test_an_engine_that_refuses_goes_on_with_what_served_and_so_do_the_others(
    house: House,
) -> None:
    first = house.promote(1)
    entry = house.add(2)
    house.engines[1].refuse_reload = ["size mismatch"]
    with pytest.raises(AdapterError, match=r"refused version 2: .*size mismatch"):
        house.swap.prove(entry)
    house.swap.reject(2, "refused")
    assert house.served() == [first.model, first.model]
    assert house.noted() == [1, 1]
    names = [name for name, _ in house.engines[1].events[3:]]
    assert names == ["pause", "refused", "reload", "resume"], "healed before a call could go on"
    assert house.swap.reconcile() == []


def test_an_engine_that_takes_neither_is_out_of_routing_until_it_is_mended(house: House) -> None:
    first = house.promote(1)
    entry = house.add(2)
    house.engines[0].refuse_reload = ["out of memory"] * 3
    with pytest.raises(AdapterError):
        house.swap.prove(entry)
    assert house.weights().is_out
    assert "neither" in house.weights().reason
    assert not house.engines[0].is_paused, "it is resumed in any case"
    house.swap.reject(2, "refused")
    assert [trouble for trouble in house.swap.reconcile() if "out of routing" in trouble]
    house.now += 31
    house.swap.reconcile()
    house.now += 31
    assert house.swap.reconcile() == []
    assert house.served() == [first.model, first.model]
    assert not house.weights().is_out


def test_weights_that_answer_otherwise_than_trained_are_taken_back(house: House) -> None:
    house.swap.reconcile()
    entry = house.add(1)
    house.engines[0].logprob_error = 0.5
    with pytest.raises(AdapterError, match="does not serve the weights as trained"):
        house.swap.prove(entry)
    assert house.served()[1] == "the first", "the second engine was never asked"
    assert house.noted() == [0, 0]
    assert house.served()[0] == "base"


def test_a_reload_that_did_nothing_is_seen(house: House) -> None:
    house.swap.reconcile()
    house.engines[0].is_deaf = True
    with pytest.raises(AdapterError, match="serves the weights before"):
        house.swap.prove(house.add(1))


def test_calls_that_do_not_end_are_not_waited_for_for_ever(house: House) -> None:
    house.swap.reconcile()
    entry = house.add(1)
    house.restart(pause_seconds=0.1)
    house.engines[0].pause_seconds = 0.5
    with pytest.raises(EngineUnavailable, match=r"trainer.pause_seconds"):
        house.swap.prove(entry)
    assert house.noted() == [0, 0], "nothing has changed, and it is stamped again"
    with pytest.raises(EngineUnavailable, match="again in 1 s"):
        house.swap.prove(entry)
    house.engines[0].pause_seconds = 0.0
    time.sleep(0.7)
    house.restart()
    assert house.swap.reconcile() == []
    house.swap.prove(entry)
    assert house.noted() == [1, 1]


def test_a_reload_that_hangs_is_not_waited_for_for_ever_and_not_believed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.swap.reconcile()
    entry = house.add(1)
    house.engines[0].reload_seconds = 0.5
    with monkeypatch.context() as patch:
        patch.setattr("trainer.delivery.renewal.RELOAD_SECONDS", 0.1)
        with pytest.raises(EngineUnavailable, match="does not answer"):
            house.swap.prove(entry)
    assert house.noted() == [None, 0], "nobody knows what it has"
    assert house.weights().is_out
    assert house.engines[0].events[-1][0] == "resume"
    house.engines[0].reload_seconds = 0.0
    time.sleep(0.7)
    house.now += 31
    assert house.swap.reconcile() == []
    assert house.noted() == [0, 0]
    house.swap.prove(entry)
    assert house.noted() == [1, 1], "the round goes on with it"


def test_an_engine_that_restarts_is_given_the_current_weights_again(house: House) -> None:
    entry = house.promote(1)
    house.engines[1].restart()
    assert house.swap.reconcile() == []
    assert house.served() == [entry.model, entry.model]
    assert house.noted() == [1, 1]


def test_what_an_engine_dies_of_twice_is_refused(house: House) -> None:
    first = house.promote(1)
    entry = house.add(2)
    house.engines[0].dies_of = entry.model
    for _ in range(2):
        with pytest.raises((EngineUnavailable, AdapterError)):
            house.swap.prove(entry)
        house.engines[0].restart()
    house.swap.reject(2, "deadly")
    for _ in range(3):
        house.now += 31
        house.swap.reconcile()
    assert house.served() == [first.model, first.model]


@pytest.mark.parametrize("killed_at", ["pause", "reload", "name_weights", "resume", "logprobs"])
def test_killed_in_the_middle_of_an_exchange_the_next_start_ends_it(
    house: House, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promote(1)
    entry = house.add(2)

    class Killed(BaseException):
        """Stands for SIGKILL: nothing that is to be done at the end is done."""

    step = getattr(Engine, killed_at)
    with monkeypatch.context() as patch:

        def die(engine: Engine, *arguments: object) -> object:
            if killed_at in ("pause", "reload"):
                step(engine, *arguments)
            patch.setattr(Engine, "resume", lambda _: None)
            raise Killed

        patch.setattr(Engine, killed_at, die)
        with pytest.raises(Killed):
            house.swap.prove(entry)
    assert house.noted() == [None, 1], "nothing is stamped until somebody has looked"
    house.restart()
    assert house.swap.reconcile() == []
    assert not house.engines[0].is_paused
    assert house.noted()[0] == 2, "the round goes on where it was"
    house.swap.prove(entry)
    assert house.noted() == [2, 2]
    assert house.served() == [entry.model, entry.model]


def test_a_rollback_loads_the_former_weights_and_the_base_is_one_of_them(house: House) -> None:
    first = house.promote(1)
    house.promote(2)
    house.swap.roll_back(1)
    assert house.served() == [first.model, first.model]
    assert house.noted() == [1, 1]
    assert house.registry.snapshot().current == 1
    house.swap.roll_back(0)
    assert house.served() == ["base", "base"]
    assert house.noted() == [0, 0]
    assert {engine.weights_name for engine in house.engines} == {"default"}


def test_only_the_last_ones_stay_on_disk_and_the_registry_knows(house: House) -> None:
    entries = [house.promote(version) for version in (1, 2, 3)]
    house.swap.retire()
    assert [Path(e.path or "").is_dir() for e in entries] == [False, True, True]
    trained = [house.path / "runs" / f"run_{version}" / "trained" for version in (1, 2, 3)]
    assert [path.is_dir() for path in trained] == [False, True, True]
    with pytest.raises(RegistryError, match=r"no longer on disk: the last 2 are kept"):
        house.swap.roll_back(1)
    house.swap.roll_back(2)
    house.swap.retire()
    assert Path(entries[2].path or "").is_dir()


def test_what_a_kill_left_of_a_version_that_is_gone_is_removed_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [house.promote(version) for version in (1, 2, 3)]

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("trainer.delivery.shelf.shutil.rmtree", die)
        with pytest.raises(Killed):
            house.swap.retire()
    assert house.registry.snapshot().versions[1].path is None
    house.restart()
    house.swap.retire()
    assert [Path(entry.path or "").is_dir() for entry in entries] == [False, True, True]
    assert not (house.path / "runs" / "run_1" / "trained").exists()


def test_without_the_routes_it_does_not_start_and_says_how_they_come(house: House) -> None:
    house.engines[1].is_dev_mode = False
    with pytest.raises(SettingsError, match="VLLM_SERVER_DEV_MODE=1"):
        house.restart()
    house.engines[1].is_down = True  # it may be starting
    house.restart()


def test_one_kind_of_weights_follows_the_other_by_way_of_the_base_only(house: House) -> None:
    house.registry.add(
        PolicyVersion(policy="policy", version=1, model="policy-v1", state=VersionState.CANDIDATE)
    )
    house.registry.promote(1)
    with pytest.raises(SettingsError, match="rollback --to 0"):
        house.restart()
