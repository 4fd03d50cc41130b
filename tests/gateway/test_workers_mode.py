"""Several processes behind one port: each with a spool and a stream of its own, none lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import RedisServer, free_port, wait_for
from trajectories import keys
from trajectories.connection import Redis
from trajectories.model import Transition, unpack_record

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "uvicorn": [
        *("uvicorn", "--factory", "gateway.app:app_from_settings", "--workers", "2"),
        *("--http", "gateway.wire.protocol:HotProtocol", "--log-level", "warning"),
    ],
    "gateway": ["gateway"],
}


@contextmanager
def running(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """A server with all its processes; ended as a service manager ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def gateway_of(url: str) -> str | None:
    """Which process answers a new connection."""
    try:
        found: str = httpx2.get(f"{url}/readyz", timeout=5).json()["gateway"]
    except (httpx2.HTTPError, ValueError):
        return None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_answer_and_what_each_recorded_arrives(
    name: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    store = Redis.from_url(redis_server.url)
    with FakeVLLM().serve() as fake:
        environment = {
            "RATCHET_DATA_DIR": str(tmp_path / "ratchet"),
            "RATCHET_REDIS_URL": redis_server.url,
            "RATCHET_UPSTREAM_URL": fake.url,
            "RATCHET_GATEWAY_WORKERS": "2",  # what `python -m gateway` goes by
            "RATCHET_GATEWAY_SPOOL_MB": "64",
        }
        answered: set[str] = set()
        with running(COMMANDS[name], environment, free_port()) as url:
            wait_for(lambda: gateway_of(url), 30)
            gateways: set[str | None] = set()

            def has_seen_both() -> bool:
                # A new connection each time: the kernel gives it to either process.
                with httpx2.Client(base_url=url, timeout=10) as client:
                    answer = client.post(
                        "/v1/chat/completions",
                        json={"model": "policy", "messages": [{"role": "user", "content": "hi"}]},
                    )
                    assert answer.status_code == 200
                    answered.add(answer.headers["x-request-id"])
                    gateways.add(client.get("/readyz").json()["gateway"])
                return len(gateways) == 2

            wait_for(has_seen_both, 30)
            # Whoever is scraped has counted the answers of both.
            recorded = f'ratchet_recorded_total{{kind="transition"}} {len(answered):.1f}'
            for _ in range(10):
                assert recorded in httpx2.get(f"{url}/metrics").text
        # Both were told to stop, and have shipped what they had.
        streams = {gateway.decode() for gateway in store.smembers(keys.GATEWAYS)}
        assert streams == gateways
        found: dict[str, str] = {}
        for gateway in streams:
            for _, entry in store.xrange(keys.traffic(gateway)):
                record = unpack_record(next(iter(entry.values())))
                assert isinstance(record, Transition)
                assert record.gateway == gateway
                found[record.id] = gateway
        assert set(found) == answered
        assert set(found.values()) == streams
    store.close()
