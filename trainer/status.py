"""What the trainer says of itself, and the thread that keeps saying it.

The loop writes on a `Board`; the `Pulse` publishes the board and renews the
lease every two seconds, also while a round trains or an engine does not
answer. Redis being away stops neither: the loop finds out by its own calls.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from redis import Redis, RedisError

from trainer.runs import PROGRESS, Run
from trajectories import keys
from trajectories.lease import Lease, LeaseLost
from trajectories.store import Store

logger = logging.getLogger(__name__)

PULSE_SECONDS = 2.0

COLLECTING = "collecting"
TRAINING = "training"
PUBLISHING = "publishing"
PROMOTING = "promoting"
DRAINING = "draining"
PAUSED = "paused"


class Board:
    """The state as the loop last set it; `note` and `trouble` say what it waits for."""

    def __init__(self, algorithms: Sequence[str] = ()) -> None:
        self.algorithms = tuple(algorithms)  # what a trigger may name
        self.state = COLLECTING
        self.note = ""
        self.lacking: list[dict[str, Any]] = []  # what the last look found too little of
        self.trouble = ""  # what keeps the engines out of step with the registry
        self.run: Run | None = None
        self.last_run: Run | None = None
        self.run_path: Path | None = None

    def view(self, trainable: int, needed: int) -> dict[str, Any]:
        """The status as it is stored under `trainer:{policy}:status`."""
        return {
            "state": self.state,
            "note": self.trouble or self.note,
            "lacking": self.lacking,
            "algorithms": self.algorithms,
            "trainable": trainable,
            "needed": needed,
            "phase_progress": self._progress(trainable, needed),
            "run": self.run.model_dump(mode="json") if self.run else None,
            "last_run": self.last_run.model_dump(mode="json") if self.last_run else None,
            "at": time.time(),
        }

    def _progress(self, trainable: int, needed: int) -> float:
        if self.state == COLLECTING:
            return min(1.0, trainable / needed)
        if self.state == TRAINING and self.run_path is not None:
            return read_progress(self.run_path)
        return 0.0


def read_progress(run_path: Path) -> float:
    """The share of a round's steps that are done, from the file the training writes."""
    try:
        progress = orjson.loads((run_path / PROGRESS).read_bytes())
        return float(progress["step"]) / max(1, int(progress["total"]))
    except (OSError, orjson.JSONDecodeError, KeyError):
        return 0.0


def read_stage(run_path: Path) -> str:
    """What the training process is at, in words; empty while it says nothing."""
    try:
        return str(orjson.loads((run_path / PROGRESS).read_bytes()).get("stage", ""))
    except (OSError, orjson.JSONDecodeError):
        return ""


class Pulse:
    """Publishes the board and renews the lease until closed."""

    def __init__(
        self, redis: Redis, policy: str, *, board: Board, lease: Lease, needed: int
    ) -> None:
        self._redis = redis
        self._policy = policy
        self._board = board
        self._lease = lease
        self._needed = needed
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Pulse":
        self._closed.clear()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def publish(self) -> None:
        """Store the status now."""
        trainable = Store(self._redis).count_trainable(self._policy)
        view = self._board.view(trainable, self._needed)
        self._redis.set(keys.status(self._policy), orjson.dumps(view), ex=keys.STATUS_TTL_SECONDS)

    def _beat(self) -> None:
        steps: tuple[Callable[[], None], ...] = (self._lease.renew, self.publish)
        while True:
            for step in steps:
                try:
                    step()
                except LeaseLost as error:
                    logger.critical("%s", error)
                    return
                except RedisError as error:
                    logger.warning("the pulse cannot reach Redis: %s", error)
            if self._closed.wait(PULSE_SECONDS):
                return
