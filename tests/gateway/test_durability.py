"""Real processes, real Redis, real kills: what was acknowledged is never lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import RedisServer, free_port, wait_for
from trajectories import keys
from trajectories.connection import Redis
from trajectories.model import Outcome, Transition, unpack_record

ROOT = Path(__file__).parents[2]


class Gateway:
    """`python -m gateway` as a subprocess."""

    def __init__(self, directory: Path, upstream: str, redis: str, **more: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "RATCHET_DATA_DIR": str(directory),
            "RATCHET_GATEWAY_PORT": str(self.port),
            "RATCHET_UPSTREAM_URL": upstream,
            "RATCHET_REDIS_URL": redis,
            **more,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway"], cwd=ROOT, env=self._environment
        )
        wait_for(self._is_live, 30)

    def _is_live(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the gateway exited"
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx2.HTTPError:
            return False

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(20)


@contextmanager
def gateway(directory: Path, upstream: str, redis: str, **more: str) -> Iterator[Gateway]:
    found = Gateway(directory, upstream, redis, **more)
    found.start()
    try:
        yield found
    finally:
        found.stop(signal.SIGKILL)


class Load:
    """Clients that note each answer they received to its last byte."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.url = url
        self.received: list[str] = []
        self.failures = 0
        self._is_stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        for thread in self._threads:
            thread.join(10)

    def wait_for_more(self, count: int) -> None:
        goal = len(self.received) + count
        wait_for(lambda: len(self.received) >= goal, 30)

    def _run(self, number: int) -> None:
        with httpx2.Client(base_url=self.url, timeout=5) as client:
            while not self._is_stopping.is_set():
                body = {
                    "model": "policy",
                    "messages": [{"role": "user", "content": "hi"}],
                    "stream": number % 2 == 0,
                }
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                except httpx2.HTTPError:
                    self.failures += 1
                    time.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    self.received.append(answer.headers["x-request-id"])
                else:
                    self.failures += 1


def shipped(redis_url: str) -> list[Transition]:
    """Every transition in every stream of Redis, in stream order."""
    found: list[Transition] = []
    with Redis.from_url(redis_url) as client:
        for producer in client.smembers(keys.GATEWAYS):
            for _, fields in client.xrange(keys.traffic(producer.decode())):
                record = unpack_record(fields[b"r"])
                assert isinstance(record, Transition)
                found.append(record)
    return found


def assert_nothing_lost(redis_url: str, received: list[str]) -> None:
    wait_for(lambda: set(received) <= {record.id for record in shipped(redis_url)}, 15)
    ids = [record.id for record in shipped(redis_url)]
    assert len(ids) == len(set(ids)), "something was shipped twice"


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with FakeVLLM().serve() as found:
        yield found


def test_a_killed_gateway_loses_nothing_it_acknowledged(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    with gateway(tmp_path / "d", fake.url, redis_server.url) as served:
        with Load(served.url) as load:
            wait_for(lambda: len(load.received) > 40, 30)
            served.stop(signal.SIGKILL)
            before = len(load.received)
            served.start()
            wait_for(lambda: len(load.received) > before + 20, 30)
        assert_nothing_lost(redis_server.url, load.received)


def test_redis_killed_and_restarted_under_load_costs_no_answer_and_no_record(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    with gateway(tmp_path / "d", fake.url, redis_server.url) as served:
        with Load(served.url) as load:
            for _ in range(2):
                load.wait_for_more(25)
                redis_server.kill()
                load.wait_for_more(25)
                redis_server.start()
        assert load.failures == 0
        assert_nothing_lost(redis_server.url, load.received)


def test_a_hung_redis_makes_no_request_wait(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    assert redis_server.process is not None
    with gateway(tmp_path / "d", fake.url, redis_server.url) as served:
        redis_server.process.send_signal(signal.SIGSTOP)
        try:
            with Load(served.url, clients=2) as load:
                wait_for(lambda: len(load.received) > 30, 20)
            assert load.failures == 0
        finally:
            redis_server.process.send_signal(signal.SIGCONT)
        assert_nothing_lost(redis_server.url, load.received)


def test_a_stopping_gateway_lets_open_streams_end(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    fake.chunk_seconds = 0.1
    with gateway(tmp_path / "d", fake.url, redis_server.url) as served:
        body = {"model": "policy", "stream": True, "messages": []}
        answers: list[bytes] = []

        def stream() -> None:
            answers.append(
                httpx2.post(f"{served.url}/v1/chat/completions", json=body, timeout=20).content
            )

        threads = [threading.Thread(target=stream) for _ in range(10)]
        for thread in threads:
            thread.start()
        wait_for(lambda: fake.running == 10, 10)
        assert served.stop() in (0, -signal.SIGTERM, 143)
        for thread in threads:
            thread.join(10)
    assert [answer.endswith(b"data: [DONE]\n\n") for answer in answers] == [True] * 10
    assert len(shipped(redis_server.url)) == 10


def test_a_stream_beyond_the_grace_gets_an_error_event_and_is_incomplete(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    fake.hold()
    short = {"RATCHET_GATEWAY_SHUTDOWN_SECONDS": "1"}
    with gateway(tmp_path / "d", fake.url, redis_server.url, **short) as served:
        body = {"model": "policy", "stream": True, "messages": []}
        with httpx2.stream("POST", f"{served.url}/v1/chat/completions", json=body) as answer:
            parts = answer.iter_raw()
            next(parts)
            assert served.process is not None
            served.process.send_signal(signal.SIGTERM)
            rest = b"".join(parts)
        assert b'"error"' in rest
        assert b"[DONE]" not in rest
        served.process.wait(10)
    (record,) = shipped(redis_server.url)
    assert record.outcome == Outcome.INCOMPLETE


def test_required_durability_answers_503_before_the_engine_is_asked(
    tmp_path: Path, fake: FakeVLLM
) -> None:
    more = {"RATCHET_GATEWAY_SPOOL_MB": "1", "RATCHET_GATEWAY_DURABILITY": "required"}
    with gateway(tmp_path / "d", fake.url, "redis://127.0.0.1:9/0", **more) as served:
        body = {"model": "policy", "messages": [{"role": "user", "content": "x" * 100_000}]}
        codes = [
            httpx2.post(f"{served.url}/v1/chat/completions", json=body).status_code
            for _ in range(14)
        ]
    assert codes[0] == 200
    assert codes[-1] == 503
    assert len(fake.requests) < 14


def test_a_wrong_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    wrong = {**os.environ, "RATCHET_GATEWAY_PORT": "many"}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=wrong, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("wrong settings: gateway.port")
