"""One way to open Redis, with the settings that keep a hang from spreading.

redis-py retries ten times by default; under lost replies that turned ten
writes into ten duplicates, and against a black hole it still hung after 12 s.
So: no retries here, short time-outs, and the caller decides what to do again.
"""

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from trajectories.settings import RedisSettings

__all__ = ["AsyncRedis", "Redis", "RedisError", "connect", "connect_async"]


def connect(settings: RedisSettings, *, blocking_seconds: float = 0) -> Redis:
    """A client for `settings.url` (redis://, rediss:// or unix://).

    `blocking_seconds` is how long blocking reads may take on top of the
    time-out; use a client of its own for them. Does not connect yet.
    """
    retry = Retry(NoBackoff(), 0)
    return Redis.from_url(settings.url, retry=retry, **_patience(settings, blocking_seconds))


def connect_async(settings: RedisSettings, *, blocking_seconds: float = 0) -> AsyncRedis:
    """The same for an event loop."""
    retry = AsyncRetry(NoBackoff(), 0)
    return AsyncRedis.from_url(settings.url, retry=retry, **_patience(settings, blocking_seconds))


def _patience(settings: RedisSettings, blocking_seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": settings.timeout_seconds + blocking_seconds,
        "socket_connect_timeout": settings.timeout_seconds,
        "health_check_interval": 0,
    }
