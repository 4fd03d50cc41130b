"""Missing rewards: what a trajectory is taken to be worth where few people speak. Pure.

`leave_out`: what was said last, by whoever decides first (docs/rewards.md); a judge's
verdict stands where no person spoke, and nothing stands where nobody did.

`aipw` (aipw.py) takes the verdict of judges and programs as a guess m, and puts it right
by what people said who were *asked at random*:

    r = m + R / (asked * answers) * (y - m),   held within [-limit, limit]

R is 1 where people were asked and heard; `asked` is how likely they were to be asked
(recorded with each call), `answers` the share of those asked who were heard, counted
in the round. Before the limit, the mean of r over any kind of trajectory is that of y
if who answers when asked does not depend on y. Three rules:

1. AIR alone is no guess: it speaks of faults, and the silence of AIR says nothing.
2. Who spoke unasked leaves the guess as it is: those who were asked stand for everybody
   already, and how likely others were to speak is not known. They are believed where
   there is no guess, or no survey.
3. Where too few were heard to count `answers`, it is `leave_out`.
"""

from collections.abc import Sequence

from trainer.advantages.aipw import LEAST_PROPENSITY, Heard, corrected
from trainer.batch.samples import Sample

LEAST_HEARD = 8  # of those who were asked


def answer_rate(samples: Sequence[Sample]) -> float | None:
    """The share of those asked who were heard, where there is a guess; None for too few."""
    asked = {s.part: s.is_heard for s in samples if s.is_asked and s.guess is not None}
    heard = sum(asked.values())
    return heard / len(asked) if heard >= LEAST_HEARD else None


def correct(samples: Sequence[Sample], limit: float) -> list[Sample]:
    """The samples with their guesses put right by what those said who were asked."""
    rate = answer_rate(samples)
    if rate is None:
        return list(samples)
    return [_corrected(sample, rate, limit) for sample in samples]


def _corrected(sample: Sample, rate: float, limit: float) -> Sample:
    if not sample.is_heard or sample.guess is None or not sample.ask:
        return sample
    label = sample.reward if sample.is_asked else None
    propensity = max(LEAST_PROPENSITY, sample.ask * rate)
    value = corrected(Heard(sample.guess, label, propensity))
    return sample.model_copy(update={"reward": max(-limit, min(limit, value))})
