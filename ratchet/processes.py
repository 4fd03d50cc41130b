"""Child processes: started, watched, restarted, stopped; their lines in one coloured log.

This knows nothing of Ratchet but how it is stopped. Which processes there are is `up.py`'s subject.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from trajectories.signals import stop_on_signals

PR_SET_PDEATHSIG = 1
RESTART_FIRST_SECONDS = 0.5
RESTART_MOST_SECONDS = 30.0
HEALTHY_SECONDS = 30.0  # a process that ran this long starts again without delay

LineSink = Callable[[str, str], None]


def die_with_parent() -> None:
    """In a fresh child on Linux: be terminated when the parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and how long it may take to stop by itself."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 15.0
    ready: Callable[[], bool] | None = None  # polled by wait_ready
    is_group: bool = False  # it starts children of its own that have to go with it


class Child:
    """One process of a supervisor, with its restarts."""

    def __init__(self, spec: ProcessSpec, sink: LineSink) -> None:
        self.spec = spec
        self.restarts = 0
        self._sink = sink
        self._process: subprocess.Popen[str] | None = None
        self._started_at = 0.0
        self._restart_at: float | None = None
        self._delay = RESTART_FIRST_SECONDS

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; its output goes to the sink, line by line."""
        self._process = subprocess.Popen(
            list(self.spec.command),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops in order
        )
        self._started_at = time.monotonic()
        self._restart_at = None
        assert self._process.stdout is not None
        reader = threading.Thread(
            target=self._read,
            args=(self._process.stdout,),
            name=f"log-{self.spec.name}",
            daemon=True,
        )
        reader.start()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._sink(self.spec.name, line.rstrip("\n"))

    def supervise(self) -> None:
        """Start it again when it has ended, with a growing delay."""
        if self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if self._restart_at is None:
            if now - self._started_at > HEALTHY_SECONDS:
                self._delay = RESTART_FIRST_SECONDS
            self._restart_at = now + self._delay
            self._sink(
                self.spec.name,
                f"ended with {self._process.returncode}; starting again in {self._delay:.1f} s",
            )
            self._delay = min(self._delay * 2, RESTART_MOST_SECONDS)
        elif now >= self._restart_at:
            if self.spec.is_group:
                self.signal(signal.SIGKILL)  # what its leader left behind
            self.restarts += 1
            self.start()

    def signal(self, number: int) -> None:
        """Send a signal to the process, or to its whole group."""
        if self._process is None:
            return
        try:
            if self.spec.is_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            pass

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """SIGTERM, its grace, then SIGKILL."""
        if self.is_running:
            self.signal(signal.SIGTERM)
            if not self.wait(self.spec.stop_seconds):
                self._sink(
                    self.spec.name, f"did not stop in {self.spec.stop_seconds:.0f} s: killed"
                )
        # Also after a clean end: a group may outlive its leader.
        if self.spec.is_group or self.is_running:
            self.signal(signal.SIGKILL)
            self.wait(5.0)


class Supervisor:
    """Several children, started in order and stopped in the reverse order."""

    def __init__(self, specs: Sequence[ProcessSpec], sink: LineSink) -> None:
        self.children = [Child(spec, sink) for spec in specs]

    def __getitem__(self, name: str) -> Child:
        return next(child for child in self.children if child.spec.name == name)

    def start(self) -> None:
        for child in self.children:
            child.start()

    def supervise(self) -> None:
        """One look at every child; call it a few times a second."""
        for child in self.children:
            child.supervise()

    def wait_ready(self, seconds: float, stop: threading.Event | None = None) -> list[str]:
        """Wait for every `ready` check; returns the names that are not ready in time."""
        deadline = time.monotonic() + seconds
        waiting = [child for child in self.children if child.spec.ready is not None]
        while waiting and time.monotonic() < deadline and not (stop and stop.is_set()):
            self.supervise()
            waiting = [
                child
                for child in waiting
                if not (child.spec.ready is not None and child.spec.ready())
            ]
            if waiting:
                time.sleep(0.2)
        return [child.spec.name for child in waiting]

    def stop(self) -> None:
        for child in reversed(self.children):
            child.stop()


def file_sink(path: Path) -> LineSink:
    """A sink that appends `name | line` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()

    def write(name: str, line: str) -> None:
        with lock, path.open("a", encoding="utf-8") as log:
            log.write(f"{name:<10} | {line}\n")

    return write


def run_in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one process to its end, and end it on Ctrl-C or SIGTERM; its exit status."""
    stop = stop_on_signals()
    child = subprocess.Popen(command, env={**os.environ, **environment})
    while child.poll() is None:
        if stop.wait(0.1):
            child.terminate()
            child.wait()
    return child.returncode
