"""What siblings of one policy may cost in a UTC day: answers, and tokens of prompts and answers."""

from dataclasses import dataclass

from redis import Redis

from trajectories import keys
from trajectories.settings import SiblingSettings
from workers.spending import reserve, settle, today


@dataclass(frozen=True, slots=True)
class Reserved:
    """One call's part of a day's budget."""

    key: str
    tokens: int


class Purse:
    """One policy's budget."""

    def __init__(self, redis: Redis, policy: str, settings: SiblingSettings) -> None:
        self._redis = redis
        self._policy = policy
        self._limits = {"answers": settings.answers_per_day, "tokens": settings.tokens_per_day}

    def reserve(self, tokens: int) -> Reserved | None:
        """One call of at most `tokens`; None when the day has no room for it."""
        key = keys.siblings_spent(self._policy, today())
        refused = reserve(self._redis, key, {"answers": 1, "tokens": tokens}, self._limits)
        return Reserved(key, tokens) if refused is None else None

    def give_back(self, reserved: Reserved) -> None:
        """A call that was not made after all."""
        settle(self._redis, reserved.key, {"answers": -1, "tokens": -reserved.tokens})

    def settle(self, reserved: Reserved, used: int) -> None:
        """Put what the call took in the place of what was reserved for it."""
        settle(self._redis, reserved.key, {"tokens": used - reserved.tokens})
