"""Advantages: how much better than expected. They exist only here, never in Redis.

Pure. credit.py says what each call gets of its trajectory's reward, held
against a baseline; here it is brought to one scale:

    A_i = credit_i / rms(credit),   then A_i *= w  where A_i < 0

One scale for the whole batch, over trajectories: dividing by the spread of a
few labels amplifies noise. The baseline of votes is over the trajectories that
somebody voted on. AIR is read from every trajectory, voted on or not, and
nearly all of them have nothing to object to: its baseline is theirs, 0. Held
against the votes of a biased few (say a mean of -0.4, since people rather speak
up when it went wrong) a mere fault would look like praise.
"""

from collections import defaultdict
from collections.abc import Sequence

from trainer.advantages.baseline import root_mean_square
from trainer.advantages.credit import Estimator, Spread, shuffle, spread, step_credit, verdicts
from trainer.batch.samples import Sample

SMALLEST_SCALE = 1e-6


def advantages(
    samples: Sequence[Sample],
    *,
    shrinkage: float,
    negative_weight: float,
    step_weight: float = 0.0,
    shuffle_seed: int | None = None,
    credit: Estimator = "identical",
    turn_discount: float = 1.0,
) -> list[float]:
    """One advantage per sample, in the samples' order."""
    known = verdicts(samples)
    if shuffle_seed is not None:
        known = shuffle(known, shuffle_seed)
    credits = spread(samples, known, Spread(credit, turn_discount, shrinkage))
    scale = scale_of(samples, credits)
    if scale < SMALLEST_SCALE:
        return [0.0] * len(samples)
    steps = step_credit(samples, step_weight)
    raw = [
        (value + steps[sample.id]) / scale for sample, value in zip(samples, credits, strict=True)
    ]
    return [value * negative_weight if value < 0 else value for value in raw]


def scale_of(samples: Sequence[Sample], credits: Sequence[float]) -> float:
    """The root mean square of credits, in which each trajectory counts once."""
    of_part: dict[str, list[float]] = defaultdict(list)
    for sample, value in zip(samples, credits, strict=True):
        of_part[sample.part].append(value)
    return root_mean_square(root_mean_square(values) for values in of_part.values())
