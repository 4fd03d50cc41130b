"""What a judge may spend for a tenant in a UTC day: calls and tokens, counted in Redis.

Everything is reserved before it is spent, by increments that are taken back
when they went over the limit: however many processes ask at once, no more is
ever granted than the budget. What a killed process had reserved stays spent.
"""

import time
from dataclasses import dataclass
from typing import Any

from redis import Redis

from trajectories import keys
from workers.verdicts.opinions import NoVerdict


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a day; None: no limit."""

    calls: int | None
    tokens: int | None


class Purse:
    """One judge's budget for one tenant."""

    def __init__(self, redis: Redis, budget: Budget, *, tenant: str, judge: str) -> None:
        self._redis: Any = redis
        self._budget = budget
        self._tenant = tenant
        self._judge = judge

    def reserve(self, tokens: int) -> str:
        """One call of about `tokens`; returns the day that it counts for.

        Raises NoVerdict `budget` when that would be too much.
        """
        day = time.strftime("%Y-%m-%d", time.gmtime())
        key = keys.judge_spent(self._tenant, self._judge, day)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hincrby(key, "calls", 1)
        pipe.hincrby(key, "tokens", tokens)
        pipe.expire(key, keys.SPENT_TTL_SECONDS)
        calls, spent, _ = pipe.execute()
        for name, now, limit in (
            ("calls", calls, self._budget.calls),
            ("tokens", spent, self._budget.tokens),
        ):
            if limit is not None and now > limit:
                pipe = self._redis.pipeline(transaction=True)
                pipe.hincrby(key, "calls", -1)
                pipe.hincrby(key, "tokens", -tokens)
                pipe.execute()
                raise NoVerdict("budget", f"{name} of {day} are used up ({limit} a day)")
        return day

    def settle(self, day: str, reserved: int, used: int) -> None:
        """Put what a call really took in the place of what was reserved for it."""
        key = keys.judge_spent(self._tenant, self._judge, day)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hincrby(key, "tokens", used - reserved)
        pipe.expire(key, keys.SPENT_TTL_SECONDS)
        totals_key = keys.judge(self._tenant, self._judge)
        pipe.hincrby(totals_key, "calls", 1)
        pipe.hincrby(totals_key, "tokens", used)
        pipe.expire(totals_key, keys.JUDGE_TTL_SECONDS)
        pipe.execute()
