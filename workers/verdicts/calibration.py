"""From a judge's scores to what people would have said: an isotonic fit on what both judged.

A judge may be generous or harsh, but where it says more, people should have
said more: the best non-decreasing map is fitted by least squares, and values
between its points are interpolated. Pool-adjacent-violators, Ayer et al. 1955;
thirty lines, where scikit-learn would bring scipy into every worker. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import fsum

from trajectories.model import Feedback, Record

MIN_PAIRS = 30


class Calibration(Record):
    """A fitted map, with how well judge and people agreed before and after it."""

    version: int
    fitted_at: float
    pairs: int
    knots: tuple[tuple[float, float], ...]  # score of the judge -> reward, both in [-1, 1]
    agreement: float  # share of pairs on the same side of 0, before
    error_before: float  # mean absolute difference to people's rewards
    error_after: float

    def apply(self, score: float) -> float:
        """The reward that a score stands for; beyond the ends, that of the end."""
        return interpolate(self.knots, score)


def fit(pairs: Sequence[tuple[float, float]], *, version: int, at: float) -> Calibration | None:
    """The calibration of (score, human reward) pairs; None with fewer than MIN_PAIRS."""
    if len(pairs) < MIN_PAIRS:
        return None
    knots = isotonic(pairs)
    count = len(pairs)
    return Calibration(
        version=version,
        fitted_at=at,
        pairs=count,
        knots=knots,
        agreement=sum((score >= 0) == (human >= 0) for score, human in pairs) / count,
        error_before=fsum(abs(score - human) for score, human in pairs) / count,
        error_after=fsum(abs(interpolate(knots, score) - human) for score, human in pairs) / count,
    )


def isotonic(pairs: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The non-decreasing step function nearest to the pairs, as knots with rising scores."""
    by_score: dict[float, list[float]] = defaultdict(list)
    for score, human in pairs:
        by_score[score].append(human)
    blocks: list[tuple[list[float], list[float]]] = []  # scores and human rewards of one level
    for score in sorted(by_score):
        scores, humans = [score], by_score[score]
        while blocks and _mean(blocks[-1][1]) >= _mean(humans):
            lower_scores, lower_humans = blocks.pop()
            scores, humans = lower_scores + scores, lower_humans + humans
        blocks.append((scores, humans))
    knots: list[tuple[float, float]] = []
    for scores, humans in blocks:
        level = min(1.0, max(-1.0, _mean(humans)))
        knots.extend((score, level) for score in dict.fromkeys((scores[0], scores[-1])))
    return tuple(knots)


def interpolate(knots: Sequence[tuple[float, float]], score: float) -> float:
    """Between two knots the straight line; beyond the ends, their value."""
    if score <= knots[0][0]:
        return knots[0][1]
    for (low, below), (high, above) in pairwise(knots):
        if score <= high:
            share = (score - low) / (high - low)
            return min(above, max(below, below + share * (above - below)))
    return knots[-1][1]


def pairs_of(votes: Sequence[Feedback], judge: str) -> list[tuple[float, float]]:
    """(the judge's raw score, what people said) of each thing that both spoke of.

    `votes` are those that stand. What people said of a whole trajectory is the mean
    of their votes on it, else the mean over the transitions they voted on.
    """
    people: dict[str | None, list[float]] = defaultdict(list)
    for vote in votes:
        if vote.source.type == "human" and vote.reward is not None:
            people[vote.transition_id].append(vote.reward)
    if people and None not in people:
        people[None] = [_mean(values) for values in people.values()]
    return [
        (float(raw), _mean(people[vote.transition_id]))
        for vote in votes
        if vote.source.type == "judge"
        and vote.source.id == judge
        and vote.reward is not None
        and isinstance(raw := vote.metadata.get("raw"), int | float)
        and people.get(vote.transition_id)
    ]


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
