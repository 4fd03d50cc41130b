"""Signals about the answer itself: cut, empty, declined, or other than the one before."""

import json
import re
from dataclasses import dataclass
from typing import Any

from workers.rewards.openings import opens_with_refusal
from workers.rewards.signals.signal import Signal
from workers.rewards.story import Turn

LEAST_LIMIT = 16  # tokens; who allows fewer wants the answer cut
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
LONGEST_SENTENCE = 300  # characters


def truncated(turn: Turn) -> str | None:
    """The answer ran into the token limit, and the limit left room for one."""
    if turn.finish_reason != "length":
        return None
    given = [turn.request.get(name) for name in _LIMITS]
    limit = min((value for value in given if isinstance(value, int)), default=LEAST_LIMIT)
    return "the token limit cut the answer" if limit >= LEAST_LIMIT else None


def empty_answer(turn: Turn) -> str | None:
    """Nothing came: no text, no call, no refusal, no sound or picture."""
    message = turn.transition.choices[0].message
    if turn.finish_reason in ("length", "content_filter") or turn.answer.strip() or turn.calls:
        return None
    kept = ("tool_calls", "function_call", "refusal", "audio", "images")
    if any(message.get(name) for name in kept):
        return None
    content = message.get("content")
    if isinstance(content, list) and any(_has_more(part) for part in content):
        return None
    return "the answer is empty"


def refused(turn: Turn) -> str | None:
    """The model declined: the API's own `refusal`, its content filter, or the answer's opening.

    Off by default: declining may be right, and a model that is taught never to decline is worse.
    """
    if turn.transition.choices[0].message.get("refusal"):
        return "the answer is marked as a refusal"
    if turn.finish_reason == "content_filter":
        return "a content filter ended the answer"
    if not turn.calls and opens_with_refusal(turn.answer):
        return "the answer begins as a refusal"
    return None


def self_contradiction(turn: Turn) -> str | None:
    """The very same was asked again, and the answer gives other numbers.

    Small on purpose: two answers are compared only where both are JSON with the same keys, or
    the same sentence but for its numbers; which of them is right nobody knows.
    """
    before = turn.before
    if before is None or turn.calls or before.calls:
        return None
    first, second = before.answer.strip(), turn.answer.strip()
    if not first or not second or first == second:
        return None
    one, other = _facts(first), _facts(second)
    if one is None or other is None or one.shape != other.shape or one.numbers == other.numbers:
        return None
    return "asked the same again, the model gave another result"


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an answer commits itself to: its numbers, and all that stands around them."""

    shape: Any
    numbers: list[Any]


def _facts(text: str) -> _Facts | None:
    """The numbers of an answer in JSON or in one short sentence; None: there are none."""
    numbers: list[Any] = []
    if text[0] in "[{":
        try:
            shape = _take_out(json.loads(text), numbers)
        except (ValueError, RecursionError):
            return None
    elif len(text) > LONGEST_SENTENCE:
        return None
    else:
        numbers += _NUMBER.findall(text)
        shape = _NUMBER.sub("#", text)
    return _Facts(shape, numbers) if numbers else None


def _take_out(value: Any, numbers: list[Any]) -> Any:
    """The keys of JSON; its numbers and truth values go into `numbers`, its texts nowhere."""
    if isinstance(value, dict):
        return {name: _take_out(value[name], numbers) for name in sorted(value)}
    if isinstance(value, list):
        return [_take_out(entry, numbers) for entry in value]
    if isinstance(value, bool | int | float):
        numbers.append(value)
    return None


def _has_more(part: Any) -> bool:
    """Whether a part of a content list is something besides text."""
    return isinstance(part, dict) and part.get("type") not in (None, "text", "output_text")


SIGNALS = (
    Signal("truncated", 2, -0.3, truncated),
    Signal("empty_answer", 1, -0.3, empty_answer),
    Signal("refused", 1, 0.0, refused),
    Signal("self_contradiction", 1, -0.1, self_contradiction),
)
