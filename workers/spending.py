"""Budgets of a UTC day, counted in Redis: nothing is spent that was not reserved before.

Reserved by increments that are taken back when they went over a limit: however
many processes ask at once, no more is ever granted than the budget. What a
killed process had reserved stays spent.
"""

import time
from collections.abc import Mapping
from typing import Any

from redis import Redis

from trajectories import keys


def today() -> str:
    """The UTC day, as `2026-11-28`."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def reserve(
    redis: Redis, key: str, amounts: Mapping[str, int], limits: Mapping[str, int | None]
) -> str | None:
    """Add all `amounts` to `key`; or add nothing, and return the name whose limit is in the way."""
    client: Any = redis
    pipe = client.pipeline(transaction=True)
    for name, amount in amounts.items():
        pipe.hincrby(key, name, amount)
    pipe.expire(key, keys.SPENT_TTL_SECONDS)
    spent = dict(zip(amounts, pipe.execute(), strict=False))
    for name, now in spent.items():
        limit = limits.get(name)
        if limit is not None and now > limit:
            pipe = client.pipeline(transaction=True)
            for other, amount in amounts.items():
                pipe.hincrby(key, other, -amount)
            pipe.execute()
            return name
    return None


def settle(redis: Redis, key: str, differences: Mapping[str, int]) -> None:
    """Put what something really took in the place of what was reserved for it."""
    pipe = redis.pipeline(transaction=True)
    for name, difference in differences.items():
        pipe.hincrby(key, name, difference)
    pipe.expire(key, keys.SPENT_TTL_SECONDS)
    pipe.execute()
