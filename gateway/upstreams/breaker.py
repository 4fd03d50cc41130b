"""The circuit breaker of one address: after enough failures it is left alone for a while.

    closed     calls go; failures are counted
    open       none go, until `open_seconds` have passed
    half open  one call may try: a success closes, a failure opens again

Pure counters, no I/O and no clock: every method is told the time, in monotonic
seconds. What counts as a failure: no connection, a time-out, an answer cut off,
or one of `FAILURE_STATUSES`. A 500 may be the fault of a single request, and a
429 is an answer; neither is held against the address.
"""

from typing import Literal

from trajectories.settings import BreakerSettings

FAILURE_STATUSES = frozenset({502, 503, 504})
_SLOTS = 10

State = Literal["closed", "open", "half_open"]


class Window:
    """Two counts over the last `seconds`: of everything, and of what was marked.

    Kept in ten slots, so that what falls out of the window does so in tenths of it.
    """

    __slots__ = ("_all", "_marked", "_slot", "_width", "marked", "total")

    def __init__(self, seconds: float) -> None:
        self.total = 0
        self.marked = 0
        self._width = seconds / _SLOTS
        self._slot = 0
        self._all = [0] * _SLOTS
        self._marked = [0] * _SLOTS

    def add(self, now: float, *, total: int = 0, marked: int = 0) -> None:
        """Count at `now`; never earlier than the last time."""
        self.turn(now)
        place = self._slot % _SLOTS
        self._all[place] += total
        self._marked[place] += marked
        self.total += total
        self.marked += marked

    def turn(self, now: float) -> None:
        """Let go of what is too old; afterwards `total` and `marked` are those of `now`."""
        slot = int(now / self._width)
        if slot == self._slot:
            return
        for gone in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            place = gone % _SLOTS
            self.total -= self._all[place]
            self.marked -= self._marked[place]
            self._all[place] = self._marked[place] = 0
        self._slot = slot

    def clear(self) -> None:
        """Forget all counts."""
        self.total = self.marked = 0
        self._all = [0] * _SLOTS
        self._marked = [0] * _SLOTS


class Breaker:
    """Of one address. A call is announced by `begin` and ends in exactly one of the others."""

    __slots__ = ("_in_a_row", "_retry_at", "_settings", "_window", "is_held", "state")

    def __init__(self, settings: BreakerSettings) -> None:
        self.state: State = "closed"
        self.is_held = False  # no call may go, whatever the counts say: it has nobody's weights
        self._settings = settings
        self._window = Window(settings.window_seconds)
        self._in_a_row = 0
        self._retry_at = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may go. Changes nothing: ask it of as many addresses as you like."""
        # While half open, `_retry_at` is when a probe that was never heard of again is given up.
        return (self.state == "closed" or now >= self._retry_at) and not self.is_held

    def begin(self, now: float) -> None:
        """A call that `allows` let pass is sent. When open, it is the one that tries."""
        if self.state != "closed":
            self.state = "half_open"
            self._retry_at = now + self._settings.open_seconds

    def succeed(self, now: float) -> None:
        """A call was answered. One sent before the breaker opened does not close it."""
        if self.state == "closed":
            self._in_a_row = 0
            self._window.add(now, total=1)
        elif self.state == "half_open":
            self.state = "closed"
            self._in_a_row = 0
            self._window.clear()

    def fail(self, now: float) -> None:
        """A call failed. One sent before the breaker opened does not keep it open longer."""
        if self.state == "closed":
            self._in_a_row += 1
            self._window.add(now, total=1, marked=1)
            if self._is_too_much():
                self._open(now)
        elif self.state == "half_open":
            self._open(now)

    def withdraw(self, now: float) -> None:
        """A call ended without a verdict: the client hung up. Another may try in its place."""
        if self.state == "half_open":
            self.state = "open"
            self._retry_at = now

    def retry_after(self, now: float) -> float:
        """Seconds until a call may go, 0 when one may now."""
        return 0.0 if self.state == "closed" else max(0.0, self._retry_at - now)

    def _is_too_much(self) -> bool:
        limits, window = self._settings, self._window
        if self._in_a_row >= limits.failures:
            return True
        is_enough = window.total >= limits.minimum_calls
        return is_enough and window.marked >= limits.share * window.total

    def _open(self, now: float) -> None:
        self.state = "open"
        self._retry_at = now + self._settings.open_seconds
