"""What a training process is at, and how long each part took: progress.json, and the metrics."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from trainer.runs import PROGRESS

LOADING = "loading the model"
READING = "reading rows"
COMPARING = "comparing with the log"  # forward passes: is it the policy that sampled it?
PREPARING = "preparing"
TRAINING = "training"
SAVING = "saving"

_METRICS = {
    LOADING: "load_seconds",
    READING: "read_seconds",
    COMPARING: "gap_seconds",
    PREPARING: "prepare_seconds",
    TRAINING: "step_seconds",
    SAVING: "save_seconds",
}


class Stages:
    """The parts of one round, one after another."""

    def __init__(self, run: Path, *, is_writing: bool = True) -> None:
        """Of several processes only one writes."""
        self._path = run / PROGRESS
        self._is_writing = is_writing
        self.metrics: dict[str, float] = {}  # seconds of each part

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """While this is open the round is at `name`."""
        self.show(name, 0, 0)
        began = time.monotonic()
        try:
            yield
        finally:
            metric = _METRICS[name]
            spent = time.monotonic() - began
            self.metrics[metric] = self.metrics.get(metric, 0.0) + spent

    def show(self, name: str, step: int, total: int) -> None:
        """Say how far it is; total 0: nobody knows."""
        if not self._is_writing:
            return
        beside = self._path.with_suffix(".new")
        beside.write_bytes(orjson.dumps({"stage": name, "step": step, "total": total}))
        beside.replace(self._path)
