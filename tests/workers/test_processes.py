"""The two processes against a real Redis: what is killed, flushed or poisoned costs no reward."""

import os
import signal
import time
from itertools import count
from pathlib import Path
from subprocess import PIPE
from threading import Event, Timer
from typing import Any

import pytest

from tests.workers.conftest import Spawn, wait_for
from tests.workers.records import transition, vote
from tests.workers.redis_server import RedisServer
from trajectories import keys
from trajectories.model import Feedback, Transition, pack_record
from trajectories.settings import RedisSettings, Settings
from trajectories.store import Store, TrajectoryRef
from workers.worker import build_worker, run_worker

HERE = Path(__file__).parent
QUICK_DISPATCHER = str(HERE / "quick_dispatcher.py")
SLOW_WORKER = str(HERE / "slow_worker.py")
REF = TrajectoryRef("default", "traj_a")
ANSWER = "chatcmpl-traj_a-0"


def ship(redis: Any, *records: Transition | Feedback | bytes, first: int = 1) -> None:
    """Put records on a gateway's stream as its shipper does."""
    redis.sadd(keys.GATEWAYS, "g1")
    for sequence, record in enumerate(records, first):
        payload = record if isinstance(record, bytes) else pack_record(record)
        redis.xadd(keys.traffic("g1"), {"r": payload}, id=f"{sequence}-0")


def reward(server: RedisServer) -> float | None:
    with server.client() as redis:
        found = Store(redis).trajectory(REF)
        return found.reward if found else None


def counts(server: RedisServer) -> dict[str, float]:
    with server.client() as redis:
        return Store(redis).counts()


def test_a_transition_and_a_vote_become_a_reward(server: RedisServer, spawn: Spawn) -> None:
    spawn("-m", "workers", "dispatcher")
    spawn("-m", "workers", "worker")
    with server.client() as redis:
        ship(redis, vote(0.5, response=ANSWER), transition(0, content="hi"))
        assert wait_for(lambda: reward(server)) == 0.5
        assert not redis.zcard(keys.SCORING)
        wait_for(lambda: redis.xlen(keys.traffic("g1")) == 0)
    assert counts(server)["labelled"] == 1


def test_both_processes_leave_quickly_on_sigterm(server: RedisServer, spawn: Spawn) -> None:
    processes = [spawn("-m", "workers", name) for name in ("dispatcher", "worker")]
    with server.client() as redis:
        wait_for(lambda: redis.scard("rq:workers"))
    time.sleep(0.5)
    for process in processes:
        process.terminate()
    assert [process.wait(10) for process in processes] == [0, 0]


def test_a_worker_that_waits_for_jobs_is_more_patient_than_redis_settings_are(
    redis_settings: RedisSettings,
) -> None:
    worker = build_worker(Settings(redis=redis_settings))
    pool = worker.connection.connection_pool
    waiting = pool.get_connection()
    assert waiting.socket_timeout > worker.dequeue_timeout
    pool.release(waiting)
    worker.connection.close()


