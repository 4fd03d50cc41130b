"""Which version answers: sticky through a promotion, counted, and never absent."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import fakeredis
import httpx2
import pytest

from gateway.app import create_app
from gateway.policies import Policies, serve_policies
from gateway.routing import InFlight, Stickiness, choose
from gateway.snapshot import SnapshotWatcher
from gateway.spool.writer import Spool
from tests.gateway.conftest import Running, open_spool, settings_for, shipping_client, wait_for
from trajectories import keys
from trajectories.connection import Redis
from trajectories.registry import Registry, Snapshot
from trajectories.resources import PolicyVersion, VersionState
from trajectories.settings import PolicySettings, Settings


def version(number: int, state: VersionState = VersionState.CANDIDATE) -> PolicyVersion:
    return PolicyVersion(policy="policy", version=number, model=f"policy-v{number}", state=state)


def promote(running: Running, number: int) -> None:
    running.fake.adapters[f"policy-v{number}"] = "/x"
    running.registry.add(version(number))
    running.registry.promote(number)
    wait_for(lambda: running.services.policies.default.snapshot.current == number)


def test_a_running_trajectory_ends_on_its_version_and_new_ones_go_to_the_new(
    running: Running,
) -> None:
    promote(running, 1)
    old = running.chat(session_id="old")
    assert old.headers["x-ratchet-policy"] == "policy@1"
    assert running.fake.requests[-1].body["model"] == "policy-v1"
    assert old.json()["model"] == "policy"
    promote(running, 2)
    assert running.chat(session_id="old").headers["x-ratchet-policy"] == "policy@1"
    assert running.chat(session_id="new").headers["x-ratchet-policy"] == "policy@2"
    assert running.chat().headers["x-ratchet-policy"] == "policy@2"
    running.registry.move(1, VersionState.RETIRED)
    wait_for(lambda: not running.services.policies.default.snapshot.is_routable(1))
    assert running.chat(session_id="old").headers["x-ratchet-policy"] == "policy@2"
    assert [r.policy_version for r in running.records()] == [1, 1, 2, 2, 2]


def test_a_lost_adapter_is_answered_by_the_base_model_and_stamped_so(running: Running) -> None:
    promote(running, 1)
    running.fake.forget_adapters()
    for stream in (False, True):
        answer = running.chat(stream=stream)
        assert answer.status_code == 200
        assert answer.headers["x-ratchet-policy"] == "policy@0"
    assert {(r.policy_version, r.model) for r in running.records()} == {(0, "base")}
    assert running.services.policies.default.in_flight.by_version() == {}
    assert "ratchet_fallbacks_total 2.0" in running.client.get("/metrics").text


def test_explicit_names_mean_themselves(running: Running) -> None:
    promote(running, 1)
    by_name = running.chat(model="policy-v1")
    assert by_name.headers["x-ratchet-policy"] == "policy@1"
    assert by_name.json()["model"] == "policy-v1"
    assert running.chat(model="base").headers["x-ratchet-policy"] == "policy@0"


def test_any_name_can_be_an_alias(start: Callable[..., Running]) -> None:
    running = start(gateway={"aliases": ("*",)})
    promote(running, 1)
    running.fake.reply = lambda model, messages: "fine"
    answer = running.chat(model="gpt-4o-mini", stream=True)
    assert b'"model":"gpt-4o-mini"' in answer.content
    assert b"policy-v1" not in answer.content
    assert running.records()[0].policy_version == 1


def test_the_heartbeat_says_what_runs_on_which_version(running: Running) -> None:
    registry = running.registry
    promote(running, 1)
    running.fake.hold()
    body = {"model": "policy", "stream": True, "messages": [], "session_id": "s"}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        parts = answer.iter_raw()
        next(parts)
        promote(running, 2)
        revision = running.services.policies.default.snapshot.revision
        beat = wait_for(lambda: [b for b in registry.heartbeats() if b.revision == revision])[0]
        assert beat.gateway == running.services.gateway_id
        assert beat.in_flight == {1: 1}
        assert beat.open_trajectories == {1: 1}
        running.fake.let_go()
        list(parts)
    wait_for(lambda: registry.heartbeats()[0].in_flight == {})
    first = registry.heartbeats()[0].at
    wait_for(lambda: registry.heartbeats()[0].at > first, 1.5)


def test_a_hang_up_lowers_the_count(running: Running) -> None:
    running.fake.hold()
    with pytest.raises(httpx2.TimeoutException):
        running.client.post(
            "/v1/chat/completions", json={"model": "policy", "messages": []}, timeout=0.2
        )
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})


def test_stickiness_forgets_the_idle_and_is_bounded() -> None:
    memory = Stickiness(idle_seconds=10, limit=3)
    memory.bind("a", 1, now=0)
    memory.bind("b", 1, now=5)
    memory.bind("a", 2, now=8)
    assert memory.open_by_version(now=9) == {1: 1, 2: 1}
    assert memory.version_of("b", now=16) is None
    assert memory.version_of("a", now=16) == 2
    for number in range(5):
        memory.bind(f"n{number}", 3, now=17)
    assert memory.open_by_version(now=17) == {3: 3}
    counts = InFlight()
    counts.enter(None)
    counts.enter(1)
    counts.leave(1)
    assert counts.by_version() == {}


def test_choosing_is_pure() -> None:
    versions = {
        0: PolicyVersion(policy="p", version=0, model="base", state=VersionState.DRAINING),
        1: version(1, VersionState.CURRENT),
        2: version(2, VersionState.CANDIDATE),
    }
    snapshot = Snapshot("p", 7, 1, versions)
    for bound, expected in [(None, 1), (0, 0), (2, 1), (9, 1)]:
        route = choose("policy", aliases=("policy",), snapshot=snapshot, bound=bound)
        assert route.version == expected
    assert choose("other", aliases=("policy",), snapshot=snapshot).version is None
    assert choose("policy-v2", aliases=("*",), snapshot=snapshot).alias is None


def test_the_first_call_after_a_start_goes_to_the_current_version(tmp_path: Path) -> None:
    redis = fakeredis.FakeRedis()
    registry = Registry(redis, "policy", "base")
    registry.add(version(1))
    registry.promote(1)
    app = create_app(
        settings_for(tmp_path, "http://127.0.0.1:9"), redis=redis, shipping=shipping_client(redis)
    )

    async def current() -> int:
        async with app.router.lifespan_context(app):
            return int(app.state.services.policies.default.snapshot.current)

    assert asyncio.run(current()) == 1


def watching(redis: Redis, registry: Registry, spool: Spool) -> tuple[SnapshotWatcher, Policies]:
    policies = serve_policies(Settings(), [registry.empty], ("policy",))
    return SnapshotWatcher(redis, {"policy": registry}, spool, policies=policies), policies


def test_after_an_outage_versions_are_compared_and_not_just_their_number(tmp_path: Path) -> None:
    redis = fakeredis.FakeRedis()
    registry = Registry(redis, "policy", "base")
    spool = open_spool(tmp_path)
    watcher, policies = watching(redis, registry, spool)
    registry.add(version(1))
    asyncio.run(watcher.refresh())
    redis.flushall()  # and restored, from something older, and changed since
    registry.add(version(2))
    watcher.is_connected = False
    asyncio.run(watcher.refresh())
    assert set(policies.default.snapshot.versions) == {0, 2}
    assert watcher.is_connected
    spool.close()


def test_a_policy_that_cannot_be_read_silences_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis = fakeredis.FakeRedis()
    settings = Settings(policies={"planner": PolicySettings(agents=("planner",))})
    registries = {name: Registry(redis, name, "base") for name in settings.policy_names}
    empty = [registry.empty for registry in registries.values()]
    policies = serve_policies(settings, empty, ("policy",))
    spool = open_spool(tmp_path)
    watcher = SnapshotWatcher(redis, registries, spool, policies=policies)
    good = version(1).model_copy(update={"policy": "planner", "model": "planner-v1"})
    redis.hset(keys.policy("planner"), "1", b'{"state": "of a later release"}')
    registries["policy"].add(version(1))
    for _ in range(2):
        asyncio.run(watcher.refresh())
    assert watcher.is_connected
    assert set(policies.default.snapshot.versions) == {0, 1}
    for name, registry in registries.items():
        assert [beat.revision for beat in registry.heartbeats()] == [int(name == "policy")]
    assert caplog.text.count("planner: the last snapshot stands") == 1
    redis.hset(keys.policy("planner"), "1", good.to_json())
    asyncio.run(watcher.refresh())
    assert policies["planner"].snapshot.versions[1] == good
    spool.close()


def test_the_heartbeat_follows_a_gateway_that_had_to_take_a_new_id(running: Running) -> None:
    before = running.services.gateway_id
    running.services.spool.change_producer()
    after = running.services.gateway_id
    assert after != before
    wait_for(lambda: after in {b.gateway for b in running.registry.heartbeats()})


async def test_a_subscription_that_fails_oddly_is_made_anew(tmp_path: Path) -> None:
    """redis-py polls the socket of a subscription whose server went away: a TypeError."""
    redis = fakeredis.FakeRedis()
    spool = open_spool(tmp_path)
    registry = Registry(redis, "policy", "base")
    watcher, policies = watching(redis, registry, spool)

    class Gone:
        def get_message(self, timeout: float) -> None:
            raise TypeError("argument must be an int, or have a fileno() method.")

        def close(self) -> None:
            pass

    watcher._subscription = Gone()
    following = asyncio.create_task(watcher.run())
    registry.add(version(1))
    registry.promote(1)
    assert await asyncio.to_thread(wait_for, lambda: policies.default.snapshot.current == 1)
    assert not following.done()
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    spool.close()
