"""AIR, automatic intermediate rewards: faults that need nobody to report them.

Pure: (trajectory, rules) -> rewards. `signals/` has the signals with their
default values. They are small and never positive: a reward for "the tool ran"
is learned instead of the task (docs/air.md), so AIR shapes and the outcome
decides. `[rewards.air]` overrides a value by name, `[agents.NAME.air]` does so
for one agent's calls, and 0 switches a signal off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajectories.errors import SettingsError
from trajectories.ids import derived_id
from trajectories.model import Reward, Trajectory, Transition
from trajectories.settings import AgentSettings, RewardSettings
from workers.rewards.signals import SIGNALS, Signal
from workers.rewards.story import Limits, Story

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
    """The AIR rewards of every answered transition: each signal at most once on each."""
    story = Story(trajectory)
    rewards = []
    for turn in story.turns:
        own = rules.of(turn.transition.agent)
        turn.limits = own.limits
        if not turn.is_answered:
            continue
        for signal, value in own.active:
            reason = signal.find(turn)
            if reason is not None:
                rewards.append(_reward(trajectory, turn.transition, signal, value, reason))
    return rewards


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
    trajectory: Trajectory, transition: Transition, signal: Signal, value: float, reason: str
) -> Reward:
    source = PREFIX + signal.name
    return Reward(
        id=derived_id("rw", trajectory.id, transition.id, signal.name, source, str(signal.version)),
        trajectory_id=trajectory.id,
        transition_id=transition.id,
        name=signal.name,
        source=source,
        value=value,
        reason=reason,
        revision=signal.version,
    )
