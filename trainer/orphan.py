"""No orphan trains on: a child process that dies with its parent, however that dies."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; leave if it already has.

    `parent` is the process id that must be the parent still; 0 asks for nothing.
    """
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the trainer that started this round is gone")
