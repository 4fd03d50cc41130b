"""Full weights: one engine after the other, paused; never weights that nobody answers for."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.trainer.delivery.test_weights import FULL
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.fake_round import write_whole
from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.full_swap import FullSwap
from trainer.delivery.gate import Expected
from trainer.delivery.publish import publish
from trainer.delivery.shelf import Shelf
from trainer.delivery.weights import Whole
from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import AdapterError, RegistryError, SettingsError
from trajectories.registry import Heartbeat, Registry, beat
from trajectories.resources import Kind, PolicyVersion, VersionState


class House:
    """Two engines, their registry, and a clock that is turned by hand."""

    def __init__(self, path: Path, redis: Redis, engines: list[FakeEngine]) -> None:
        self.now = 0.0
        self.path, self.redis, self.engines = path, redis, engines
        self.registry = Registry(redis, "policy", "base")
        (path / "base").mkdir()
        save_file({"w": np.ones(4, np.float32)}, path / "base" / "model.safetensors")
        self.restart()

    def restart(self, pause_seconds: float = 30.0) -> None:
        """What a kill of the trainer leaves is in Redis, on disk and in the engines."""
        self.swap = FullSwap(
            [Engine(engine.url) for engine in self.engines],
            self.registry,
            expected=Expected("base", "b" * 64, whole=Whole(self.path / "base", "float32")),
            drain_seconds=100,
            pause_seconds=pause_seconds,
            shelf=Shelf(self.path / "runs", 2),
            silence_seconds=0.0,
            clock=lambda: self.now,
        )
        self.swap.check()

    def add(self, version: int) -> PolicyVersion:
        trained = self.path / "runs" / f"run_{version}" / "trained"
        write_whole(trained, seed=version)
        path = publish(
            trained,
            self.path / "versions",
            plan=FULL,
            version=version,
            base_model="base",
            base_sha256="b" * 64,
            metrics={},
            reached=lambda _: None,
        )
        entry = PolicyVersion(
            policy="policy",
            version=version,
            model=path.name,
            state=VersionState.CANDIDATE,
            kind=Kind.FULL,
            path=str(path),
            run_id=f"run_{version}",
        )
        self.registry.add(entry)
        return entry

    def promote(self, version: int) -> PolicyVersion:
        entry = self.add(version)
        self.swap.load(entry)
        self.swap.prove(entry)
        self.swap.promote(version)
        return entry

    def noted(self) -> list[int | None]:
        weights = self.registry.snapshot().weights
        return [weights[engine.url].version for engine in self.engines]

    def served(self) -> list[str]:
        """What the engines really have, by their directories."""
        return [Path(engine.weights or "the first").name for engine in self.engines]

    def state(self, version: int) -> VersionState:
        return self.registry.snapshot().versions[version].state


@pytest.fixture
def house(tmp_path: Path, redis: Redis) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path, redis, [stack.enter_context(FakeEngine()) for _ in range(2)])


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
    out = house.registry.snapshot().weights[house.engines[0].url]
    assert out.is_out
    assert "neither" in out.reason
    assert not house.engines[0].is_paused, "it is resumed in any case"
    house.swap.reject(2, "refused")
    assert [trouble for trouble in house.swap.reconcile() if "out of routing" in trouble]
    house.now += 31
    house.swap.reconcile()
    house.now += 31
    assert house.swap.reconcile() == []
    assert house.served() == [first.model, first.model]
    assert not house.registry.snapshot().weights[house.engines[0].url].is_out


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
    assert house.engines[0].events[-1][0] == "resume"
    house.engines[0].reload_seconds = 0.0
    time.sleep(0.7)
    assert house.swap.reconcile() == []
    assert house.noted() == [1, 0], "the round goes on with it"


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
