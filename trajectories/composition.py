"""Many rewards to one: the final reward of a trajectory, or None, and how it came about.

Pure and independent of order, to the last bit: shares are fractions, rounded once.
Per target the best kind of source decides (human, else code, else judge, or
what `[rewards] priority` says). The trajectory's own votes are the outcome,
unless its responses have votes of a better kind; else the mean over the voted
responses is. AIR's sum shapes that, and alone it can only lower. What was said of
choices that were not taken counts where nothing else was said; what AIR found in
them does not. Nothing said and nothing fired is None, never 0. Workers compose
what is stored; the trainer composes again where a round leaves a label out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import fsum

from trajectories.model import Breakdown, Reward
from trajectories.settings import AgentSettings, RewardSettings

AIR = "air:"  # how the sources of automatic rewards begin
FEEDBACK = "feedback:"  # how the sources of votes begin


@dataclass(frozen=True, slots=True)
class Composition:
    """How the rewards of one agent's trajectories become one number.

    `priority` are kinds of source, best first; None: all count alike. A kind
    that is not in it never counts. A name that is not in `weights` weighs 1.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    priority: tuple[str, ...] | None = ("human", "code", "judge")
    air_weight: float = 1.0
    clamp: tuple[float, float] = (-1.0, 1.0)

    @classmethod
    def from_settings(
        cls, settings: RewardSettings, agent: AgentSettings | None = None
    ) -> "Composition":
        """What `[rewards]` says, where `[agents.NAME]` says nothing else."""
        own = agent or AgentSettings()
        priority = own.priority if own.priority is not None else settings.priority
        return cls(
            weights={**settings.weights, **own.weights},
            priority=None if priority == "mean" else priority,
            air_weight=settings.air_weight if own.air_weight is None else own.air_weight,
            clamp=own.clamp or settings.clamp,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trajectory was worth; `is_labelled` says that somebody said so."""

    final: float | None
    is_labelled: bool
    breakdown: Breakdown | None = None


_DEFAULT = Composition()


def compose(rewards: Iterable[Reward], composition: Composition = _DEFAULT) -> Outcome:
    """The final reward of one trajectory, with its breakdown.

    >>> compose([])
    Outcome(final=None, is_labelled=False, breakdown=None)
    """
    votes: dict[str | None, list[Reward]] = defaultdict(list)
    of_choices: dict[str | None, list[Reward]] = defaultdict(list)
    signals = []
    left_out: dict[str, str] = {}
    for reward in rewards:
        if reward.source.startswith(FEEDBACK):
            if _weight(reward, composition) <= 0:
                left_out[reward.id] = "weight"
            elif _rank(reward, composition) is None:
                left_out[reward.id] = "source"
            elif reward.choice is not None:
                of_choices[f"{reward.transition_id}/{reward.choice}"].append(reward)
            else:
                votes[reward.transition_id].append(reward)
        elif reward.source.startswith(AIR) and reward.choice is None and composition.air_weight > 0:
            signals.append(reward.value)
    if votes:
        left_out.update(dict.fromkeys((r.id for of in of_choices.values() for r in of), "target"))
    else:
        votes = of_choices
    shares = _shares(votes, composition, left_out)
    air = composition.air_weight * fsum(signals)
    if not shares and not signals:
        return Outcome(None, False)
    by_id = {reward.id: reward.value for of in votes.values() for reward in of}
    outcome = None
    if shares:
        outcome = float(sum(Fraction(by_id[name]) * share for name, share in shares.items()))
    final = _clamp((outcome or 0.0) + air, composition.clamp)
    return Outcome(
        final,
        bool(shares),
        Breakdown(
            outcome=outcome,
            air=air if signals else None,
            clamp=composition.clamp,
            shares={name: float(shares[name]) for name in sorted(shares)},
            left_out=dict(sorted(left_out.items())),
        ),
    )


def _shares(
    votes: Mapping[str | None, list[Reward]], composition: Composition, left_out: dict[str, str]
) -> dict[str, Fraction]:
    """Reward id -> its share in the outcome; they add up to 1. Notes what was outvoted."""
    targets = dict(votes)
    own = targets.pop(None, [])
    if own and targets:
        # A judge of the whole does not outvote a person who spoke of one answer.
        is_own = _best(own, composition) <= min(_best(of, composition) for of in targets.values())
        outvoted = [vote for of in targets.values() for vote in of] if is_own else own
        left_out.update(dict.fromkeys((vote.id for vote in outvoted), "target"))
        targets = {None: own} if is_own else targets
    elif own:
        targets = {None: own}
    shares: dict[str, Fraction] = {}
    for of_target in targets.values():
        for name, share in _shares_of_target(of_target, composition, left_out).items():
            shares[name] = share / len(targets)
    return shares


def _shares_of_target(
    votes: list[Reward], composition: Composition, left_out: dict[str, str]
) -> dict[str, Fraction]:
    """The best kind of source decides: names by their weights, votes on one name alike."""
    best = _best(votes, composition)
    by_name: dict[str, list[Reward]] = defaultdict(list)
    for vote in votes:
        if _rank(vote, composition) == best:
            by_name[vote.name].append(vote)
        else:
            left_out[vote.id] = "priority"
    weights = {name: Fraction(_weight(of[0], composition)) for name, of in by_name.items()}
    total = sum(weights.values())
    return {
        vote.id: weights[vote.name] / total / len(of_name)
        for of_name in by_name.values()
        for vote in of_name
    }


def _best(votes: Iterable[Reward], composition: Composition) -> int:
    return min(_rank(vote, composition) or 0 for vote in votes)


def _rank(vote: Reward, composition: Composition) -> int | None:
    """0 for the kind of source that decides first; None when its kind never counts."""
    if composition.priority is None:
        return 0
    kind = vote.source.split(":")[1]
    return composition.priority.index(kind) if kind in composition.priority else None


def _weight(vote: Reward, composition: Composition) -> float:
    return composition.weights.get(vote.name, 1.0)


def _clamp(value: float, clamp: tuple[float, float]) -> float:
    low, high = clamp
    return min(high, max(low, value)) + 0.0  # no -0.0
