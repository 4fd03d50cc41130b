"""Stopping: a process that is told to stop does, however often it is told."""

import signal
import subprocess
import sys
import time

PROGRAM = """
from trajectories.signals import stop_on_signals
stop = stop_on_signals()
print("up", flush=True)
while not stop.wait(0.001):
    pass
print("stopped", flush=True)
"""


def test_a_storm_of_signals_stops_a_waiting_process() -> None:
    """With a plain Event the second signal could find the lock held by the first."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        for _ in range(200):
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGINT)
        try:
            said, _ = child.communicate(timeout=20)
        finally:
            child.kill()
    assert said == "stopped\n"


def test_waiting_ends_in_time_and_says_whether_it_is_set() -> None:
    from trajectories.signals import StopEvent

    stop = StopEvent()
    started = time.monotonic()
    assert stop.wait(0.02) is False
    assert time.monotonic() - started >= 0.02
    stop.set()
    assert stop.wait() is True
    assert stop.is_set()
