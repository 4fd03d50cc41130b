"""The verdict process: whole, killed, refused and raced; against a real Redis."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.fakes.answering import Answer, AnsweringServer, completion
from tests.workers.conftest import ROOT, Spawn, wait_for
from tests.workers.records import transition
from tests.workers.redis_server import RedisServer
from trajectories import keys
from trajectories.connection import connect
from trajectories.model import pack_record
from trajectories.queues import (
    VERDICT_QUEUE,
    SafeJob,
    enqueue_verdict,
    verdict_job_id,
    verdict_queue,
)
from trajectories.settings import RedisSettings, Settings, WebhookSettings, load_settings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import NotConfigured
from workers.verdicts.budget import Budget, Purse
from workers.verdicts.desk import VerdictDesk
from workers.verdicts.jobs import calibrate_judge, give_verdict
from workers.verdicts.opinions import NoVerdict
from workers.verdicts.worker import run_verdict_worker

REF = TrajectoryRef("default", "traj_a")
ASK = f"helpful {REF}"
QUICK_DISPATCHER = str(ROOT / "tests/workers/quick_dispatcher.py")
Serve = Callable[[Answer], AnsweringServer]


def judge_file(directory: Path, url: str, more: str = "") -> None:
    """A ratchet.toml with one judge, for processes that start in `directory`."""
    (directory / "ratchet.toml").write_text(
        f'[judges.helpful]\nmodel = "m"\nurl = "{url}"\ntimeout_seconds = 2\n{more}'
        "[rewards]\nlabel_window_seconds = 0.5\n"
    )


def ship(redis: Any) -> None:
    """One call on a gateway's stream."""
    redis.sadd(keys.GATEWAYS, "g1")
    redis.xadd(keys.traffic("g1"), {"r": pack_record(transition(0, content="hi"))}, id="1-0")


def reward(redis: Any) -> float | None:
    found = Store(redis).trajectory(REF)
    return found.reward if found else None


def good(asked: Any) -> Any:
    return completion({"reason": "", "score": 10})


def test_from_the_stream_to_a_judges_reward(
    server: RedisServer, spawn: Spawn, serve: Serve, tmp_path: Path
) -> None:
    judge_file(tmp_path, serve(good).url)
    spawn(QUICK_DISPATCHER)
    spawn("-m", "workers", "worker")
    process = spawn("-m", "workers", "verdicts")
    with server.client() as redis:
        ship(redis)
        assert wait_for(lambda: reward(redis), 30) == 1.0
        wait_for(lambda: redis.zcard(keys.VERDICTS) == 0)
        assert redis.hlen(keys.rewards_of("default", "traj_a")) == 1
    process.terminate()
    assert process.wait(15) == 0


def test_a_verdict_worker_killed_in_a_job_costs_no_verdict_and_doubles_none(
    server: RedisServer, spawn: Spawn, serve: Serve, tmp_path: Path, settings: Settings
) -> None:
    judge = serve(lambda asked: "hang")
    judge_file(tmp_path, judge.url)
    with server.client() as redis:
        store = Store(redis)
        store.add_transition(transition(0, content="hi"))
        store.close(REF)
        store.ask_verdicts(REF, ["helpful"], time.time())
        desk = VerdictDesk(redis, store, load_settings())
        assert desk.ask() == 1
        process = spawn("-m", "workers", "verdicts")
        wait_for(lambda: judge.asked, 20)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        judge.answer = good
        redis.zadd(keys.VERDICTS, {ASK: time.time()})  # as if its time had come again
        job = SafeJob.fetch(verdict_job_id(ASK), redis)
        redis.zadd("rq:wip:verdicts", {f"{job.id}:x": time.time() - 1})
        redis.zremrangebyscore("rq:wip:verdicts", time.time(), "+inf")
        again = VerdictDesk(redis, store, load_settings())
        assert again.ask() == 1, "the job was lost"
        spawn("-m", "workers", "verdicts")
        wait_for(lambda: redis.zcard(keys.VERDICTS) == 0, 20)
        votes = store.votes_of(REF)
        assert [found.reward for found in votes] == [1.0]
        state = store.verdict_states(REF)["helpful"]
        assert (state.state, state.attempts) == ("given", 2)


