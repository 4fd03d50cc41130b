"""A worker whose scoring takes for ever until the file `quick` exists. Started by tests.

Says in `scoring-now` that it is in the middle of a job.
"""

import sys
import time
from pathlib import Path
from threading import Event

from trajectories.settings import load_settings
from trajectories.store import Scorable, Scored, Store, TrajectoryRef
from workers import worker
from workers.jobs import Scorer


class SlowScorer(Scorer):
    """Hangs between reading a trajectory and storing its rewards."""

    def reckon(self, store: Store, ref: TrajectoryRef, scorable: Scorable) -> Scored:
        Path("scoring-now").touch()
        while not Path("quick").exists():
            time.sleep(0.01)
        return super().reckon(store, ref, scorable)


if __name__ == "__main__":
    settings = load_settings()
    if sys.argv[1:] == ["short"]:
        worker.WORKER_TTL_SECONDS = 16
        worker.MAINTENANCE_SECONDS = 1
        worker.HEARTBEAT_MARGIN_SECONDS = 1
    worker.run_worker(settings, Event(), scorer=SlowScorer.from_settings(settings.rewards))
