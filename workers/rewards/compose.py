"""Many rewards to one: the final reward of a trajectory, or None.

Pure and independent of order. Per target the best kind of source decides:
human, else code, else judge. Where a session-level vote exists it is the
outcome; else the mean over the voted responses is. AIR's sum shapes that, and
alone it can only lower. Nothing said and nothing fired is None, never 0.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from trajectories.model import Reward
from workers.rewards.air import PREFIX as AIR
from workers.rewards.feedback import PREFIX as FEEDBACK

PRIORITY = ("human", "code", "judge")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trajectory was worth; `is_labelled` says that somebody said so."""

    final: float | None
    is_labelled: bool


def compose(rewards: Iterable[Reward], *, air_weight: float) -> Outcome:
    """The final reward of one trajectory.

    >>> compose([], air_weight=1.0)
    Outcome(final=None, is_labelled=False)
    """
    votes: dict[str | None, list[Reward]] = defaultdict(list)
    signals = []
    for reward in rewards:
        if reward.source.startswith(FEEDBACK):
            votes[reward.transition_id].append(reward)
        elif reward.source.startswith(AIR) and air_weight > 0:
            signals.append(reward.value)
    if not votes:
        return Outcome(_clamp(air_weight * fsum(signals)) if signals else None, False)
    if None in votes:
        outcome = _verdict(votes[None])
    else:
        outcome = _mean([_verdict(of_transition) for of_transition in votes.values()])
    return Outcome(_clamp(outcome + air_weight * fsum(signals)), True)


def _verdict(votes: list[Reward]) -> float:
    """What the best kind of source says of one target: the mean over names of their means."""
    best = min(_rank(vote) for vote in votes)
    by_name: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if _rank(vote) == best:
            by_name[vote.name].append(vote.value)
    return _mean([_mean(values) for values in by_name.values()])


def _rank(vote: Reward) -> int:
    return PRIORITY.index(vote.source.split(":")[1])


def _mean(values: list[float]) -> float:
    """The mean, to the last bit the same in whatever order the values come."""
    return fsum(values) / len(values)


def _clamp(value: float) -> float:
    return min(1.0, max(-1.0, value))
