"""Groups of a relative judge: closed trajectories of one task, gathered until there are enough."""

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.errors import RatchetError

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
BUSY_SECONDS = 5.0


class Waiting(RatchetError):
    """It is not time for a verdict yet; ask again at `until` (unix seconds)."""

    def __init__(self, until: float, why: str) -> None:
        super().__init__(why)
        self.until = until


class Group:
    """One group: trajectories that wait to be compared, by when they came."""

    def __init__(self, redis: Redis, *, tenant: str, judge: str, digest: str) -> None:
        self._redis: Any = redis
        self._key = keys.judge_group(tenant, judge, digest)
        self._lock = keys.judge_lock(tenant, judge, digest)

    def join(self, trajectory_id: str, now: float) -> float:
        """Wait with the others; returns since when this one does."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zadd(self._key, {trajectory_id: now}, nx=True)
        pipe.expire(self._key, keys.GROUP_TTL_SECONDS)
        pipe.zscore(self._key, trajectory_id)
        return float(pipe.execute()[-1])

    def members(self) -> list[tuple[str, float]]:
        """Who waits since when, the oldest first."""
        found = self._redis.zrange(self._key, 0, -1, withscores=True)
        return [(member.decode(), float(since)) for member, since in found]

    def leave(self, *trajectory_ids: str) -> None:
        if trajectory_ids:
            self._redis.zrem(self._key, *trajectory_ids)

    @contextmanager
    def alone(self, seconds: float, now: float) -> Iterator[None]:
        """One job at a time compares them; raises Waiting for the others."""
        token = token_hex(8)
        if not self._redis.set(self._lock, token, nx=True, ex=int(seconds) + 1):
            raise Waiting(now + BUSY_SECONDS, "another job compares them")
        try:
            yield
        finally:
            self._redis.eval(_RELEASE, 1, self._lock, token)
