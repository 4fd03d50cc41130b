"""Credit: how much of what a trajectory was worth each of its calls gets.

Pure. A *part* is what one agent did in a trajectory: the whole of it where no
agent is named. Four ways, `trainer.advantages.credit`, for call t of T with discount g:

    identical   A_t = R - b                  LightningRL, arXiv 2508.03680; the default
    discounted  A_t = g^(T-1-t) (R - b)      late calls had more to do with it
    step        A_t = g^(T-1-t) (O - b) + (V_t - b_V) + F_t
    stepgroup   A_t = (R - b) + (G_t - mean of G in t's anchor group)   GiGPO, arXiv 2505.10978

R is the final reward, O what was said of the whole, V_t and F_t the discounted
votes and AIR rewards of this call and those after it, and G_t = V_t + F_t +
g^(T-1-t) O. An anchor group holds the calls that were asked the very same, in
different trajectories. Baselines (baseline.py) are over trajectories, each once.
AIR is read from every trajectory, so that its baseline is 0. What nobody spoke
of is missing, never 0: it gets no credit for it. `shuffle` is the control
experiment: with permuted rewards nothing may be learned.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.advantages.baseline import Comparison, baselines, subtract_baseline
from trainer.batch.samples import Later, Sample

Estimator = Literal["identical", "discounted", "step", "stepgroup"]
Anchor = tuple[str, str | None, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trajectory was worth, and whether somebody said so or AIR alone."""

    reward: float
    is_labelled: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """How rewards are spread over calls."""

    estimator: Estimator = "identical"
    discount: float = 1.0  # for each call that lies between a call and what it is credited with


def verdicts(samples: Sequence[Sample]) -> dict[str, Verdict]:
    """Part -> its verdict; each once, however many samples it has."""
    return {sample.part: Verdict(sample.reward, sample.is_labelled) for sample in samples}


def shuffle(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same samples, with what was said of the trajectories dealt out again among them.

    What was said of calls, and AIR's faults, are dealt out among all calls, so that
    no way of giving credit has anything left to learn from.
    """
    chance = random.Random(seed)
    parts = {sample.part: sample for sample in samples}
    dealt = dict(zip(sorted(parts), chance.sample(list(parts.values()), len(parts)), strict=True))
    calls = chance.sample(list(samples), len(samples))
    return [
        sample.model_copy(
            update={
                "reward": (other := dealt[sample.part]).reward,
                "is_labelled": other.is_labelled,
                "outcome": other.outcome,
                "votes": call.votes,
                "air": call.air,
            }
        )
        for sample, call in zip(samples, calls, strict=True)
    ]


def spread(
    samples: Sequence[Sample], known: Mapping[str, Verdict], against: Comparison, rule: Spread
) -> list[float]:
    """The credit of each sample, before scaling, in the samples' order."""
    return _ESTIMATORS[rule.estimator](samples, known, against, rule)


def centre(known: Mapping[str, Verdict], against: Comparison) -> dict[str, float]:
    """Votes minus their baseline; rewards of AIR alone as they are.

    By part; and by id for samples that are compared apart from theirs (`Comparison.joined`).
    """
    voted = {name: verdict.reward for name, verdict in known.items() if verdict.is_labelled}
    alone = {name: verdict.reward for name, verdict in known.items() if not verdict.is_labelled}
    return alone | subtract_baseline(voted, against)


def _own(centred: Mapping[str, float], sample: Sample) -> float:
    """What stands for a sample: its own value, else that of its part."""
    return centred.get(sample.id, centred[sample.part])


def _identical(
    samples: Sequence[Sample], known: Mapping[str, Verdict], against: Comparison, rule: Spread
) -> list[float]:
    centred = centre(known, against)
    return [_own(centred, sample) for sample in samples]


def _discounted(
    samples: Sequence[Sample], known: Mapping[str, Verdict], against: Comparison, rule: Spread
) -> list[float]:
    centred = centre(known, against)
    return [_own(centred, sample) * rule.discount**sample.calls_to_go for sample in samples]


def _step(
    samples: Sequence[Sample], _: Mapping[str, Verdict], against: Comparison, rule: Spread
) -> list[float]:
    said = {sample.part: sample.outcome for sample in samples if sample.outcome is not None}
    outcomes = subtract_baseline(said, against)
    to_go = [votes_to_go(sample, rule.discount) for sample in samples]
    of_part: dict[str, list[float]] = defaultdict(list)
    for sample, value in zip(samples, to_go, strict=True):
        if value is not None:
            of_part[sample.part].append(value)
    means = {part: sum(values) / len(values) for part, values in of_part.items()}
    held_against = baselines(means, against)
    return [
        outcomes.get(sample.id, outcomes.get(sample.part, 0.0)) * rule.discount**sample.calls_to_go
        + (0.0 if value is None else value - held_against[sample.part])
        + discounted_sum(sample.air, rule.discount)
        for sample, value in zip(samples, to_go, strict=True)
    ]


def _stepgroup(
    samples: Sequence[Sample], known: Mapping[str, Verdict], against: Comparison, rule: Spread
) -> list[float]:
    centred = centre(known, against)
    returns = [return_to_go(sample, rule.discount) for sample in samples]
    at_anchor: dict[Anchor, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample, value in zip(samples, returns, strict=True):
        if value is not None and sample.anchor:
            at_anchor[_anchor_of(sample)][sample.part].append(value)
    means = {
        anchor: {part: sum(found) / len(found) for part, found in of_part.items()}
        for anchor, of_part in at_anchor.items()
    }
    totals = {anchor: sum(of_part.values()) for anchor, of_part in means.items()}
    credits = []
    for sample, value in zip(samples, returns, strict=True):
        anchor = _anchor_of(sample)
        others = len(means.get(anchor, ())) - 1
        over_group = 0.0  # where nobody spoke, or no other trajectory was asked the same
        if value is not None and others > 0:
            over_group = value - (totals[anchor] - means[anchor][sample.part]) / others
        credits.append(_own(centred, sample) + over_group)
    return credits


def _anchor_of(sample: Sample) -> Anchor:
    return sample.tenant, sample.agent, sample.anchor


_ESTIMATORS: Mapping[
    Estimator,
    Callable[
        [Sequence[Sample], Mapping[str, Verdict], Comparison, Spread],
        list[float],
    ],
] = {
    "identical": _identical,
    "discounted": _discounted,
    "step": _step,
    "stepgroup": _stepgroup,
}


def discounted_sum(rewards: Sequence[Later], discount: float) -> float:
    """Rewards of this call and of later ones, each by how many calls later it came."""
    return sum(value * discount**distance for distance, value in rewards)


def votes_to_go(sample: Sample, discount: float) -> float | None:
    """What was said of this call and of those after it; None when nothing was."""
    return discounted_sum(sample.votes, discount) if sample.votes else None


def return_to_go(sample: Sample, discount: float) -> float | None:
    """All that this call may have led to; None when nobody spoke of any of it."""
    votes = votes_to_go(sample, discount)
    if votes is None and sample.outcome is None:
        return None
    last = (sample.outcome or 0.0) * discount**sample.calls_to_go
    return (votes or 0.0) + discounted_sum(sample.air, discount) + last
