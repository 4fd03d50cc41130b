"""Lua that the store runs in Redis: several effects in one, whole or not at all.

Of Redis 6.2. Scripts make keys from a tenant's and a trajectory's names
themselves; a cluster would need hash tags, and is not promised.
"""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """A script that is sent once and then named; safe when Redis forgot it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._name = sha1(text.encode()).hexdigest()

    def run_all(self, redis: Any, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Run it with each list of arguments in one round trip; replies in the same order."""
        if not calls:
            return []
        replies = self._send(redis, calls)
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            redis.script_load(self.text)
            again = self._send(redis, [calls[n] for n in unknown])
            for number, reply in zip(unknown, again, strict=True):
                replies[number] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _send(self, redis: Any, calls: Sequence[Sequence[Any]]) -> list[Any]:
        pipe = redis.pipeline(transaction=False)
        for arguments in calls:
            pipe.evalsha(self._name, 0, *arguments)
        replies: list[Any] = pipe.execute(raise_on_error=False)
        return replies
