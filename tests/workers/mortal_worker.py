"""Workers that die of a SIGKILL, each at its next word to or from Redis. Started by tests.

`mortal_worker.py` reads numbers on stdin. For each it forks a worker that kills
itself at that event, counted from its start: sending a command is one, reading
an answer another. It writes the exit status; 0 means that the worker ran out of
jobs first, so there are no more events to die at.
"""

import os
import signal
import sys
from threading import Event
from typing import Any

from redis.connection import AbstractConnection

from trajectories.settings import load_settings
from workers import worker

send, read = AbstractConnection.send_packed_command, AbstractConnection.read_response


def live(last: int) -> None:
    """One worker, until there is no job, or until its `last` event."""
    count = 0

    def pass_on() -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def mortal_send(self: AbstractConnection, *given: Any, **named: Any) -> Any:
        pass_on()
        return send(self, *given, **named)

    def mortal_read(self: AbstractConnection, *given: Any, **named: Any) -> Any:
        pass_on()
        return read(self, *given, **named)

    AbstractConnection.send_packed_command = mortal_send  # type: ignore[method-assign]
    AbstractConnection.read_response = mortal_read  # type: ignore[method-assign]
    worker.run_worker(load_settings(), Event(), is_burst=True)


def main() -> None:
    worker.WORKER_TTL_SECONDS = 16
    worker.MAINTENANCE_SECONDS = 1
    worker.HEARTBEAT_MARGIN_SECONDS = 1
    for line in sys.stdin:
        child = os.fork()
        if not child:
            live(int(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
