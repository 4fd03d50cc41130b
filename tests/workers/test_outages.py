"""From a gateway's spool to a reward, while Redis goes through everything that it goes through.

Rows R1 to R8 of the fault matrix (docs/store.md): real processes, a real
Redis. Whatever happens in the middle, at the end each transition is in its
trajectory once, each trajectory has its reward, and nothing was set aside.
"""

import contextlib
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.workers.conftest import Spawn, wait_for
from tests.workers.redis_server import RedisServer
from tests.workers.spool_feeder import TURNS
from trajectories import keys
from trajectories.store import Store, TrajectoryRef

HERE = Path(__file__).parent
CONVERSATIONS = 60
SECONDS = 2.0


class Proxy:
    """Between the shipper and Redis: passes bytes on, or does not."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "proxy.sock")
        self.url = f"unix://{self.path}"
        self._upstream = str(directory / "redis.sock")
        self.mode = "ok"  # "drop_reply", "blackhole", "reset"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        for found in self._sockets:
            _shut(found)
        for thread in self._threads:
            thread.join(5)
        for found in self._sockets:
            found.close()

    def _start(self, act: Callable[..., None], *given: Any) -> None:
        self._threads.append(threading.Thread(target=act, args=given, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            self._sockets += [client, upstream]
            try:
                upstream.connect(self._upstream)
            except OSError:
                _shut(client)
                continue
            self._start(self._pass, client, upstream, False)
            self._start(self._pass, upstream, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        try:
            while data := source.recv(65_536):
                if self.mode == "reset":
                    break
                if self.mode == "blackhole" or (self.mode == "drop_reply" and is_reply):
                    continue
                target.sendall(data)
        except OSError:
            pass  # the other side is gone
        _shut(source)
        _shut(target)


def _shut(found: socket.socket) -> None:
    with contextlib.suppress(OSError):
        found.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    found = Proxy(server.directory)
    yield found
    found.close()


def kill(server: RedisServer, _: Proxy) -> None:
    for _ in range(2):
        server.kill()
        time.sleep(0.3)
        server.start()
        time.sleep(0.3)


def hang(server: RedisServer, _: Proxy) -> None:
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    server._process.send_signal(signal.SIGCONT)


def through(mode: str) -> Callable[[RedisServer, Proxy], None]:
    def act(_: RedisServer, proxy: Proxy) -> None:
        proxy.mode = mode
        time.sleep(1.2)
        proxy.mode = "ok"

    return act


def fill(server: RedisServer, _: Proxy) -> None:
    with server.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"]) + 50_000)
        time.sleep(1.2)
        redis.config_set("maxmemory", 0)


def roll_back(server: RedisServer, _: Proxy) -> None:
    kept = server.directory / "kept"
    server.kill()
    shutil.copytree(server.directory / "appendonlydir", kept)
    server.start()
    time.sleep(0.6)
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    kept.rename(server.directory / "appendonlydir")
    server.start()


def fill_the_disk(server: RedisServer, _: Proxy) -> None:
    """The append-only file may not grow: what a full disk looks like, without a disk."""
    assert server._process is not None
    (file,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    pid = server._process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size + 4_096, before[1]))
    time.sleep(1.5)
    with server.client() as redis, pytest.raises(ResponseError, match="MISCONF"):
        redis.set("probe", 1)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def flush(server: RedisServer, _: Proxy) -> None:
    with server.client() as redis:
        redis.flushall()


def forbid(server: RedisServer, _: Proxy) -> None:
    """Somebody narrows the rights of the user that everybody here is: NOPERM, then as before."""
    with server.client() as redis:
        redis.execute_command("ACL SETUSER default -@all +acl")
        time.sleep(1.2)
        redis.execute_command("ACL SETUSER default +@all")


def lock_out(server: RedisServer, _: Proxy) -> None:
    """A password that nobody here has, and all connections gone: NOAUTH, then as before."""
    with server.client() as redis:
        redis.config_set("requirepass", "unknown")
        redis.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        time.sleep(1.2)
        redis.config_set("requirepass", "")


def swap_database(server: RedisServer, _: Proxy) -> None:
    """For a while everybody is connected to another, empty database, and writes there."""
    with server.client() as redis:
        redis.swapdb(0, 1)
        time.sleep(1.2)
        redis.swapdb(0, 1)


FAULTS: dict[str, Callable[[RedisServer, Proxy], None]] = {
    "R1 killed": kill,
    "R2 hung": hang,
    "R3 replies lost": through("drop_reply"),
    "R4 black hole": through("blackhole"),
    "R4 reset": through("reset"),
    "R5 memory full": fill,
    "R6 rolled back": roll_back,
    "R7 disk full": fill_the_disk,
    "R8 flushed": flush,
    "R8 not permitted": forbid,
    "R8 locked out": lock_out,
    "R8 another database": swap_database,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_transition_is_stored_once_and_rewarded(
    server: RedisServer, proxy: Proxy, spawn: Spawn, fault: str
) -> None:
    url = proxy.url if fault[:2] in ("R3", "R4") else server.url
    spawn(str(HERE / "quick_dispatcher.py"))
    spawn("-m", "workers", "worker")
    spawn(str(HERE / "spool_feeder.py"), url, str(CONVERSATIONS), str(SECONDS))

    def stored() -> float:
        with server.client() as redis:
            return Store(redis).counts()["transitions"]

    wait_for(lambda: stored() >= CONVERSATIONS, 30)  # a fifth
    FAULTS[fault](server, proxy)
    wait_for(lambda: stored() >= CONVERSATIONS * TURNS, 30)
    with server.client() as redis:
        wait_for(lambda: Store(redis).counts()["labelled"] == CONVERSATIONS, 60)
        check(redis)


def check(redis: Any) -> None:
    store = Store(redis)
    totals = store.counts()
    assert totals["transitions"] == CONVERSATIONS * TURNS
    assert totals["trajectories"] == totals["feedback"] == CONVERSATIONS
    assert totals["quarantined"] == 0
    refs = [TrajectoryRef("default", f"traj_{number}") for number in range(CONVERSATIONS)]
    for found in store.trajectories(refs):
        assert found is not None
        assert [entry.id for entry in found.transitions] == [
            f"tr_{found.id}_{turn}" for turn in range(TURNS)
        ]
        assert found.reward is not None
    wait_for(lambda: not redis.zcard(keys.SCORING), 30)
