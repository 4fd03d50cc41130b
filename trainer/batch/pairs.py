"""Preference pairs: which answers of the log stand against each other. Pure.

Two answers to the very same prompt (the same token ids, of one tenant and
agent), of which one was worth more: asked again, or asked by somebody else.
Choices of one call are such answers where each was judged by itself. And an
answer that somebody corrected, against what it should have been.

An answer's worth is what was said of that call; of a trajectory's last call it
may also be the trajectory's reward. What only the end of a longer trajectory
was worth says nothing of one call in its middle.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.batch.samples import Sample

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What decides whether a sample is one side of a pair."""

    prompt: bytes  # equal for the same prompt of the same tenant and agent
    tokens: bytes  # equal for the same answer
    worth: float | None
    is_corrected: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Places of two samples; `better` is None where a correction of the worse one is better."""

    better: int | None
    worse: int


def answer_of(sample: Sample) -> Answer:
    """What a sample says as one of several answers."""
    return Answer(
        prompt=_digest(repr((sample.tenant, sample.agent, sample.prompt_token_ids))),
        tokens=_digest(repr(sample.token_ids)),
        worth=worth_of_call(sample),
        is_corrected=sample.correction is not None,
    )


def worth_of_call(sample: Sample) -> float | None:
    """What this call by itself was worth, or None where nobody said."""
    own = [value for distance, value in sample.votes if distance == 0]
    if own:
        return sum(own) / len(own)
    return sample.reward if sample.calls_to_go == 0 else None


def pairs_among(answers: Iterable[Answer]) -> list[Pair]:
    """Corrections first, then the best against the worst, the second best against ...

    An answer is in one pair of rewards at most, however often a prompt was
    answered, so that a popular question does not outweigh all others.
    """
    corrected: list[Pair] = []
    groups: dict[bytes, list[tuple[float, int, bytes]]] = defaultdict(list)
    for place, answer in enumerate(answers):
        if answer.is_corrected:
            corrected.append(Pair(None, place))
        if answer.worth is not None:
            groups[answer.prompt].append((answer.worth, place, answer.tokens))
    return corrected + [pair for group in groups.values() for pair in _against(group)]


def places_of(pairs: Iterable[Pair]) -> set[int]:
    """The samples that stand in any of these pairs."""
    return {place for pair in pairs for place in (pair.better, pair.worse) if place is not None}


def _against(group: Sequence[tuple[float, int, bytes]]) -> list[Pair]:
    """Pairs of one prompt's answers (worth, place, tokens)."""
    ordered = sorted(group)
    found = []
    for low, high in zip(ordered[: len(ordered) // 2], reversed(ordered), strict=False):
        if high[0] > low[0] and high[2] != low[2]:
            found.append(Pair(better=high[1], worse=low[1]))
    return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
