"""The dispatcher and the reconciler step by step, on a real server."""

import time
from threading import Event
from typing import Any

import pytest

from tests.workers.quick_dispatcher import QUICK
from tests.workers.records import transition, vote
from tests.workers.redis_server import RedisServer
from tests.workers.test_processes import REF, ship
from trajectories import keys
from trajectories.connection import connect
from trajectories.queues import reward_queue, scoring_job_id
from trajectories.settings import Settings
from trajectories.store import Store
from workers.dispatcher import Dispatcher, build_dispatcher
from workers.reconciler import FEW, IN_ONE_JOB, Reconciler
from workers.timing import Timing
from workers.traffic import Traffic

NEVER = Event()
JOB = scoring_job_id(str(REF))


@pytest.fixture
def client(settings: Settings) -> Any:
    return connect(settings.redis)


def dispatcher(settings: Settings, **changes: Any) -> Dispatcher:
    return build_dispatcher(settings, Timing(block=0.01, trim_every=0, settle=0.0, **changes))


def reconciler(client: Any, **changes: Any) -> Reconciler:
    timing = Timing(debounce=0.0, **changes)
    return Reconciler(client, Store(client), reward_queue(client), timing)


def test_a_burst_on_one_trajectory_costs_one_job(settings: Settings, client: Any) -> None:
    steps = dispatcher(settings, debounce=0.3)
    for number in range(5):
        ship(client, transition(number, content="hi"), first=number + 1)
        steps.step(NEVER)
    assert reward_queue(client).count == 0
    time.sleep(0.35)
    steps.step(NEVER)
    assert reward_queue(client).job_ids == [JOB]


def test_a_waiting_job_is_not_asked_for_again(client: Any) -> None:
    Store(client).add_transition(transition(0))
    asks = reconciler(client, ask_again=-1.0)  # due again at once
    assert [asks.ask(), asks.ask(), asks.ask()] == [1, 0, 0]
    assert reward_queue(client).job_ids == [JOB]


def test_a_lost_job_is_asked_for_again(client: Any) -> None:
    Store(client).add_transition(transition(0))
    asks = reconciler(client, ask_again=-1.0)
    asks.ask()
    client.lpop(reward_queue(client).key)  # popped by a worker that died at once
    assert asks.ask() == 1


def test_a_job_that_keeps_failing_is_tried_seldom(client: Any) -> None:
    Store(client).add_transition(transition(0))
    asks = reconciler(client, ask_again=-1.0, ask_again_failed=100.0)
    asks.ask()
    client.lpop(reward_queue(client).key)
    client.hset(f"rq:job:{JOB}", "status", "failed")
    assert [asks.ask(), asks.ask()] == [1, 0]
    assert client.zscore(keys.SCORING, str(REF)) > time.time() + 90


def test_an_idle_trajectory_is_closed_and_scored(settings: Settings, client: Any) -> None:
    Store(client).add_transition(transition(0))  # long ago, by its own clock
    dispatcher(settings).step(NEVER)
    found = Store(client).trajectory(REF)
    assert found is not None
    assert found.is_closed


def test_all_that_is_idle_is_closed_however_much_it_is(settings: Settings, client: Any) -> None:
    store = Store(client)
    for number in range(4):
        store.add_transition(transition(0, trajectory=f"traj_{number}"))
    steps = dispatcher(settings, close_every=1e9)
    few = store.close_idle
    steps._store.close_idle = lambda before: few(before, limit=1)  # type: ignore[method-assign]
    steps.step(NEVER)
    assert client.zcard(keys.OPEN) == 0


def test_what_a_turn_has_no_time_to_close_is_closed_in_the_next(
    settings: Settings, client: Any
) -> None:
    store = Store(client)
    for number in range(3):
        store.add_transition(transition(0, trajectory=f"traj_{number}"))
    steps = dispatcher(settings, close_every=1e9, close_for=0.0)
    few = store.close_idle
    steps._store.close_idle = lambda before: few(before, limit=1)  # type: ignore[method-assign]
    left = []
    for _ in range(3):
        steps.step(NEVER)
        left.append(client.zcard(keys.OPEN))
    assert left == [2, 1, 0]


