"""How much may be tried again: a share of what is sent, so that retries never become the load.

When an upstream is in trouble every call wants a second try at once. Of all
requests of the last ten seconds at most a fifth may be retries, but three are
always free. Pure: every method is told the time, in monotonic seconds.
"""

from gateway.upstreams.breaker import Window


class RetryBudget:
    """Of one gateway process. What it refuses is counted in `refused`."""

    __slots__ = ("_minimum", "_share", "_window", "refused")

    def __init__(self, share: float = 0.2, minimum: int = 3, window_seconds: float = 10) -> None:
        self.refused = 0
        self._share = share
        self._minimum = minimum
        self._window = Window(window_seconds)

    def count(self, now: float) -> None:
        """A client's request was sent upstream for the first time."""
        self._window.add(now, total=1)

    def allow(self, now: float) -> bool:
        """Whether one more retry is within the budget; if so, it is spent."""
        window = self._window
        window.turn(now)
        if window.marked + 1 > max(self._minimum, self._share * window.total):
            self.refused += 1
            return False
        window.add(now, marked=1)
        return True
