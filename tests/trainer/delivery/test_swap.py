"""Swapping: nothing is unloaded while a request may still need it."""

import shutil
from pathlib import Path

import pytest

from tests.trainer.delivery.test_gate import PLAN
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.fake_round import write_trained
from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.gate import Expected
from trainer.delivery.publish import publish
from trainer.delivery.swap import Swap
from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import RegistryError
from trajectories.registry import Heartbeat, Registry, beat
from trajectories.resources import PolicyVersion, VersionState


class House:
    """A registry, one fake engine, one gateway, and a clock that is turned by hand."""

    def __init__(self, tmp_path: Path, redis: Redis, engine: FakeEngine) -> None:
        self.now = 0.0
        self.redis = redis
        self.engine = engine
        self.registry = Registry(redis, "policy", "base")
        self.path = tmp_path
        self.client = Engine(engine.url)
        self.swap = Swap(
            [self.client],
            self.registry,
            expected=Expected("base", "b" * 64),
            drain_seconds=100,
            clock=lambda: self.now,
        )

    def add(self, version: int) -> PolicyVersion:
        trained = self.path / f"trained{version}"
        write_trained(trained, rank=4, seed=version)
        path = publish(
            trained,
            self.path / "adapters",
            plan=PLAN,
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
            path=str(path),
        )
        self.registry.add(entry)
        return entry

    def promote(self, version: int) -> PolicyVersion:
        entry = self.add(version)
        self.swap.load(entry)
        self.swap.promote(version)
        return entry

    def beat(
        self,
        *,
        revision: int | None = None,
        in_flight: dict[int, int] | None = None,
        open_trajectories: dict[int, int] | None = None,
    ) -> None:
        self.redis.sadd(keys.GATEWAYS, "g1")
        said = Heartbeat(
            gateway="g1",
            revision=self.registry.revision() if revision is None else revision,
            in_flight=in_flight or {},
            open_trajectories=open_trajectories or {},
            at=0,
        )
        beat(self.redis, [said])

    def state(self, version: int) -> VersionState:
        return self.registry.snapshot().versions[version].state


@pytest.fixture
def house(tmp_path: Path, redis: Redis, engine: FakeEngine) -> House:
    return House(tmp_path, redis, engine)


def test_a_version_drains_until_its_last_trajectory_has_ended(house: House) -> None:
    house.promote(1)
    house.promote(2)
    house.beat(open_trajectories={1: 1})
    house.swap.retire()
    assert house.state(1) is VersionState.DRAINING
    house.beat(in_flight={1: 1})
    house.swap.retire()
    assert house.state(1) is VersionState.DRAINING
    house.beat()
    house.swap.retire()
    assert house.state(1) is VersionState.RETIRED


def test_a_gateway_that_has_not_seen_the_promotion_is_waited_for(house: House) -> None:
    house.promote(1)
    before = house.registry.revision()
    house.promote(2)
    house.beat(revision=before)
    house.swap.retire()
    assert house.state(1) is VersionState.DRAINING


def test_trajectories_that_never_end_are_not_waited_for_for_ever(house: House) -> None:
    house.promote(1)
    house.promote(2)
    house.beat(open_trajectories={1: 5})
    house.swap.retire()
    house.now = 101.0
    house.swap.retire()
    assert house.state(1) is VersionState.RETIRED


def test_an_old_version_is_unloaded_only_at_in_flight_zero(house: House) -> None:
    old = house.promote(1)
    house.promote(2)
    house.beat()
    before = house.registry.revision()
    house.swap.retire()
    assert old.model in house.engine.loaded, "the newest retired one stays for a rollback"
    house.promote(3)
    house.beat(in_flight={1: 1})
    for _ in range(3):
        house.swap.retire()
    assert house.state(2) is VersionState.RETIRED
    assert old.model in house.engine.loaded, "a request still runs on it"
    house.beat(revision=before)
    house.swap.retire()
    assert old.model in house.engine.loaded, "the gateway may not know yet that it retired"
    house.beat()
    house.swap.retire()
    assert house.state(1) is VersionState.UNLOADED
    assert old.model not in house.engine.loaded
    assert Path(old.path or "").is_dir(), "its directory is kept"


