"""Signals about what tools answered; they count against the turn that made the call."""

import re

from workers.rewards.signals.signal import Signal
from workers.rewards.signals.tool_calls import is_sound
from workers.rewards.story import Turn
from workers.rewards.tool_errors import is_empty, says_error

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ASKING = frozenset(
    """
    fetch find get grep list load lookup look query read recall retrieve search select show
    """.split()  # noqa: SIM905 - words are read as text
)
_ACTING = frozenset(
    """
    add append bash click close commit create delete drop edit exec execute insert move open post
    publish push put remove rename reset run save send set shell sleep start stop store submit
    update upload wait write
    """.split()  # noqa: SIM905
)


def tool_result_error(turn: Turn) -> str | None:
    """A tool answered with an error: a status, an error field, a traceback, or words to say so.

    Not where the call was at fault already: one mistake is one reward.
    """
    for call in turn.calls:
        result = turn.result_of(call)
        if result is None or not (result.is_error or says_error(result.text)):
            continue
        if is_sound(turn, call):
            return f"{call.name} answered with an error"
    return None


def tool_result_empty(turn: Turn) -> str | None:
    """A tool that was asked for something had nothing to give: `""`, `[]`, `null`, no rows.

    Only tools whose names say that they look things up: one that acts may well have nothing to
    say.
    """
    for call in turn.calls:
        if not _asks(call.name):
            continue
        result = turn.result_of(call)
        if result is None or result.is_error or not result.is_text:
            continue
        if is_empty(result.text):
            return f"{call.name} found nothing"
    return None


def _asks(name: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name)}
    return not words.isdisjoint(_ASKING) and words.isdisjoint(_ACTING)


SIGNALS = (
    Signal("tool_result_error", 2, -0.3, tool_result_error),
    Signal("tool_result_empty", 1, -0.1, tool_result_empty),
)
