"""A run: one round of learning as a directory whose run.json says how far it is.

    collected -> trained -> published -> loaded -> probed -> promoted
         \\___________\\__________\\_________\\________\\____> rejected | failed

run.json is replaced atomically after each phase's work is done, and every
phase may be done twice: that is the whole of crash recovery. A directory
without run.json was never a run. What the phases do is in phases.py.
"""

import shutil
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field
from redis import Redis

from trainer.batch.stored import StoredSamples
from trainer.durable import write_atomic
from trajectories import keys
from trajectories.model import Record
from trajectories.settings import TrainerSettings

RUN = "run.json"
PLAN = "plan.json"
BATCH = "batch.jsonl"
RESULT = "result.json"
PROGRESS = "progress.json"
TRAINED = "trained"  # what the training process leaves: weights, probes, optimizer
UNFINISHED = ".trained.new"  # the same, while it is written
OPTIMIZER = "optimizer.pt"  # below TRAINED
CHECKPOINTS = "checkpoints"
LEGS = "legs"  # what legs before the last one leave
LOG = "round.log"
NOTES = "notes.json"  # what the training process has to say beside numbers
OWNER = "owner"  # the policy whose trainer fills the directory


class Phase(StrEnum):
    """The last thing that is done."""

    COLLECTED = "collected"
    TRAINED = "trained"
    PUBLISHED = "published"
    LOADED = "loaded"
    PROBED = "probed"
    PROMOTED = "promoted"
    REJECTED = "rejected"  # an adapter came out, and failed a check
    FAILED = "failed"  # no adapter came out


# What is done between one phase and the next; its time goes into the run's metrics.
ACTIVITIES = {
    Phase.TRAINED: "train",
    Phase.PUBLISHED: "publish",
    Phase.LOADED: "load",
    Phase.PROBED: "probe",
    Phase.PROMOTED: "promote",
}
FINISHED = frozenset({Phase.PROMOTED, Phase.REJECTED, Phase.FAILED})


class Run(Record):
    """run.json, and one entry of the list of runs in Redis."""

    run_id: str
    policy: str
    algorithm: str
    phase: Phase
    started_at: float
    updated_at: float
    phase_at: float = 0.0  # when its phase was reached; 0: with started_at
    parent: int  # the version the training starts from
    trajectories: int = 0
    samples: int = 0
    attempts: int = 0  # training processes started
    version: int | None = None  # allocated before publishing
    model: str | None = None  # the adapter's name in the engines
    path: str | None = None  # the adapter's directory
    reason: str = ""  # why it was rejected or failed
    notes: tuple[str, ...] = ()  # what its training stopped short of, and why
    metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.phase in FINISHED


class Plan(Record):
    """plan.json: all that the training process needs beside the samples."""

    run_id: str
    policy: str
    algorithm: str
    base_path: str
    parent: int
    parent_path: str | None  # the parent's adapter directory; None: the base
    optimizer_path: str | None  # the parent's optimizer state
    trainer: TrainerSettings
    refs: tuple[str, ...]  # trajectories trained on
    set_aside: tuple[str, ...] = ()  # examined, of no use, used up with the round
    replayed: tuple[str, ...] = ()  # trained on, and before
    rollouts: int = 0  # of the samples, those that no user got
    excluded: dict[str, int] = Field(default_factory=dict)
    reward_sources: dict[str, int] = Field(default_factory=dict)
    labellers: dict[str, int] = Field(default_factory=dict)  # principal -> labels in this round
    capped: dict[str, int] = Field(default_factory=dict)  # principal -> labels left out of it


class RoundResult(Record):
    """result.json: how the training process ended."""

    is_trained: bool
    reason: str = ""
    is_tried: bool = True  # False: it failed before it had looked at a row, which may be used again
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a budget or a guard stopped, and why


