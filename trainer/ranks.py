"""The processes of one round: how many, which one this is, and what only the first of them does.

Alone, unless `trainer.launch` started several. Only the first writes files
that others read (result, progress, adapter); all of them read the same rows
from the same disk.
"""

import os
import time
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from trajectories.errors import RatchetError

SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")  # set by `accelerate launch`
POLL_SECONDS = 0.1


class Strangers(RatchetError):
    """Processes of different rounds met: this one has to be started again."""


def join(device: str, start: str) -> None:
    """Find the others, if this process was launched with some, and take its own device.

    `start` says which training this is. Raises Strangers when one of the others is at
    another, as a machine may be that was left over from the round before.
    """
    PartialState(cpu=device == "cpu")
    met = sorted(set(gather_object([start])))
    if len(met) > 1:
        raise Strangers(f"processes of different rounds met: {', '.join(met)}")


def count() -> int:
    """How many processes train this round."""
    return int(PartialState().num_processes)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return bool(PartialState().is_main_process)


def wait() -> None:
    """Go on when all have come here."""
    PartialState().wait_for_everyone()


def is_sharded() -> bool:
    """Whether each process holds a share of the weights only; then all must compute together."""
    return any(os.environ.get(name, "").lower() == "true" for name in SHARDING)


def status_of_follower(result: Path, seconds: float = 60.0) -> int:
    """The exit status of one that gave up while it was not the first.

    0 once the first has said why, which it is given time to do: a launcher that
    sees one rank fail ends the others. 1 when it does not: then it did not fail,
    and must not be left waiting for ever.
    """
    deadline = time.monotonic() + seconds
    while not result.is_file():
        if time.monotonic() > deadline:
            return 1
        time.sleep(POLL_SECONDS)
    return 0
