"""What a trajectory was worth to one of its agents, with some labels left out. Pure.

A session in which several agents take part has a joint reward: what was said
of the whole reaches all of them. What was said of one call, and what AIR found
in it, is the matter of the agent that made it, and of no other. Where nothing
is left out and only one agent took part, the reward is the stored one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from trajectories.composition import AIR, FEEDBACK, Composition, compose
from trajectories.model import Reward, Trajectory, Transition

_UNCLAMPED = (-1.0, 1.0)
_PEOPLE = FEEDBACK + "human"
_ITS_OWN = {"transition_id": None, "choice": None}


@dataclass(frozen=True, slots=True)
class Worth:
    """The final reward, and the pieces that credit is made of."""

    reward: float | None  # None: nobody said anything, and no signal fired
    is_labelled: bool = False
    outcome: float | None = None  # what was said of the whole, without AIR
    votes: Mapping[str, float] = field(default_factory=dict)  # transition id -> what was said
    air: Mapping[str, float] = field(default_factory=dict)  # transition id -> weighted signals
    labels: tuple[Reward, ...] = ()  # the votes that were not left out
    is_heard: bool = False  # people's votes decided
    guess: float | None = None  # what it would be without people; None: only AIR would speak


def agent_of(trajectory: Trajectory, transition: Transition) -> str | None:
    """Who made a call. The trajectory's agent is everybody's where no call names one."""
    if transition.agent is not None:
        return transition.agent
    is_named = any(other.agent is not None for other in trajectory.transitions)
    return None if is_named else trajectory.agent


Unit = str | tuple[str | None, str, int] | None  # an agent, or one of its choices: call, index


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of one agent's part of a trajectory, and the signals that fired in it."""

    rewards: tuple[Reward, ...]
    is_all: bool  # whether nothing else was said of the trajectory
    final: float | None  # the trajectory's own final reward
    is_choice: bool = False  # one answer by itself: signals alone are no reward of it


def said_of(trajectory: Trajectory, agent: str | None) -> Said:
    """What concerns `agent`: the whole, and the calls that it made."""
    foreign = {
        transition.id
        for transition in trajectory.transitions
        if agent_of(trajectory, transition) != agent
    }
    own = tuple(
        reward
        for reward in trajectory.rewards
        if reward.transition_id not in foreign and reward.choice is None
    )
    return Said(own, len(own) == len(trajectory.rewards), trajectory.reward)


def said_of_choice(trajectory: Trajectory, call: str, choice: int) -> Said:
    """What was said of one of several answers by itself, as of a trajectory of its own."""
    own = [r for r in trajectory.rewards if r.transition_id == call and r.choice == choice]
    own = [reward.model_copy(update=_ITS_OWN) for reward in own]
    return Said(tuple(own), is_all=False, final=None, is_choice=True)


def said_by_unit(trajectory: Trajectory, units: Iterable[Unit]) -> dict[Unit, Said]:
    """What was said of each of these."""
    return {
        unit: said_of_choice(trajectory, *unit[1:])
        if isinstance(unit, tuple)
        else said_of(trajectory, unit)
        for unit in set(units)
    }


def agent_in(unit: Unit) -> str | None:
    """Whose it is."""
    return unit[0] if isinstance(unit, tuple) else unit


def weigh(said: Said, composition: Composition, dropped: frozenset[str] = frozenset()) -> Worth:
    """What it comes to; `dropped` are ids of rewards to leave out."""
    kept = [reward for reward in said.rewards if reward.id not in dropped]
    joint = compose(kept, composition)
    if said.is_choice and not joint.is_labelled:
        return Worth(None)
    is_whole = said.is_all and len(kept) == len(said.rewards)
    of_kind = [reward for reward in kept if reward.source.startswith((AIR, FEEDBACK))]
    plain = replace(composition, clamp=_UNCLAMPED)
    labels = [reward for reward in kept if reward.source.startswith(FEEDBACK)]
    shares = joint.breakdown.shares if joint.breakdown is not None else {}
    others = [reward for reward in kept if not reward.source.startswith(_PEOPLE)]
    unheard = joint if len(others) == len(kept) else compose(others, composition)
    return Worth(
        reward=said.final if is_whole else joint.final,
        is_labelled=joint.is_labelled or len(of_kind) < len(kept),
        outcome=compose([r for r in labels if r.transition_id is None], plain).final,
        votes=_by_transition(labels, plain),
        air=_by_transition([r for r in kept if r.source.startswith(AIR)], plain),
        labels=tuple(labels),
        is_heard=any(r.id in shares and r.source.startswith(_PEOPLE) for r in kept),
        guess=unheard.final if unheard.is_labelled else None,
    )


def _by_transition(rewards: list[Reward], composition: Composition) -> dict[str, float]:
    of: dict[str, list[Reward]] = defaultdict(list)
    for reward in rewards:
        if reward.transition_id is not None:
            of[reward.transition_id].append(reward)
    found = {name: compose(owned, composition).final for name, owned in of.items()}
    return {name: value for name, value in found.items() if value is not None}
