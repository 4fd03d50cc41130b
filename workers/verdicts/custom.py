"""A reward by a Python function of an installed package, run where it can do no harm.

The function is found by its entry point in the group `ratchet.rewards`:

    def reward(trajectory: Trajectory) -> float | Mapping[str, float] | list | None

It runs in a process of its own, kept for the next trajectory: an alarm in this
process would not end a loop in C code, a kill does. What it prints does not
come between us, and it sees none of our settings' variables.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from trajectories.model import Trajectory
from trajectories.settings import CustomSettings
from workers.verdicts.opinions import NoVerdict, Opinion, opinions_from

MAX_ANSWER_BYTES = 1 << 20
START_SECONDS = 60.0  # imports take their time, and count once


class Custom:
    """One `[custom.NAME]`: its process, started when it is needed."""

    def __init__(self, name: str, settings: CustomSettings) -> None:
        self.name = name
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def rewards(self, trajectory: Trajectory) -> list[Opinion]:
        """What the function says. Raises NoVerdict."""
        answer = self._asked(trajectory.to_json())
        if "error" in answer:
            raise NoVerdict("error", str(answer["error"]))
        return opinions_from(answer.get("said"), trajectory, self.name)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not written is of no use any more
                    pipe.close()

    def _asked(self, line: bytes) -> dict[str, Any]:
        """One line to the process, one from it; whatever goes wrong ends the process."""
        is_over = False
        try:
            process = self._running()
            _write(process, line + b"\n", self._settings.timeout_seconds)
            answer = _line(process, self._settings.timeout_seconds)
            parsed = json.loads(answer)
            is_over = isinstance(parsed, dict)
            if not is_over:
                raise NoVerdict("garbage", "the process of the function answered no object")
            return dict(parsed)
        except ValueError as error:
            raise NoVerdict("garbage", "the process of the function answered no JSON") from error
        finally:
            if not is_over:
                self.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        entry_point = self._settings.entry_point or self.name
        environment = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("RATCHET_") and name != "REDIS_URL"
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.verdicts.custom_runner", entry_point],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        ready = json.loads(_line(self._process, START_SECONDS))
        if "error" in ready:
            raise NoVerdict("error", str(ready["error"]))
        return self._process


def _write(process: "subprocess.Popen[bytes]", data: bytes, seconds: float) -> None:
    """Hand `data` over; a process that does not read it is as one that hangs."""
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    deadline = time.monotonic() + seconds
    view = memoryview(data)
    while view:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [descriptor], [], left)[1]:
            raise NoVerdict("timeout", f"the function did not end within {seconds:g} s")
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            continue
        except BrokenPipeError as error:
            raise NoVerdict("error", f"the process of the function {_end(process)}") from error


def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
    """The next line of a process, within `seconds`."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + seconds
    read = bytearray()
    while not read.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise NoVerdict("timeout", f"the function did not end within {seconds:g} s")
        piece = os.read(descriptor, 65_536)
        if not piece:
            raise NoVerdict("error", f"the process of the function {_end(process)}")
        read += piece
        if len(read) > MAX_ANSWER_BYTES:
            raise NoVerdict("garbage", "the answer of the function is longer than 1 MB")
    return bytes(read)


def _end(process: "subprocess.Popen[bytes]") -> str:
    try:
        return f"ended with {process.wait(1)}"
    except subprocess.TimeoutExpired:
        return "closed its output"
