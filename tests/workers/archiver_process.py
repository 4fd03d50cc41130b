"""The archiver as a process of its own that is killed at its n-th step: step, n, as arguments."""

import os
import signal
import sys
from threading import Event

from trajectories.settings import load_settings
from workers.archiver import Pace, build_archiver


def main() -> None:
    step, left = sys.argv[1], [int(sys.argv[2])]

    def hook(at: str) -> None:
        left[0] -= at == step
        if left[0] <= 0 and at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    build_archiver(load_settings(), hook=hook, pace=Pace(idle=0.02)).run(Event())


main()
