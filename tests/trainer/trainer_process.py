"""A trainer with fake rounds as a real process, for tests that kill it.

python trainer_process.py          settings come from the environment
"""

import logging
import signal
import sys
import threading
from pathlib import Path

from trainer.loop import Loop
from trainer.phases import find_base
from trainer.training import Training
from trajectories.connection import connect
from trajectories.settings import load_settings

FAKE_ROUND = (sys.executable, str(Path(__file__).with_name("fake_round.py")))


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = load_settings()
    training = Training(FAKE_ROUND)
    with Loop(
        settings, redis=connect(settings.redis), base=find_base(settings), training=training
    ) as loop:
        loop.run(stop)


if __name__ == "__main__":
    main()
