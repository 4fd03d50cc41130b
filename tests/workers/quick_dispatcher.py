"""A dispatcher with short waits; `dying` kills itself between effect and acknowledgement."""

import os
import signal
import sys
from collections.abc import Iterable
from threading import Event

from trajectories.settings import load_settings
from workers import traffic
from workers.dispatcher import build_dispatcher
from workers.timing import Timing

QUICK = Timing(
    block=0.1,
    reload_gateways=0.2,
    reclaim_every=0.2,
    reclaim_idle=0.5,
    trim_every=0.2,
    debounce=0.1,
    settle=0.0,
    job_timeout=3,
    ask_again=6.0,
    close_every=0.2,
    longest_wait=0.5,
)


def die(_: traffic.Traffic, entries: Iterable[traffic.Entry]) -> None:
    if list(entries):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:] == ["dying"]:
        traffic.Traffic.acknowledge = die  # type: ignore[method-assign]
    build_dispatcher(load_settings(), QUICK).run(Event())