def test_the_base_is_never_unloaded(house: House) -> None:
    for version in (1, 2, 3):
        house.promote(version)
        for _ in range(3):
            house.beat()
            house.swap.retire()
    assert house.state(0) is VersionState.RETIRED
    assert ("unload", "base") not in house.engine.events


def test_a_rollback_to_the_newest_retired_version_needs_no_load(house: House) -> None:
    house.promote(1)
    house.promote(2)
    house.beat()
    house.swap.retire()
    loads = len(house.engine.events)
    house.swap.roll_back(1)
    assert house.registry.snapshot().current == 1
    assert len(house.engine.events) == loads
    house.swap.roll_back(0)
    assert house.registry.snapshot().current == 0


def test_a_rejected_version_cannot_be_rolled_back_to(house: House) -> None:
    entry = house.add(1)
    house.swap.load(entry)
    house.swap.reject(1, "worse")
    assert entry.model not in house.engine.loaded
    with pytest.raises(RegistryError, match="rejected"):
        house.swap.roll_back(1)


def test_no_more_adapters_are_loaded_than_the_engine_holds(house: House) -> None:
    for version in (1, 2, 3, 4):
        house.promote(version)
    with pytest.raises(EngineUnavailable, match="waiting for the old ones to drain"):
        house.swap.load(house.add(5))


def test_reconciling_takes_away_what_a_kill_left_behind(house: House) -> None:
    entry = house.add(1)
    house.swap.load(entry)
    house.registry.move(1, VersionState.REJECTED)
    assert house.swap.reconcile() == []
    assert house.engine.loaded == {}


def test_a_lost_old_adapter_does_not_keep_the_current_one_from_being_loaded_again(
    house: House,
) -> None:
    old = house.promote(1)
    current = house.promote(2)
    house.engine.restart()
    shutil.rmtree(old.path or "")
    [trouble] = house.swap.reconcile()
    assert "missing" in trouble
    assert list(house.engine.loaded) == [current.model]


def test_gateways_that_are_late_to_report_are_not_taken_for_idle(house: House) -> None:
    for version in (1, 2, 3):
        house.promote(version)
    house.now = 101.0
    house.swap.retire()
    house.now = 202.0
    house.swap.retire()
    house.swap.retire()
    assert house.state(1) is VersionState.RETIRED, "nobody has said that it runs nothing"
    house.now += keys.HEARTBEAT_TTL_SECONDS + 1
    house.swap.retire()
    assert house.state(1) is VersionState.UNLOADED


def test_an_adapter_damaged_on_disk_is_not_loaded_again(house: House) -> None:
    entry = house.promote(1)
    house.engine.restart()
    (Path(entry.path or "") / "adapter_model.safetensors").write_bytes(b"x")
    [trouble] = house.swap.reconcile()
    assert "not what was published" in trouble
    assert house.engine.loaded == {}


def test_adapters_of_other_policies_in_the_same_engine_take_slots(house: House) -> None:
    other = Registry(house.redis, "other", "base")
    for number in (1, 2):
        model = f"other-v{number}"
        other.add(
            PolicyVersion(policy="other", version=number, model=model, state=VersionState.CANDIDATE)
        )
        other.promote(number)
    house.swap = Swap(
        [house.client],
        house.registry,
        expected=Expected("base", "b" * 64),
        drain_seconds=100,
        others=[other],
        slots=4,
        clock=lambda: house.now,
    )
    house.promote(1)
    house.promote(2)
    entry = house.add(3)
    with pytest.raises(EngineUnavailable, match=r"4 adapters .* room for 4 \(engine.max_loras\)"):
        house.swap.load(entry)
    for _ in range(3):  # seen to drain, retired, unloaded
        house.beat()
        house.swap.retire()
    assert house.state(1) is VersionState.UNLOADED, "even the newest retired one: slots are short"
    house.swap.load(entry)
    assert len(house.engine.loaded) == 2
