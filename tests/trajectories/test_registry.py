"""The registry: which moves a version may make, and what a gateway then sees."""

import threading
from typing import Any

import orjson
import pytest

from trajectories import keys
from trajectories.errors import RegistryError
from trajectories.registry import Heartbeat, Registry, Snapshot, Weights, beat
from trajectories.resources import MOVES, PolicyVersion, VersionState


@pytest.fixture
def registry(redis: Any) -> Registry:
    return Registry(redis, "policy", "base")


def publish(registry: Registry) -> int:
    """A new candidate, as the trainer makes one."""
    number = registry.allocate()
    registry.add(
        PolicyVersion(
            policy="policy",
            version=number,
            model=f"policy-{number}",
            state=VersionState.CANDIDATE,
            path=f"/adapters/{number}",
        )
    )
    return number


def states(snapshot: Snapshot) -> dict[int, str]:
    return {number: entry.state.value for number, entry in snapshot.versions.items()}


def test_before_anything_was_learned_the_base_serves(registry: Registry) -> None:
    assert registry.snapshot() == registry.empty
    assert registry.snapshot().is_routable(0)
    assert registry.snapshot().loaded == []


def test_numbers_are_given_once_and_skip_what_is_on_disk(registry: Registry) -> None:
    assert [registry.allocate(), registry.allocate(), registry.allocate(at_least=7)] == [1, 2, 7]
    assert registry.allocate(at_least=3) == 8


def test_a_candidate_is_neither_routed_nor_loaded(registry: Registry) -> None:
    number = publish(registry)
    snapshot = registry.snapshot()
    assert not snapshot.is_routable(number)
    assert snapshot.loaded == []
    assert snapshot.current == 0


def test_a_promotion_lets_the_one_before_drain(registry: Registry) -> None:
    one = publish(registry)
    snapshot = registry.promote(one)
    assert states(snapshot) == {0: "draining", 1: "current"}
    assert snapshot.current == 1
    assert snapshot.is_routable(0)
    assert [entry.version for entry in snapshot.loaded] == [1]
    assert snapshot == registry.snapshot()


def test_promoting_twice_changes_nothing(registry: Registry) -> None:
    one = publish(registry)
    before = registry.promote(one)
    assert registry.promote(one) == before
    assert registry.revision() == before.revision


def test_adding_twice_changes_nothing(registry: Registry) -> None:
    one = publish(registry)
    registry.promote(one)
    again = PolicyVersion(
        policy="policy", version=one, model="policy-1", state=VersionState.CANDIDATE
    )
    before = registry.revision()
    registry.add(again)
    assert registry.revision() == before
    assert states(registry.snapshot())[one] == "current"


@pytest.mark.parametrize("start", list(VersionState))
@pytest.mark.parametrize("end", [s for s in VersionState if s is not VersionState.CURRENT])
def test_only_the_listed_moves_are_made(
    registry: Registry, redis: Any, start: VersionState, end: VersionState
) -> None:
    number = publish(registry)
    entry = registry.snapshot().versions[number].model_copy(update={"state": start})
    redis.hset(keys.policy("policy"), str(number), entry.to_json())
    if end in MOVES[start] or end is start:
        assert registry.move(number, end, reason="why").state is end
    else:
        with pytest.raises(RegistryError, match=f"is {start.value} and cannot become"):
            registry.move(number, end)
    assert registry.snapshot().versions[number].state in (start, end)


def test_what_is_unknown_or_rejected_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"no version 9 \(known: 0\)"):
        registry.promote(9)
    one = publish(registry)
    registry.move(one, VersionState.REJECTED, reason="probe")
    with pytest.raises(RegistryError):
        registry.promote(one)
    with pytest.raises(RegistryError):
        registry.move(one, VersionState.CURRENT)
    assert registry.snapshot().versions[one].reason == "probe"


def test_rolling_back_goes_to_the_version_that_was_replaced(registry: Registry) -> None:
    one, two = publish(registry), publish(registry)
    with pytest.raises(RegistryError, match="base model is serving"):
        registry.roll_back_target(registry.snapshot())
    registry.promote(one)
    assert registry.roll_back_target(registry.snapshot()) == 0
    registry.promote(two)
    assert registry.roll_back_target(registry.snapshot()) == one


def test_a_version_that_was_rolled_back_is_never_gone_back_to(registry: Registry) -> None:
    one, two, three = publish(registry), publish(registry), publish(registry)
    registry.promote(one)
    registry.promote(two)
    registry.promote(one, reason="two was worse")
    registry.promote(three)
    assert registry.roll_back_target(registry.snapshot()) == one
    registry.promote(one)
    assert registry.roll_back_target(registry.snapshot()) == 0


def test_every_change_raises_the_revision_and_is_announced(registry: Registry, redis: Any) -> None:
    listener = redis.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(keys.REGISTRY_CHANNEL)
    listener.get_message(timeout=1)
    one = publish(registry)
    registry.promote(one)
    found = [listener.get_message(timeout=1) for _ in range(2)]
    assert [orjson.loads(message["data"])["revision"] for message in found] == [1, 2]
    assert registry.revision() == 2


def test_changes_at_the_same_time_are_all_kept(registry: Registry) -> None:
    threads = [threading.Thread(target=publish, args=(registry,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = registry.snapshot()
    assert sorted(snapshot.versions) == list(range(9))
    assert snapshot.revision == 8


def test_two_policies_do_not_meet(registry: Registry, redis: Any) -> None:
    publish(registry)
    assert sorted(Registry(redis, "other", "base").snapshot().versions) == [0]


def test_heartbeats_are_those_of_known_gateways(registry: Registry, redis: Any) -> None:
    said = Heartbeat(gateway="g1", revision=3, in_flight={1: 2}, open_trajectories={}, at=1.0)
    beat(redis, [said, said.model_copy(update={"policy": "other", "revision": 9})])
    assert registry.heartbeats() == []
    redis.sadd(keys.GATEWAYS, "g1", "g2")
    assert registry.heartbeats() == [said]


def test_what_engines_have_is_noted_with_the_versions_and_raises_the_revision(
    registry: Registry,
) -> None:
    before = registry.revision()
    assert registry.note_weights(Weights(url="http://a", version=0)) == before + 1
    registry.note_weights(Weights(url="http://b", version=0))
    registry.note_weights(Weights(url="http://a", version=1))
    found = registry.snapshot().weights
    assert [(w.version, w.change) for _, w in sorted(found.items())] == [(1, 2), (0, 1)]
    registry.promote(publish(registry))
    assert registry.snapshot().weights == found, "it is told apart from what versions are there"
    assert not registry.snapshot().is_routable(0), "no engine holds two"
    registry.keep_weights(["http://b"])
    assert set(registry.snapshot().weights) == {"http://b"}
    revision = registry.revision()
    registry.keep_weights(["http://b"])
    assert registry.revision() == revision
