"""How often the dispatcher does what, and how long it waits. Tests use shorter ones."""

from dataclasses import dataclass
from time import monotonic

from trajectories.queues import JOB_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds. The defaults bring a reward within 75 s of a killed worker."""

    block: float = 0.5  # one blocking read
    reload_gateways: float = 3.0
    reclaim_every: float = 5.0
    reclaim_idle: float = 15.0  # entries of a dead dispatcher are taken over after this
    trim_every: float = 2.0
    debounce: float = 1.0  # changes of one trajectory within this cost one job
    settle: float = 4.0  # and of one that only goes on, within this more
    job_timeout: int = JOB_TIMEOUT_SECONDS
    ask_again: float = 2.0 * JOB_TIMEOUT_SECONDS  # a job that is gone by then was lost
    ask_again_failed: float = 600.0  # scoring that failed for good is tried this seldom
    close_every: float = 1.0
    close_for: float = 0.5  # of one turn; what is idle then is closed in the next
    expire_every: float = 15.0
    learn_every: float = 2.0  # whether there is enough for a dictionary
    longest_wait: float = 5.0  # between attempts while Redis is away


class Timer:
    """Says when something is due again; due at once the first time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def is_due(self) -> bool:
        """True once every `seconds`."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