@pytest.fixture
def signals() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.usefixtures("signals")
def test_a_stranger_cannot_have_the_verdict_worker_run_something_else(
    settings: Settings, tmp_path: Path
) -> None:
    redis = connect(settings.redis)
    touched = tmp_path / "touched"
    queue = verdict_queue(redis, 30)
    queue.enqueue("os.system", f"touch {touched}", failure_ttl=60)
    run_verdict_worker(settings, Event(), is_burst=True)
    assert not touched.exists()


@pytest.mark.usefixtures("signals")
def test_an_ask_for_a_judge_that_is_no_more_is_dropped(settings: Settings) -> None:
    redis = connect(settings.redis)
    store = Store(redis)
    store.add_transition(transition(0, content="hi"))
    store.close(REF)
    store.ask_verdicts(REF, ["helpful"], time.time())
    enqueue_verdict(verdict_queue(redis, 30), ASK)
    run_verdict_worker(settings, Event(), is_burst=True)
    assert redis.zcard(keys.VERDICTS) == 0


@pytest.mark.parametrize("job", [give_verdict, calibrate_judge])
def test_the_jobs_run_nowhere_but_in_their_worker(job: Callable[[str], None]) -> None:
    with pytest.raises(NotConfigured):
        job(ASK)


def test_an_ask_gets_one_job_however_often_it_is_due(
    server: RedisServer, settings: Settings
) -> None:
    hook = WebhookSettings(url="http://127.0.0.1:9", secret="s")
    settings = settings.model_copy(update={"webhooks": {"helpful": hook}})
    with server.client() as redis:
        store = Store(redis)
        store.ask_verdicts(REF, ["helpful"], time.time())
        assert VerdictDesk(redis, store, settings).ask() == 1
        redis.zadd(keys.VERDICTS, {ASK: time.time()})
        assert VerdictDesk(redis, store, settings).ask() == 0, "its job waits"
        assert redis.llen(f"rq:queue:{VERDICT_QUEUE}") == 1
        redis.delete(f"rq:queue:{VERDICT_QUEUE}")
        redis.zadd(keys.VERDICTS, {ASK: time.time()})
        assert VerdictDesk(redis, store, settings).ask() == 1, "it was lost"


def test_asks_that_nobody_takes_do_not_pile_up(server: RedisServer, settings: Settings) -> None:
    with server.client() as redis:
        store = Store(redis)
        store.ask_verdicts(REF, ["gone"], time.time() - keys.TRAJECTORY_TTL_SECONDS - 1)
        store.ask_verdicts(REF, ["helpful"], time.time())
        assert not settings.verdict_sources
        assert VerdictDesk(redis, store, settings).ask() == 0
        assert redis.zrange(keys.VERDICTS, 0, -1) == [ASK.encode()]


def test_an_ask_that_came_during_a_verdict_is_not_taken_back(server: RedisServer) -> None:
    with server.client() as redis:
        store = Store(redis)
        store.ask_verdicts(REF, ["helpful"], time.time())
        store.claim_verdicts(time.time() + 1, time.time() + 60)
        due = store.verdict_due("helpful", REF)
        assert due is not None
        store.ask_verdicts(REF, ["helpful"], time.time())
        store.settle_verdict("helpful", REF, due)
        assert redis.zcard(keys.VERDICTS) == 1
        again = store.verdict_due("helpful", REF)
        assert again is not None
        store.settle_verdict("helpful", REF, again)
        assert redis.zcard(keys.VERDICTS) == 0


def spend(url: str, tries: int, results: Any) -> None:
    """Reserve as often as allowed; in a process of its own."""
    redis = connect(RedisSettings(url=url, timeout_seconds=5))
    purse = Purse(redis, Budget(calls=100, tokens=None), tenant="default", judge="j")
    granted = 0
    for _ in range(tries):
        try:
            purse.reserve(10)
            granted += 1
        except NoVerdict:
            pass
    results.put((os.getpid(), granted))


def test_two_processes_never_spend_more_than_the_budget(server: RedisServer) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=spend, args=(server.url, 90, results)) for _ in range(2)]
    for racer in racers:
        racer.start()
    granted = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join(20)
    assert sum(granted.values()) == 100
    assert min(granted.values()) > 0
    day = time.strftime("%Y-%m-%d", time.gmtime())
    with server.client() as redis:
        spent = redis.hgetall(keys.judge_spent("default", "j", day))
        assert spent == {b"calls": b"100", b"tokens": b"1000"}