class RunDirectory:
    """One directory `{runs_dir}/{run_id}`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def trained(self) -> Path:
        return self.path / TRAINED

    def claim(self, policy: str) -> None:
        """Make the directory, for `sweep` to know whose it is before there is a run."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / OWNER).write_text(policy)

    def read(self) -> Run:
        return Run.from_json((self.path / RUN).read_bytes())

    def write(self, run: Run, **changes: Any) -> Run:
        """Store `run` with `changes`; once this returns, a kill cannot undo it.

        Of a new phase it notes the wall time since the one before, as a metric
        `{activity}_phase_seconds`: what a kill cost is in it.
        """
        now = time.time()
        changed = run.model_copy(update={**changes, "updated_at": now})
        if changed.phase is not run.phase:
            metrics = dict(changed.metrics)
            if changed.phase in ACTIVITIES:
                name = f"{ACTIVITIES[changed.phase]}_phase_seconds"
                metrics[name] = now - (run.phase_at or run.started_at)
            changed = changed.model_copy(update={"phase_at": now, "metrics": metrics})
        write_atomic(self.path / RUN, changed.to_json())
        return changed

    def clear(self, *, is_failed: bool) -> None:
        """Remove what only a training that goes on needs, and what one that failed has made."""
        gone = [*self.path.glob(f"{CHECKPOINTS}*"), self.path / LEGS, self.path / UNFINISHED]
        for path in (*gone, self.trained) if is_failed else gone:
            shutil.rmtree(path, ignore_errors=True)

    def plan(self) -> Plan:
        return Plan.from_json((self.path / PLAN).read_bytes())

    def started(self) -> str:
        """Which start of which training this is, in words: the same on every machine."""
        attempts = self.read().attempts if (self.path / RUN).is_file() else 1
        return f"start {attempts} of {self.path.name}"

    def samples(self) -> StoredSamples:
        """The rows, each read from disk when it is asked for."""
        return StoredSamples(self.path / BATCH)

    def add_notes(self, notes: Sequence[str]) -> None:
        """Keep what a trainer has to say; saying it again changes nothing."""
        if known := tuple(dict.fromkeys((*self.notes(), *notes))):
            write_atomic(self.path / NOTES, orjson.dumps(known))

    def notes(self) -> tuple[str, ...]:
        path = self.path / NOTES
        return tuple(orjson.loads(path.read_bytes())) if path.is_file() else ()

    def result(self) -> RoundResult | None:
        """How the training ended, or None while it has not."""
        path = self.path / RESULT
        return RoundResult.from_json(path.read_bytes()) if path.is_file() else None


def all_runs(runs_dir: Path) -> list[RunDirectory]:
    """Every run on disk, oldest first."""
    found = [RunDirectory(path.parent) for path in runs_dir.glob(f"*/{RUN}")]
    return sorted(found, key=lambda directory: directory.read().started_at)


def sweep(runs_dir: Path, policy: str) -> None:
    """Remove what a policy's rounds left: those that were killed before they became a run, and
    what was trained on the way to the end of the others.

    Another policy's trainer may be filling one right now.
    """
    for path in runs_dir.glob("*/"):
        owner = path / OWNER
        if not (path / RUN).exists() and (not owner.exists() or owner.read_text() == policy):
            shutil.rmtree(path)
    for directory in all_runs(runs_dir):
        run = directory.read()
        if run.policy == policy and run.is_finished:
            directory.clear(is_failed=run.phase is Phase.FAILED)


def announce(redis: Redis, run: Run) -> None:
    """Put a finished run on the list that everybody reads; repeating it changes nothing."""
    name = keys.runs(run.policy)
    if any(Run.from_json(raw).run_id == run.run_id for raw in redis.lrange(name, 0, -1)):
        return
    pipe = redis.pipeline(transaction=True)
    pipe.lpush(name, run.to_json())
    pipe.ltrim(name, 0, keys.RUNS_KEPT - 1)
    pipe.execute()
