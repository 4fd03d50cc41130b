"""The lease: only one trainer per policy, one archiver and one erasure, anywhere.

A Redis key with a token and a time-out. Its value also says which process
holds it, so that one restarted on the same machine after a kill takes
over at once instead of waiting for the time-out. A holder that cannot renew
in time has lost it and must stop before it changes anything.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from redis import Redis, WatchError
from redis.exceptions import RedisError

from trajectories import keys
from trajectories.errors import RatchetError


class LeaseHeld(RatchetError):
    """Another process does this work."""


class LeaseLost(RatchetError):
    """This process may no longer act: its lease ran out or was taken."""


class Lease:
    """Held by at most one `holder` (a trainer, an archiver) under `key`.

    `acquire`, then `renew` well within the TTL.
    """

    def __init__(self, redis: Redis, key: str, holder: str = "trainer") -> None:
        self._redis = redis
        self._key = key
        self._kind = holder
        self._value = orjson.dumps({"token": secrets.token_hex(16), **_here()})
        self._renewed = float("-inf")

    def acquire(self) -> None:
        """Take the lease; raises LeaseHeld, naming the holder."""
        asked = time.monotonic()
        if not self._set(nx=True):
            holder = self._holder()
            if holder is None or not (is_dead(holder) and self._swap(holder)):
                raise LeaseHeld(
                    f"another {self._kind} holds the lease {self._key} ({_describe(holder)}):"
                    " stop it first, or wait for its lease to run out"
                    f" ({keys.LEASE_TTL_SECONDS} s)"
                )
        self._renewed = asked

    def renew(self) -> None:
        """Prolong the lease; raises LeaseLost when somebody else has it by now."""
        asked = time.monotonic()
        holder = self._holder()
        if holder not in (None, self._value) or not self._swap(holder):
            self._renewed = float("-inf")
            raise LeaseLost(f"the lease {self._key} was taken by {_describe(holder)}")
        self._renewed = asked

    def check(self) -> None:
        """Raise LeaseLost unless the last renewal still holds, by this machine's clock."""
        if time.monotonic() - self._renewed >= keys.LEASE_TTL_SECONDS:
            raise LeaseLost(f"the lease {self._key} was not renewed in time")

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        with self._redis.pipeline() as pipe:
            try:
                pipe.watch(self._key)  # type: ignore[no-untyped-call]
                if pipe.get(self._key) == self._value:
                    pipe.multi()
                    pipe.delete(self._key)
                    pipe.execute()
            except WatchError:
                pass
        self._renewed = float("-inf")

    def _holder(self) -> bytes | None:
        found: bytes | None = self._redis.get(self._key)  # type: ignore[assignment]
        return found

    def _set(self, *, nx: bool) -> bool:
        ttl = keys.LEASE_TTL_SECONDS * 1000
        return bool(self._redis.set(self._key, self._value, nx=nx, px=ttl))

    def _swap(self, holder: bytes | None) -> bool:
        """Replace exactly `holder` by us."""
        with self._redis.pipeline() as pipe:
            try:
                pipe.watch(self._key)  # type: ignore[no-untyped-call]
                if pipe.get(self._key) != holder:
                    return False
                pipe.multi()
                pipe.set(self._key, self._value, px=keys.LEASE_TTL_SECONDS * 1000)
                pipe.execute()
                return True
            except WatchError:
                return False


class Renewal:
    """Renews a lease in a thread, so that a long upload does not lose it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._done.wait(keys.LEASE_TTL_SECONDS / 6):
            with suppress(RedisError):  # `check` says when that went on for too long
                try:
                    self._lease.renew()
                except LeaseLost:
                    return


@contextmanager
def hold(redis: Redis, key: str, holder: str, *, poll_seconds: float = 0.2) -> Iterator[Lease]:
    """Hold a lease, renewed, once whoever has it has given it back.

    Raises LeaseLost from `check` only, and RedisError when Redis is away.
    """
    lease = Lease(redis, key, holder)
    while True:
        try:
            lease.acquire()
            break
        except LeaseHeld:
            time.sleep(poll_seconds)
    try:
        with Renewal(lease):
            yield lease
    finally:
        with suppress(RedisError):  # then it runs out
            lease.release()


def is_dead(holder: bytes) -> bool:
    """Whether the holder was a process of this very machine that is gone.

    A container's process ids mean nothing outside it, hence the namespace.
    """
    try:
        there = orjson.loads(holder)
        pid = int(there["pid"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return False
    here = _here()
    if there.get("host") != here["host"] or there.get("namespace") != here["namespace"]:
        return False
    if pid == here["pid"]:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _here() -> dict[str, str | int]:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: one namespace
        namespace = ""
    return {"host": socket.gethostname(), "namespace": namespace, "pid": os.getpid()}


def _describe(holder: bytes | None) -> str:
    if holder is None:
        return "a process that has just gone"
    try:
        there = orjson.loads(holder)
        return f"process {there['pid']} on {there['host']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "an unknown holder"
