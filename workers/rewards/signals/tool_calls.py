"""Signals about the calls that the model wrote: can they be read, do they fit, do they get on?"""

import json
import re
from collections.abc import Sequence

from workers.rewards.schemas import first_fault
from workers.rewards.signals.signal import Signal
from workers.rewards.story import Turn
from workers.rewards.tool_errors import says_error
from workers.rewards.turns import ToolCall

LONGEST_CYCLE = 4  # calls
_TAGGED = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)


def tool_call_unparsable(turn: Turn) -> str | None:
    """The arguments of a tool call are not a JSON object, or a `<tool_call>` in the text is broken.

    The engine leaves a call that its parser could not read in the content. Where no tool was
    offered, such text is talk about tool calls.
    """
    for call in turn.calls:
        if not call.is_readable:
            return f"arguments of {call.name} are not JSON"
        if not isinstance(call.value, dict):
            return f"arguments of {call.name} are not a JSON object"
    if "<tool_call>" not in turn.answer or not turn.offered:
        return None
    for match in _TAGGED.finditer(turn.answer):
        is_closed = bool(match[2])
        if not is_closed and turn.finish_reason == "length":
            continue  # `truncated` says it
        if not is_closed or not _is_call(match[1].strip()):
            return "the text holds a broken <tool_call>"
    return None


def unknown_tool(turn: Turn) -> str | None:
    """The model called a tool that the request did not offer, though it offered others.

    Without any, the call is of a tool that somebody else's server offers by itself.
    """
    for call in turn.calls:
        if turn.offered and call.name not in turn.offered:
            return f"{call.name} was not offered"
    return None


def tool_arguments_invalid(turn: Turn) -> str | None:
    """The arguments of a tool call break the tool's own JSON schema.

    What is not JSON is `tool_call_unparsable`'s.
    """
    for call in turn.calls:
        schema = turn.offered.get(call.name)
        fault = first_fault(schema, call.value) if schema and call.is_readable else None
        if fault:
            return f"arguments of {call.name}: {fault}"
    return None


def is_sound(turn: Turn, call: ToolCall) -> bool:
    """Whether the signals above have nothing against a call: what comes of it is news."""
    if not isinstance(call.value, dict) or (turn.offered and call.name not in turn.offered):
        return False
    schema = turn.offered.get(call.name)
    return not schema or first_fault(schema, call.value) is None


def repeated_call(turn: Turn) -> str | None:
    """The same call as before brought the same result as before: nothing was learned by it.

    Calling again after an error is a retry, and a result that changed (a file that was edited, a
    job that went on) was worth asking for. Without both results nothing is said.
    """
    for call, key in zip(turn.calls, turn.keys, strict=True):
        known = turn.story.called_before(turn, key)
        if known is None:
            continue
        earlier, first = known
        before, now = earlier.result_of(first), turn.result_of(call)
        if before is None or now is None or before.text != now.text:
            continue
        if not now.is_error and not says_error(now.text):
            return f"{call.name} was called again with the same arguments and the same result"
    return None


def call_loop(turn: Turn) -> str | None:
    """The calls go round in a circle: one of them three times, or A, B, A, B (up to four).

    Spaces and capitals in the arguments make no difference. The results have to be the same in
    each round, as far as they are known: polling that sees something new is no loop.
    """
    if not turn.calls:
        return None
    run = turn.last(2 * LONGEST_CYCLE)
    for length in range(1, LONGEST_CYCLE + 1):
        size = 3 if length == 1 else 2 * length
        if _goes_round(run[-size:], length, size):
            if length == 1:
                return f"{turn.calls[0].name} was called three times in a row to no effect"
            return f"the last {length} calls repeat the {length} before them"
    return None


def _goes_round(window: Sequence[Turn], length: int, size: int) -> bool:
    if len(window) < size or not all(turn.calls for turn in window):
        return False
    return all(
        window[place].step == window[place - length].step
        and _same_results(window[place], window[place - length], is_last=place == size - 1)
        for place in range(length, size)
    )


def _same_results(turn: Turn, earlier: Turn, *, is_last: bool) -> bool:
    results = _results(turn)
    return results == _results(earlier) or (is_last and None in results)


def _results(turn: Turn) -> list[str | None]:
    """What the calls brought, in the order of `step`."""
    found = [(key, turn.result_of(call)) for key, call in zip(turn.keys, turn.calls, strict=True)]
    found.sort(key=lambda entry: entry[0])
    return [turn.aftermath if result is None else result.text for _, result in found]


def _is_call(text: str) -> bool:
    """Whether the inside of a `<tool_call>` tag is a call, as Hermes or Qwen3-Coder write it."""
    if text.startswith("<function="):
        return text.endswith("</function>")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and isinstance(parsed.get("name"), str)


SIGNALS = (
    Signal("tool_call_unparsable", 2, -0.3, tool_call_unparsable),
    Signal("unknown_tool", 2, -0.3, unknown_tool),
    Signal("tool_arguments_invalid", 2, -0.3, tool_arguments_invalid),
    Signal("repeated_call", 2, -0.3, repeated_call),
    Signal("call_loop", 1, -0.3, call_loop),
)
