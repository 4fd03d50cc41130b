"""How every process learns that it should stop: Ctrl-C or SIGTERM set an event.

Not a plain `threading.Event`: its `set` takes a lock that the thread which the
signal interrupts may hold at that moment, in its own `wait`. A process that was
told twice to stop then never did.
"""

import signal
import threading
import time

LOOK_SECONDS = 0.05


class StopEvent(threading.Event):
    """An event that a signal handler may set, once or many times; it cannot be cleared."""

    def __init__(self) -> None:
        super().__init__()
        self._is_stopping = False

    def set(self) -> None:
        """Takes no lock."""
        self._is_stopping = True

    def is_set(self) -> bool:
        return self._is_stopping

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set, or `timeout` seconds are over; whether it is set."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_stopping:
            remaining = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if remaining <= 0:
                break
            time.sleep(min(LOOK_SECONDS, remaining))
        return self._is_stopping


def stop_on_signals() -> StopEvent:
    """An event that Ctrl-C and SIGTERM set from now on. Call it from the main thread."""
    stop = StopEvent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
