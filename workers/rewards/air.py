"""AIR, automatic intermediate rewards: faults that need nobody to report them.

Pure: (trajectory, rules) -> rewards. `signals/` has the signals with their
default values. They are small and never positive: a reward for "the tool ran"
is learned instead of the task (docs/air.md), so AIR shapes and the outcome
decides. Of several choices of a call each is looked at by itself, and a fault of
one that was not taken is not the call's. `[rewards.air]` overrides a value by
name, `[agents.NAME.air]` does so for one agent's calls, and 0 switches a signal
off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajectories.choices import taken_choices
from trajectories.errors import SettingsError
from trajectories.ids import derived_id
from trajectories.model import Choice, Reward, Trajectory, Transition
from trajectories.settings import AgentSettings, RewardSettings
from workers.rewards.signals import SIGNALS, Signal
from workers.rewards.story import Limits, Story, Turn

PREFIX = "air:"


@dataclass(frozen=True, slots=True)
class AgentRules:
    """The signals that are on for one agent, each with its reward, and the limits they go by."""

    active: tuple[tuple[Signal, float], ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class AirRules:
    """What holds for each agent."""

    common: AgentRules
    agents: Mapping[str, AgentRules]

    def of(self, agent: str | None) -> AgentRules:
        """The rules for an agent's calls; most agents have none of their own."""
        return self.agents.get(agent, self.common) if agent is not None else self.common


def air_rules(
    rewards: RewardSettings,
    agents: Mapping[str, AgentSettings] | None = None,
    signals: Sequence[Signal] = SIGNALS,
) -> AirRules:
    """The rules that the settings mean; raises SettingsError for a signal or value there is not.

    Other `signals` than ours are for replaying old traffic under another version of them.
    """
    values = _overridden(
        {signal.name: signal.default for signal in signals}, rewards.air, "rewards.air"
    )
    own = {}
    for name, agent in (agents or {}).items():
        limits = Limits(
            _first(agent.slow_seconds, rewards.slow_seconds),
            _first(agent.costly_tokens, rewards.costly_tokens),
        )
        agent_values = _overridden(values, agent.air, f"agents.{name}.air")
        own[name] = AgentRules(_active(signals, agent_values), limits)
    common = Limits(rewards.slow_seconds, rewards.costly_tokens)
    return AirRules(AgentRules(_active(signals, values), common), own)


def air_rewards(trajectory: Trajectory, rules: AirRules) -> list[Reward]:
    """The AIR rewards of every answered transition: each signal at most once on each answer."""
    taken = taken_choices(trajectory.transitions)
    story = Story(_with_choices(trajectory, taken)) if taken else Story(trajectory)
    rewards = []
    for turn in story.turns:
        call = trajectory.transitions[turn.position]
        if taken.get(call.id, 0) is not None:
            rewards += _found(trajectory, turn, rules)
        for choice in call.choices if call.id in taken else ():
            if choice.index != taken[call.id]:
                alone = _alone(trajectory, turn.position, choice)
                rewards += _found(trajectory, alone, rules, choice.index)
    return rewards


def _found(
    trajectory: Trajectory, turn: Turn, rules: AirRules, choice: int | None = None
) -> list[Reward]:
    """What fires in one answer."""
    own = rules.of(turn.transition.agent)
    turn.limits = own.limits
    if not turn.is_answered:
        return []
    return [
        _reward(trajectory, turn.transition, signal, value, reason, choice)
        for signal, value in own.active
        if (reason := signal.find(turn)) is not None
    ]


def _with_choices(trajectory: Trajectory, taken: Mapping[str, int | None]) -> Trajectory:
    """As if each call had given the answer alone that was taken."""
    transitions = tuple(
        _answering(call, [choice for choice in call.choices if choice.index == taken[call.id]])
        if taken.get(call.id) is not None
        else call
        for call in trajectory.transitions
    )
    return trajectory.model_copy(update={"transitions": transitions})


def _alone(trajectory: Trajectory, position: int, choice: Choice) -> Turn:
    """A call as if it had given this choice, and nothing had come of it yet."""
    before, call = trajectory.transitions[:position], trajectory.transitions[position]
    transitions = (*before, _answering(call, [choice]))
    story = Story(trajectory.model_copy(update={"transitions": transitions, "is_closed": False}))
    return story.turns[-1]


def _answering(call: Transition, choices: Sequence[Choice]) -> Transition:
    return call.model_copy(update={"choices": tuple(choices)})


def _overridden(
    values: Mapping[str, float], overrides: Mapping[str, float], place: str
) -> dict[str, float]:
    result = dict(values)
    for name, value in overrides.items():
        if name not in result:
            known = ", ".join(result)
            raise SettingsError(f"{place}.{name}: no such signal (there are: {known})")
        if not -1.0 <= value <= 0.0:
            raise SettingsError(f"{place}.{name}: {value} is not between -1 and 0")
        result[name] = value
    return result


def _active(
    signals: Sequence[Signal], values: Mapping[str, float]
) -> tuple[tuple[Signal, float], ...]:
    return tuple((signal, values[signal.name]) for signal in signals if values[signal.name])


def _first(own: float | None, common: float) -> float:
    return common if own is None else own


def _reward(
    trajectory: Trajectory,
    transition: Transition,
    signal: Signal,
    value: float,
    reason: str,
    choice: int | None,
) -> Reward:
    source = PREFIX + signal.name
    place = () if choice is None else (str(choice),)
    parts = (trajectory.id, transition.id, signal.name, source, str(signal.version), *place)
    return Reward(
        id=derived_id("rw", *parts),
        trajectory_id=trajectory.id,
        transition_id=transition.id,
        choice=choice,
        name=signal.name,
        source=source,
        value=value,
        reason=reason,
        revision=signal.version,
    )
