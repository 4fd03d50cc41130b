"""AIR, automatic intermediate rewards: faults that need nobody to report them.

Pure. Each signal reads one transition and its neighbours, and says why it
fired; `SIGNALS` lists them with their default values. They are small and never
positive: a reward for "the tool ran" is learned instead of the task (see
docs/feedback.md), so AIR shapes and the outcome decides. `[rewards.air]`
overrides a value by name, 0 switches a signal off.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trajectories.errors import SettingsError
from trajectories.ids import derived_id
from trajectories.model import Outcome, Reward, Trajectory, Transition
from workers.rewards.schemas import first_fault
from workers.rewards.tool_errors import says_error
from workers.rewards.turns import (
    answer_of,
    calls_of,
    results_of,
    schema_of,
    tools_of,
)

PREFIX = "air:"
_TAGGED = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """One transition and what came before and after it in its trajectory."""

    transition: Transition
    earlier: Sequence[Transition]
    later: Sequence[Transition]

    @property
    def finish_reason(self) -> str | None:
        choices = self.transition.choices
        return choices[0].finish_reason if choices else None


@dataclass(frozen=True, slots=True)
class Signal:
    """A named fault: `find` gives the reason when it is there. A new meaning is a new version."""

    name: str
    version: int
    default: float
    find: Callable[[Turn], str | None]


def tool_call_unparsable(turn: Turn) -> str | None:
    """The arguments of a tool call are not a JSON object, or a `<tool_call>` in the text is broken.

    The engine leaves a call that its parser could not read in the content.
    """
    for call in calls_of(turn.transition):
        try:
            parsed = call.parsed
        except ValueError:
            return f"arguments of {call.name} are not JSON"
        if not isinstance(parsed, dict):
            return f"arguments of {call.name} are not a JSON object"
    for match in _TAGGED.finditer(answer_of(turn.transition)):
        is_closed = bool(match[2])
        if not is_closed and turn.finish_reason == "length":
            continue  # `truncated` says it
        if not is_closed or not _is_call(match[1].strip()):
            return "the text holds a broken <tool_call>"
    return None


def unknown_tool(turn: Turn) -> str | None:
    """The model called a tool that the request did not offer."""
    offered = tools_of(turn.transition.request)
    for call in calls_of(turn.transition):
        if call.name not in offered:
            return f"{call.name} was not offered"
    return None


def tool_arguments_invalid(turn: Turn) -> str | None:
    """The arguments of a tool call break the tool's own JSON schema."""
    offered = tools_of(turn.transition.request)
    for call in calls_of(turn.transition):
        schema = offered.get(call.name)
        if schema is None:
            continue
        try:
            parsed = call.parsed
        except ValueError:
            continue  # `tool_call_unparsable` says it
        fault = first_fault(schema, parsed)
        if fault:
            return f"arguments of {call.name}: {fault}"
    return None


def tool_result_error(turn: Turn) -> str | None:
    """A tool answered with an error; it counts against the transition that made the call."""
    names = {call.id: call.name for call in calls_of(turn.transition) if call.id}
    if not names:
        return None
    for later in turn.later:
        for result in results_of(later.request):
            if result.call_id in names and (result.is_error or says_error(result.text)):
                return f"{names[result.call_id]} answered with an error"
    return None


def repeated_call(turn: Turn) -> str | None:
    """The same tool was called with the same arguments, though its result had been given.

    Calling again after an error is a retry, not a repetition.
    """
    answered = {
        result.call_id
        for transition in (*turn.earlier, turn.transition)
        for result in results_of(transition.request)
        if not result.is_error and not says_error(result.text)
    }
    known = {
        call.key
        for transition in turn.earlier
        for call in calls_of(transition)
        if call.id in answered
    }
    for call in calls_of(turn.transition):
        if call.key in known:
            return f"{call.name} was called again with the same arguments"
    return None


def truncated(turn: Turn) -> str | None:
    """The answer ran into the token limit."""
    return "the token limit cut the answer" if turn.finish_reason == "length" else None


def schema_broken(turn: Turn) -> str | None:
    """The request asked for JSON (`response_format`) and the answer does not hold it."""
    schema = schema_of(turn.transition.request)
    text = answer_of(turn.transition)
    if schema is None or not text or turn.finish_reason == "length":
        return None  # a tool call or a refusal has no text; `truncated` says the third
    try:
        value = json.loads(text)
    except ValueError:
        return "the answer is not JSON"
    fault = first_fault(schema, value)
    return f"the answer: {fault}" if fault else None


SIGNALS: tuple[Signal, ...] = (
    Signal("tool_call_unparsable", 1, -0.3, tool_call_unparsable),
    Signal("unknown_tool", 1, -0.3, unknown_tool),
    Signal("tool_arguments_invalid", 1, -0.3, tool_arguments_invalid),
    Signal("tool_result_error", 1, -0.3, tool_result_error),
    Signal("repeated_call", 1, -0.3, repeated_call),
    Signal("truncated", 1, -0.3, truncated),
    Signal("schema_broken", 1, -0.3, schema_broken),
)


def signal_values(overrides: Mapping[str, float]) -> dict[str, float]:
    """Signal -> value after `overrides`; raises SettingsError for what cannot be meant."""
    values = {signal.name: signal.default for signal in SIGNALS}
    for name, value in overrides.items():
        if name not in values:
            known = ", ".join(values)
            raise SettingsError(f"rewards.air.{name}: no such signal (there are: {known})")
        if not -1.0 <= value <= 0.0:
            raise SettingsError(f"rewards.air.{name}: {value} is not between -1 and 0")
        values[name] = value
    return values


def air_rewards(trajectory: Trajectory, values: Mapping[str, float]) -> list[Reward]:
    """The AIR rewards of every answered transition: each signal at most once on each."""
    rewards = []
    turns = trajectory.transitions
    for position, transition in enumerate(turns):
        if transition.outcome is not Outcome.COMPLETE or not transition.choices:
            continue  # an answer that broke off is not the model's fault
        turn = Turn(transition, turns[:position], turns[position + 1 :])
        for signal in SIGNALS:
            value = values.get(signal.name, 0.0)
            reason = signal.find(turn) if value else None
            if reason is not None:
                rewards.append(_reward(trajectory, transition, signal, value, reason))
    return rewards


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


def _is_call(text: str) -> bool:
    """Whether the inside of a `<tool_call>` tag is a call, as Hermes or Qwen3-Coder write it."""
    if text.startswith("<function="):
        return text.endswith("</function>")
    try:
        parsed = json.loads(text)
    except ValueError:
        return False
    return isinstance(parsed, dict) and isinstance(parsed.get("name"), str)
