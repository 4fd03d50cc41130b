"""Batching: which trajectories a round learns from, and what it says when there are too few.

Reads the store, decides purely, writes batch.jsonl and plan.json. Trajectories
are taken oldest first. Those that can teach nothing under the round's settings
are set aside with the round, so that they do not stand at the head of the
queue for ever. Marking them all as used is left to the run's first phase,
after run.json exists.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from trainer.credit import over_share
from trainer.durable import write_atomic
from trainer.runs import BATCH, PLAN, Plan, RunDirectory
from trainer.samples import Exclusion, Sample, Selection, samples_of
from trajectories.errors import NotEnoughRewards, RecordError
from trajectories.model import Trajectory
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

logger = logging.getLogger(__name__)

LEAST_SAMPLES = 2  # an advantage needs something to compare with


@dataclass(frozen=True, slots=True)
class Demand:
    """How much a round needs before it starts."""

    trajectories: int
    per_outcome: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What was found in the store, sorted out."""

    samples: tuple[Sample, ...]
    refs: tuple[str, ...]  # trajectories with at least one sample
    set_aside: tuple[str, ...]  # trajectories with none
    excluded: Counter[Exclusion]  # trajectories (without any sample) by their main reason
    reward_sources: Counter[str]
    examined: int

    def counts(self, threshold: float | None) -> tuple[int, int]:
        """Trajectories above and below `threshold` (None: the mean reward)."""
        rewards = {sample.trajectory: sample.reward for sample in self.samples}.values()
        if not rewards:
            return 0, 0
        middle = sum(rewards) / len(rewards) if threshold is None else threshold
        return sum(r > middle for r in rewards), sum(r < middle for r in rewards)


class Lack(NotEnoughRewards):
    """NotEnoughRewards, with the batch that was too small."""

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


def selection_for(settings: Settings, algorithm: str, current: int) -> Selection:
    """The rules of one round."""
    is_sft = algorithm == "sft"
    return Selection(
        policy=settings.policy,
        current=current,
        max_length=settings.trainer.max_length,
        max_staleness=None if is_sft else settings.trainer.max_staleness,
        needs_ratio=not is_sft,
        above=settings.trainer.sft_threshold if is_sft else None,
    )


def look(store: Store, settings: Settings, selection: Selection) -> Batch:
    """Everything trainable now, sorted into samples and exclusions."""
    refs = store.trainable(settings.policy, settings.trainer.max_trajectories)
    found = [(ref, read(store, ref)) for ref in refs]
    return sort_out(found, selection, settings.rewards.max_share_per_source)


def read(store: Store, ref: TrajectoryRef) -> Trajectory | None:
    """A trajectory, or None when it is gone or cannot be read: one must not stop a round."""
    try:
        return store.trajectory(ref)
    except RecordError as error:
        logger.warning("a trajectory was left out: %s", error, extra={"trajectory": str(ref)})
        return None


def sort_out(
    found: Iterable[tuple[TrajectoryRef, Trajectory | None]],
    selection: Selection,
    max_share: float,
) -> Batch:
    """Sort trajectories into samples and exclusions."""
    pairs = list(found)
    left_over = over_share([entry for _, entry in pairs if entry is not None], max_share)
    samples: list[Sample] = []
    refs: list[str] = []
    set_aside: list[str] = []
    excluded: Counter[Exclusion] = Counter()
    sources: Counter[str] = Counter()
    for ref, trajectory in pairs:
        if trajectory is None:
            excluded[Exclusion.MISSING] += 1
            set_aside.append(str(ref))
        elif not trajectory.is_closed:
            excluded[Exclusion.OPEN] += 1
        elif trajectory.id in left_over:
            excluded[Exclusion.SOURCE_SHARE] += 1
        else:
            own, reasons = samples_of(trajectory, selection)
            if own:
                samples.extend(own)
                refs.append(str(ref))
                sources.update(reward.source for reward in trajectory.rewards)
            else:
                main = reasons.most_common(1)[0][0] if reasons else Exclusion.MISSING
                excluded[main] += 1
                set_aside.append(str(ref))
    return Batch(
        tuple(samples), tuple(refs), tuple(set_aside), excluded, sources, examined=len(pairs)
    )


def demand(settings: Settings, *, by_interval: bool = False, force: bool = False) -> Demand:
    """What a round needs: everything, only both outcomes, or (forced) next to nothing."""
    if force:
        return Demand(1, 0)
    least = 1 if by_interval else settings.trainer.min_trajectories
    return Demand(least, settings.trainer.min_per_outcome)


def require(batch: Batch, wanted: Demand, selection: Selection) -> None:
    """Raise Lack, saying what is missing, unless the batch can teach something."""
    above, below = batch.counts(selection.above)
    lacks: list[str] = []
    set_aside = batch.excluded[Exclusion.NOT_POSITIVE]
    if len(batch.refs) + set_aside < wanted.trajectories:
        lacks.append(
            f"{len(batch.refs) + set_aside} usable rewarded trajectories of"
            f" {wanted.trajectories} (trainer.min_trajectories)"
        )
    if above < wanted.per_outcome:
        lacks.append(f"{above} of {wanted.per_outcome} better ones (trainer.min_per_outcome)")
    if selection.above is None and below < wanted.per_outcome:
        lacks.append(f"{below} of {wanted.per_outcome} worse ones (trainer.min_per_outcome)")
    least = 1 if selection.above is not None else LEAST_SAMPLES
    if len(batch.samples) < least:
        lacks.append(f"{len(batch.samples)} samples of {least}")
    if lacks:
        raise Lack("too little to learn from: " + "; ".join(lacks), batch)


def write_batch(directory: RunDirectory, batch: Batch, plan: Plan) -> None:
    """Put the rows and the plan on disk; they never change after that."""
    rows = b"".join(sample.to_json() + b"\n" for sample in batch.samples)
    write_atomic(directory.path / BATCH, rows)
    write_atomic(directory.path / PLAN, orjson.dumps(plan.model_dump(mode="json")))
