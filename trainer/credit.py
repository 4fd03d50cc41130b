"""Credit: which trajectories' rewards a round uses, and how much each sample gets of them.

Pure. The final reward goes to every call of its trajectory alike (LightningRL,
arXiv 2508.03680); a call's own intermediate (AIR) rewards can be added with a
weight. The weight is 0 by default, because the final reward already holds
AIR's sum. `shuffle` is the control experiment: with permuted rewards nothing
may be learned.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.samples import Sample
from trajectories.model import Trajectory


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trajectory was worth, and whether somebody said so or AIR alone."""

    reward: float
    is_labelled: bool


def verdicts(samples: Sequence[Sample]) -> dict[str, Verdict]:
    """Trajectory -> its verdict; each trajectory once, however many samples it has."""
    return {sample.trajectory: Verdict(sample.reward, sample.is_labelled) for sample in samples}


def shuffle(rewards: Mapping[str, Verdict], seed: int) -> dict[str, Verdict]:
    """The same verdicts, dealt out again among the same trajectories."""
    names = sorted(rewards)
    values = [rewards[name] for name in names]
    random.Random(seed).shuffle(values)
    return dict(zip(names, values, strict=True))


def step_credit(samples: Sequence[Sample], weight: float) -> dict[str, float]:
    """Sample id -> its own intermediate rewards times `weight`, centred over the batch."""
    if not samples or weight == 0.0:
        return {sample.id: 0.0 for sample in samples}
    mean = sum(sample.step_reward for sample in samples) / len(samples)
    return {sample.id: weight * (sample.step_reward - mean) for sample in samples}


def label_source(trajectory: Trajectory) -> str | None:
    """Who labelled a trajectory: the source of its feedback, or None."""
    sources = sorted(r.source for r in trajectory.rewards if r.source.startswith("feedback"))
    return sources[0] if sources else None


def over_share(trajectories: Sequence[Trajectory], max_share: float) -> set[str]:
    """Ids of trajectories to leave for a later round, so that nobody owns this one.

    No feedback source may have more than `max_share` of the round's labelled
    trajectories; the oldest are kept. With one source alone there is nothing
    to balance, and all are kept.
    """
    by_source: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        source = label_source(trajectory)
        if source is not None:
            by_source.setdefault(source, []).append(trajectory)
    if max_share >= 1 or len(by_source) < 2:
        return set()
    cap = max(1, int(max_share * sum(len(owned) for owned in by_source.values())))
    return {entry.id for owned in by_source.values() for entry in owned[cap:]}