def test_entries_another_group_needs_are_not_trimmed(settings: Settings, client: Any) -> None:
    ship(client, *[transition(number, content="hi") for number in range(4)])
    stream = keys.traffic("g1")
    client.xgroup_create(stream, "archivers", id="0")
    client.xreadgroup("archivers", "a", {stream: ">"}, count=3)
    client.xack(stream, "archivers", "1-0")
    steps = dispatcher(settings)
    steps.step(NEVER)
    assert [entry for entry, _ in client.xrange(stream)] == [b"2-0", b"3-0", b"4-0"]
    client.xack(stream, "archivers", "2-0", "3-0")
    steps.step(NEVER)
    assert [entry for entry, _ in client.xrange(stream)] == [b"4-0"]


def test_a_group_that_stays_off_is_moved_on_once_it_lags_too_far(client: Any) -> None:
    ship(client, *[transition(number, content="hi") for number in range(20)])
    stream = keys.traffic("g1")
    for name in ("off", "slow"):
        client.xgroup_create(stream, name, id="0")
    client.xreadgroup("off", "a", {stream: ">"}, count=3)  # and never acknowledged
    traffic = Traffic(client, client, max_foreign_lag=10)
    traffic.reload()
    traffic.acknowledge(traffic.read(0.01))
    client.xgroup_setid(stream, "slow", "15-0")
    traffic.trim()
    first, _ = client.xrange(stream)[0]
    assert first == b"16-0", "slow is within the limit"
    assert Store(client).counts()["groups_moved"] == 1
    client.xgroup_setid(stream, "slow", "20-0")
    assert traffic.trim() == 5
    ship(client, transition(20), first=21)
    found = client.xreadgroup("off", "a", {stream: ">"})
    assert len(next(iter(dict(found).values()))) == 1, "it goes on from where the dispatchers were"


def test_our_own_lag_moves_no_group(client: Any) -> None:
    ship(client, *[transition(number, content="hi") for number in range(20)])
    stream = keys.traffic("g1")
    client.xgroup_create(stream, "off", id="0")
    traffic = Traffic(client, client, max_foreign_lag=10)
    traffic.reload()
    client.xgroup_setid(stream, keys.DISPATCHERS, "5-0")
    assert traffic.trim() == 0
    assert Store(client).counts()["groups_moved"] == 0


def test_many_entries_of_a_dead_dispatcher_are_taken_over(settings: Settings, client: Any) -> None:
    ship(client, *[transition(number, content="hi") for number in range(450)])
    steps = dispatcher(settings, reclaim_every=0, reclaim_idle=0.0)
    stream = keys.traffic("g1")
    client.xgroup_create(stream, keys.DISPATCHERS, id="0")
    client.xreadgroup(keys.DISPATCHERS, "dead", {stream: ">"}, count=1000)
    client.xdel(stream, "7-0")  # trimmed by hand meanwhile
    steps.step(NEVER)
    assert Store(client).counts()["transitions"] == 449
    assert client.xlen(stream) == 0


def test_a_gateway_that_appears_later_is_read(settings: Settings, client: Any) -> None:
    steps = dispatcher(settings, reload_gateways=0)
    steps.step(NEVER)
    ship(client, transition(0))
    steps.step(NEVER)
    assert Store(client).counts()["transitions"] == 1


def test_a_full_redis_is_waited_out(
    settings: Settings, client: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ship(client, transition(0, content="x" * 100_000), vote(1.0, trajectory="traj_a"))
    stop = _StopAfter(8)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    build_dispatcher(settings, QUICK).run(stop)
    assert len([line for line in caplog.messages if "Redis is away" in line]) == 1
    client.config_set("maxmemory", "0")
    time.sleep(0.6)
    build_dispatcher(settings, QUICK).step(NEVER)
    assert Store(client).counts()["transitions"] == 1
    assert not client.exists(keys.QUARANTINE)


class _StopAfter(Event):
    """An event that is set once it was asked for `turns` times."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self._turns = turns

    def is_set(self) -> bool:
        self._turns -= 1
        return self._turns < 0


def test_many_that_are_due_share_jobs_and_no_more_are_asked_for_than_can_be_done(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reconciler.MOST_JOBS", 2)
    store = Store(client)
    count = IN_ONE_JOB + FEW
    for number in range(count):
        store.add_transition(transition(0, trajectory=f"traj_{number}"))
    asks = reconciler(client, ask_again=-1.0)
    assert asks.ask() == count
    assert reward_queue(client).count == 2
    assert asks.ask() == 0
