"""What a judge may spend for a tenant in a UTC day: calls and tokens."""

from dataclasses import dataclass
from typing import Any

from redis import Redis

from trajectories import keys
from workers.spending import reserve, today
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
        day = today()
        key = keys.judge_spent(self._tenant, self._judge, day)
        limits = {"calls": self._budget.calls, "tokens": self._budget.tokens}
        name = reserve(self._redis, key, {"calls": 1, "tokens": tokens}, limits)
        if name is not None:
            raise NoVerdict("budget", f"{name} of {day} are used up ({limits[name]} a day)")
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
