"""Judged answers as KTO takes them: good or bad, each beside a foreign one, weighed. Pure."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.batch.samples import Sample

MOST_WEIGHT = 4.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What has to be known of a sample before its row is read."""

    sample: int  # its place among the samples
    is_good: bool
    prompt: int  # tokens
    completion: int  # tokens


def answers_of(samples: Iterable[Sample], threshold: float, seed: int) -> list[Answer]:
    """Answers in an order that depends on the seed; a reward on the threshold says nothing."""
    answers = [
        Answer(at, s.reward > threshold, len(s.prompt_token_ids), len(s.token_ids))
        for at, s in enumerate(samples)
        if s.reward != threshold
    ]
    random.Random(seed).shuffle(answers)
    return answers


def foreign(count: int, micro: int) -> list[int]:
    """Of each of `count` rows in passes of `micro`, another row of its pass.

    What the model makes of foreign answers estimates how far it has gone from
    the base. A single row at the end would be held against itself: it gets the
    answer of the pass before.
    """
    found = []
    for start in range(0, count, micro):
        last = min(start + micro, count) - 1
        found += [last, *range(start, last)] if last > start else [start - 1]
    return found


def row_of(answer: Answer, stranger: Answer, samples: Sequence[Sample]) -> dict[str, Any]:
    """An answer, and that of somebody else to hold it against."""
    sample = samples[answer.sample]
    return {
        "prompt_ids": list(sample.prompt_token_ids),
        "completion_ids": list(sample.token_ids),
        "label": answer.is_good,
        "KL_completion_ids": list(samples[stranger.sample].token_ids),
    }


def weights(good: int, bad: int) -> tuple[float, float]:
    """What a good and a bad answer weigh.

    >>> weights(30, 10)
    (1.0, 3.0)
    """
    return min(MOST_WEIGHT, max(1.0, bad / good)), min(MOST_WEIGHT, max(1.0, good / bad))
