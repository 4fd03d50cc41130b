"""Ratchet as the benchmark runs it: key, alias, spool and a real Redis, and a count of records.

Nobody consumes the traffic here, so a thread trims what has arrived and counts
it. A figure without recording would be a lie: `settle` waits until each call
that was answered is in Redis, and fails when one is missing.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.gateway_bench.compiling import ROOT
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.peers import KEY, Launch
from benchmarks.gateway_bench.running import Running, started
from ratchet.redis_server import EmbeddedRedis, find_server
from trajectories import keys
from trajectories.connection import Redis, RedisError, connect
from trajectories.settings import RedisSettings, Settings

TRIM_SECONDS = 0.25
RECORD_SECONDS = 60.0

# `ratchet-relay`: the same upstream, but as one that is not ours and is asked for no ids, so that
# of a JSON answer both ends see the very bytes that they see of the other gateways.
_RELAY = """\
[upstreams.other]
url = "{upstream}"

[routes.policy]
upstream = "other"
model = "base"
"""


class Consumer:
    """Stands in for the dispatcher: takes what arrived off the streams, and counts it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._count = 0
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        self._thread.start()

    def count(self) -> int:
        """Records that have arrived since the start."""
        with self._lock:
            for producer in self._redis.smembers(keys.GATEWAYS):
                stream = keys.traffic(cast(bytes, producer).decode())
                self._count += int(self._redis.xtrim(stream, maxlen=0, approximate=False))
            return self._count

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping.wait(TRIM_SECONDS):
            try:
                self.count()
            except RedisError as error:
                sys.stderr.write(f"cannot trim the traffic: {error}\n")


@dataclass
class Ratchet(Running):
    """The gateway with what counts its records."""

    consumer: Consumer | None = None
    answered: int = 0
    patience_seconds: float = RECORD_SECONDS

    def settle(self, requests: int) -> None:
        """Wait until every answered call is in Redis. Raises BenchmarkError if one is missing."""
        assert self.consumer is not None
        self.answered += requests
        deadline = time.monotonic() + self.patience_seconds
        while (found := self.consumer.count()) < self.answered and time.monotonic() < deadline:
            time.sleep(0.05)
        if found != self.answered:
            raise BenchmarkError(
                f"Redis got {found} records of {self.answered} answered calls:"
                " without recording the figures would mean nothing"
            )


def launch(
    name: str = "ratchet",
    *,
    port: int,
    upstream_port: int,
    folder: Path,
    redis_url: str,
    packages: Path = ROOT,
) -> Launch:
    """`python -m gateway` with everything on, out of `packages`."""
    upstream = f"http://127.0.0.1:{upstream_port}"
    return Launch(
        (sys.executable, "-m", "gateway", "--host", "127.0.0.1", "--port", str(port)),
        environment={
            "PYTHONPATH": os.pathsep.join(map(str, (packages, ROOT))),
            "RATCHET_CONFIG": str(folder / "ratchet.toml"),
            "RATCHET_DATA_DIR": str(folder / "data"),
            "RATCHET_REDIS_URL": redis_url,
            "RATCHET_UPSTREAM_URL": upstream,
            "RATCHET_UPSTREAM_BASE_MODEL": "base",
            "RATCHET_GATEWAY_API_KEY": KEY,
            "RATCHET_GATEWAY_ALIASES": json.dumps(["policy"]),
        },
        files={"ratchet.toml": _RELAY.format(upstream=upstream) if name != "ratchet" else ""},
        model="policy",
    )


def versions(packages: Path = ROOT) -> dict[str, str]:
    """Of Ratchet, with the commit where there is one, and of the Redis beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    kind = "plain Python" if packages == ROOT else "compiled"
    server = re.search(r"v=([0-9.]+)", _said(find_server(), "--version"))
    return {
        "ratchet": f"{project} ({', '.join(filter(None, (commit.strip(), kind)))})",
        "Redis": server[1] if server else "unknown",
    }


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextmanager
def ratchet(
    name: str = "ratchet",
    *,
    port: int,
    upstream_port: int,
    folder: Path,
    packages: Path = ROOT,
) -> Iterator[Ratchet]:
    """One of our lines and its Redis, running."""
    patient = RedisSettings(timeout_seconds=5)
    server = EmbeddedRedis(Settings(data_dir=folder, redis=patient))
    server.start()
    try:
        client = connect(server.settings, blocking_seconds=10)
        consumer = Consumer(client)
        plan = launch(
            name,
            port=port,
            upstream_port=upstream_port,
            folder=folder,
            redis_url=server.settings.url,
            packages=packages,
        )
        with started(name, plan, port=port, folder=folder) as running:
            try:
                yield Ratchet(name, port, plan, running.server, consumer)
            finally:
                consumer.stop()
                client.close()
    finally:
        server.stop()
