"""Advantages: how much better than expected. They exist only here, never in Redis.

Pure. credit.py says what each call gets of its trajectory's reward, held
against a baseline (baseline.py); here it is brought to one scale:

    A_i = credit_i / rms(credit),   then A_i *= w  where A_i < 0

One scale for the whole batch, over trajectories, and none at all for fewer than
LEAST_SCALED of them: dividing by the spread of a few labels amplifies noise. The
baseline of votes is over the trajectories that somebody voted on. AIR is read
from every trajectory, voted on or not, and nearly all of them have nothing to
object to: its baseline is theirs, 0. Held against the votes of a biased few (say
a mean of -0.4, since people rather speak up when it went wrong) a mere fault
would look like praise.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from trainer.advantages.baseline import (
    Baseline,
    Comparison,
    comparison,
    key_of,
    root_mean_square,
)
from trainer.advantages.credit import Estimator, Spread, shuffle, spread, verdicts
from trainer.advantages.missing import correct
from trainer.advantages.tracker import Tracker, priors_of, updated
from trainer.batch.samples import Sample
from trajectories.settings import TrainerSettings

LEAST_SCALED = 16  # trajectories
SMALLEST_SCALE = 1e-6
_NOTHING = Tracker()
_NO_TOKENS: dict[str, Any] = {
    "prompt_token_ids": (),
    "token_ids": (),
    "logprobs": (),
    "feedback": (),
    "principals": (),
    "correction": None,
}


def advantages_of(
    samples: Sequence[Sample],
    settings: TrainerSettings,
    *,
    tracker: Tracker = _NOTHING,
    version: int = 0,
) -> list[float]:
    """One advantage per sample of a round that starts from `version`, as the settings want it."""
    known = _as_known(samples, settings)
    asked = samples if settings.baseline == "group" else known  # groups are of prompts
    return advantages(
        known,
        shrinkage=settings.shrinkage,
        negative_weight=settings.negative_weight,
        shuffle_seed=settings.seed if settings.shuffle_rewards else None,
        credit=settings.credit,
        turn_discount=settings.turn_discount,
        against=_comparison(asked, settings, tracker, version),
    )


def tracker_after(
    samples: Sequence[Sample], settings: TrainerSettings, *, tracker: Tracker, version: int
) -> Tracker:
    """What is remembered once a round from `version` has learned from these samples.

    What is replayed is remembered already, by the round that first used it; siblings
    are of the prompts that somebody chose.
    """
    samples = [
        sample
        for sample in _as_known(samples, settings)
        if not sample.is_replayed and sample.rollout is None
    ]
    known = verdicts(samples)
    keys = {sample.part: key_of(sample) for sample in samples}
    rewards = {part: verdict.reward for part, verdict in known.items() if verdict.is_labelled}
    return updated(
        tracker,
        rewards,
        keys,
        version,
        most_weight=settings.tracker_weight,
        half_life=settings.tracker_half_life,
    )


def _as_known(samples: Sequence[Sample], settings: TrainerSettings) -> Sequence[Sample]:
    """Samples without tokens, with what is known of missing rewards."""
    light = [lean(sample) for sample in samples]
    return correct(light, settings.aipw_limit) if settings.missing == "aipw" else light


def _comparison(
    samples: Sequence[Sample], settings: TrainerSettings, tracker: Tracker, version: int
) -> Comparison:
    priors = priors_of(
        tracker,
        version,
        most_weight=settings.tracker_weight,
        half_life=settings.tracker_half_life,
    )
    return comparison(samples, settings.baseline, shrinkage=settings.shrinkage, priors=priors)


def advantages(
    samples: Sequence[Sample],
    *,
    shrinkage: float,
    negative_weight: float,
    shuffle_seed: int | None = None,
    credit: Estimator = "identical",
    turn_discount: float = 1.0,
    baseline: Baseline = "leave_one_out",
    against: Comparison | None = None,
) -> list[float]:
    """One advantage per sample, in the samples' order."""
    if shuffle_seed is not None:
        samples = shuffle(samples, shuffle_seed)
    against = against or comparison(samples, baseline, shrinkage=shrinkage)
    credits = spread(samples, verdicts(samples), against, Spread(credit, turn_discount))
    scale = scale_of(samples, credits)
    if scale < SMALLEST_SCALE:
        return [0.0] * len(samples)
    raw = [value / scale for value in credits]
    return [value * negative_weight if value < 0 else value for value in raw]


def lean(sample: Sample) -> Sample:
    """A sample without its tokens and words: a round may have many."""
    return sample.model_copy(update=_NO_TOKENS)


def scale_of(samples: Sequence[Sample], credits: Sequence[float]) -> float:
    """The root mean square of credits, in which each trajectory counts once; 1 for a few."""
    of_part: dict[str, list[float]] = defaultdict(list)
    for sample, value in zip(samples, credits, strict=True):
        of_part[sample.part].append(value)
    if len(of_part) < LEAST_SCALED:
        return 1.0
    return root_mean_square(root_mean_square(values) for values in of_part.values())