def test_a_worker_finishes_its_job_on_sigterm(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    spawn(QUICK_DISPATCHER)
    worker = spawn(SLOW_WORKER)
    with server.client() as redis:
        ship(redis, transition(0, content="hi"), vote(1.0, response=ANSWER))
    wait_for((tmp_path / "scoring-now").exists)
    worker.terminate()
    (tmp_path / "quick").touch()
    assert worker.wait(10) == 0
    assert reward(server) == 1.0


def test_a_worker_killed_in_a_job_costs_no_reward_and_doubles_none(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    spawn(QUICK_DISPATCHER)
    worker = spawn(SLOW_WORKER, "short")
    with server.client() as redis:
        ship(redis, transition(0, content="hi"), vote(1.0, response=ANSWER))
    wait_for((tmp_path / "scoring-now").exists)
    worker.send_signal(signal.SIGKILL)
    (tmp_path / "quick").touch()
    spawn(SLOW_WORKER, "short")
    assert wait_for(lambda: reward(server)) == 1.0
    totals = counts(server)
    assert (totals["rewarded"], totals["labelled"], totals["reward_sum"]) == (1, 1, 1.0)
    with server.client() as redis:
        assert redis.hlen(keys.rewards_of("default", "traj_a")) == 1


def test_a_worker_killed_in_a_job_of_many_costs_no_reward_and_doubles_none(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    names = [f"traj_{number}" for number in range(30)]
    with server.client() as redis:
        ship(redis, *[transition(0, trajectory=name, content="hi") for name in names])
        ship(redis, *[vote(1.0, trajectory=name) for name in names], first=31)
        spawn(QUICK_DISPATCHER)
        wait_for(lambda: redis.llen("rq:queue:rewards"))
    worker = spawn(SLOW_WORKER, "short")
    wait_for((tmp_path / "scoring-now").exists)
    worker.send_signal(signal.SIGKILL)
    (tmp_path / "quick").touch()
    spawn(SLOW_WORKER, "short")
    wait_for(lambda: counts(server)["rewarded"] == 30, 40)
    totals = counts(server)
    assert (totals["labelled"], totals["reward_sum"]) == (30, 30.0)


@pytest.mark.skipif(not os.environ.get("SLOW_TESTS"), reason="takes a minute")
def test_with_the_real_constants_the_reward_is_there_within_75_seconds(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    spawn("-m", "workers", "dispatcher")
    worker = spawn(SLOW_WORKER)
    with server.client() as redis:
        ship(redis, transition(0, content="hi"), vote(1.0, response=ANSWER))
    wait_for((tmp_path / "scoring-now").exists)
    worker.send_signal(signal.SIGKILL)
    spawn("-m", "workers", "worker")
    assert wait_for(lambda: reward(server), 75) == 1.0
    assert counts(server)["rewarded"] == 1


def test_a_dispatcher_killed_between_effect_and_acknowledgement_doubles_nothing(
    server: RedisServer, spawn: Spawn
) -> None:
    with server.client() as redis:
        ship(redis, transition(0, content="hi"), transition(1, content="ho"))
        ship(redis, vote(1.0, response=ANSWER), first=3)
    assert spawn(QUICK_DISPATCHER, "dying").wait(20) == -signal.SIGKILL
    assert counts(server)["transitions"] == 2, "the effect came before the kill"
    spawn(QUICK_DISPATCHER)
    spawn("-m", "workers", "worker")
    with server.client() as redis:
        wait_for(lambda: redis.xlen(keys.traffic("g1")) == 0)
        assert redis.xpending(keys.traffic("g1"), keys.DISPATCHERS)["pending"] == 0
    assert wait_for(lambda: reward(server)) == 1.0
    totals = counts(server)
    assert (totals["transitions"], totals["trajectories"], totals["feedback"]) == (2, 1, 1)


def test_a_database_that_is_not_there_is_said_once_and_waited_for(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Event()
    settings = Settings(redis=RedisSettings(url=f"{server.url}?db=99"))
    timer = Timer(1.0, stop.set)
    timer.start()
    run_worker(settings, stop)
    timer.join()
    assert [record.getMessage() for record in caplog.records].count(
        "Redis is away, waiting: DB index is out of range"
    ) == 1


def test_redis_killed_and_started_again_is_waited_out(server: RedisServer, spawn: Spawn) -> None:
    processes = [spawn(QUICK_DISPATCHER), spawn("-m", "workers", "worker")]
    with server.client() as redis:
        ship(redis, transition(0, content="hi"))
        wait_for(lambda: counts(server)["transitions"] == 1)
    server.kill()
    time.sleep(1.0)
    server.start()
    with server.client() as redis:
        ship(redis, vote(-0.5, response=ANSWER), first=2)
    assert wait_for(lambda: reward(server)) == -0.5
    assert counts(server)["transitions"] == 1
    assert [process.poll() for process in processes] == [None, None]


def test_a_flushed_redis_gets_its_groups_back(server: RedisServer, spawn: Spawn) -> None:
    spawn(QUICK_DISPATCHER)
    with server.client() as redis:
        ship(redis, transition(0, content="hi"))
        wait_for(lambda: counts(server)["transitions"] == 1)
        redis.flushall()
        time.sleep(0.5)
        ship(redis, transition(0, content="hi"), transition(1, content="ho"))
        wait_for(lambda: counts(server)["transitions"] == 2)


def test_a_record_that_is_none_is_set_aside_and_the_others_go_on(
    server: RedisServer, spawn: Spawn
) -> None:
    nowhere = vote(1.0, response=ANSWER).model_copy(update={"response_id": None})
    bad = [b"", b"x{}", b"t{", b"t{}", b"t[1]", b"f\xff", pack_record(nowhere)]
    process = spawn(QUICK_DISPATCHER)
    with server.client() as redis:
        ship(redis, *bad, transition(0, content="hi"))
        redis.xadd(keys.traffic("g1"), {"other": "field"}, id="99-0")
        wait_for(lambda: counts(server)["transitions"] == 1)
        wait_for(lambda: redis.xlen(keys.traffic("g1")) == 0)
        aside = redis.xrange(keys.QUARANTINE)
        assert [fields[b"r"] for _, fields in aside] == [*bad, b""]
        assert all(b"RecordError" in fields[b"reason"] for _, fields in aside)
        assert counts(server)["quarantined"] == 8
    assert process.poll() is None


def test_a_worker_killed_at_each_word_with_redis_costs_no_reward_and_doubles_none(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    spawn(QUICK_DISPATCHER)
    workers = spawn(str(HERE / "mortal_worker.py"), stdin=PIPE, stdout=PIPE)
    assert workers.stdin is not None
    assert workers.stdout is not None
    shipped = 0
    with server.client() as redis:
        for event in count(1):
            name = f"traj_{event}"
            ship(redis, transition(0, trajectory=name, content="hi"), first=shipped + 1)
            ship(redis, vote(1.0, trajectory=name), first=shipped + 2)
            shipped += 2
            wait_for(lambda: redis.llen("rq:queue:rewards"))
            workers.stdin.write(b"%d\n" % event)
            workers.stdin.flush()
            if int(workers.stdout.readline()) == 0:
                break
    assert event > 20, "it said too little to be killed in between"
    workers.communicate()
    spawn(SLOW_WORKER, "short")
    (tmp_path / "quick").touch()
    wait_for(lambda: counts(server)["rewarded"] == event, 60)
    totals = counts(server)
    assert (totals["labelled"], totals["reward_sum"]) == (event, event)
    with server.client() as redis:
        for number in range(1, event + 1):
            assert redis.hlen(keys.rewards_of("default", f"traj_{number}")) == 1
