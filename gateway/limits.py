"""What a key may still use, as one process knows it. Pure: time comes in as a number.

Each process keeps buckets of the whole limit and takes out of them what it
lets pass itself and, about twice a second, what it hears that others let pass.
While it hears nothing its buckets are its share of the limit: the limit by the
number of processes last seen. docs/access.md says how far that can be off.
"""

import math

from trajectories.access import NOTHING, KeyRecord, Usage


class Bucket:
    """A token bucket that holds a minute's worth and may go into debt."""

    __slots__ = ("_at", "_capacity", "_level", "_per_minute", "_rate")

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._rate = per_minute / 60
        self._capacity = float(per_minute)
        self._level = self._capacity
        self._at = now

    def wait_seconds(self, now: float) -> float:
        """How long until one can be taken; 0.0 when it can be now."""
        self._refill(now)
        return 0.0 if self._level >= 1 else (1 - self._level) / self._rate

    def take(self, amount: int, now: float) -> None:
        """Take `amount` out, whether or not it is there."""
        self._refill(now)
        self._level -= amount

    def divide(self, parts: int, now: float) -> None:
        """Be one of `parts` equal shares of the limit from now on; 1 is the whole."""
        self._refill(now)
        self._rate = self._per_minute / 60 / parts
        # A share of less than one could never let anything pass.
        self._capacity = max(1.0, self._per_minute / parts)
        self._level = min(self._level, self._capacity)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._capacity, self._level + self._rate * (now - self._at))
            self._at = now


class Meter:
    """One key's use and limits in this process."""

    __slots__ = (
        "_budget",
        "_parts",
        "_request_bucket",
        "_requests",
        "_sent",
        "_token_bucket",
        "_tokens",
        "_total",
    )

    def __init__(self, record: KeyRecord, now: float) -> None:
        requests, tokens = record.requests_per_minute, record.tokens_per_minute
        self._request_bucket = None if requests is None else Bucket(requests, now)
        self._token_bucket = None if tokens is None else Bucket(tokens, now)
        self._budget = record.token_budget
        self._requests = self._tokens = 0  # let pass here and not handed over yet
        self._sent = NOTHING  # handed over, and not confirmed
        self._total: Usage | None = None  # over all processes, as last heard
        self._parts = 1

    def admit(self, now: float, *, is_inference: bool) -> float:
        """Count a request that may pass and return 0.0; else the seconds to wait.

        Infinity means that the token budget is used up. Limits of tokens hold
        inference back, not a vote.
        """
        if is_inference:
            if self._budget is not None and self.is_spent:
                return math.inf
            if self._token_bucket is not None and (wait := self._token_bucket.wait_seconds(now)):
                return wait
        if self._request_bucket is not None:
            if wait := self._request_bucket.wait_seconds(now):
                return wait
            self._request_bucket.take(1, now)
        self._requests += 1
        return 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the token budget, or this process's share of what was left of it, is used up."""
        if self._budget is None:
            return False
        left = self._budget - (self._total or NOTHING).tokens
        return (self._sent.tokens + self._tokens) * self._parts >= left

    def spend(self, tokens: int, now: float) -> None:
        """Count the tokens of an answer."""
        self._tokens += tokens
        if self._token_bucket is not None:
            self._token_bucket.take(tokens, now)

    @property
    def has_news(self) -> bool:
        """Whether something was let pass since `hand_over`."""
        return bool(self._requests or self._tokens)

    def hand_over(self) -> Usage:
        """What to send now; `settle` confirms that it arrived, and until then nothing else goes."""
        self._sent = Usage(self._requests, self._tokens)
        self._requests = self._tokens = 0
        return self._sent

    def settle(self, total: Usage | None, now: float) -> None:
        """What was handed over has arrived, and the total is now `total` (None: not asked for)."""
        known, sent, self._sent = self._total, self._sent, NOTHING
        if total is None:
            return
        self._total = total
        # While every process keeps to its share, there is nothing to make up for.
        if self._parts == 1 and known is not None and total != known:
            others = total.minus(known).minus(sent)
            # Below zero when Redis has lost what it knew.
            if self._request_bucket is not None:
                self._request_bucket.take(max(0, others.requests), now)
            if self._token_bucket is not None:
                self._token_bucket.take(max(0, others.tokens), now)

    def divide(self, parts: int, now: float) -> None:
        """Keep to one of `parts` equal shares of the limits; 1 is the whole."""
        if parts == self._parts:
            return
        self._parts = parts
        for bucket in (self._request_bucket, self._token_bucket):
            if bucket is not None:
                bucket.divide(parts, now)
