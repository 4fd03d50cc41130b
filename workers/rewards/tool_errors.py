"""Whether the text of a tool result reports an error, or is empty.

Pure, and careful: a tool that found an error in a log file has not failed. So
only the shapes in which frameworks report their own failure count.
"""

import json
import re
from typing import Any

_STATUS = ("status", "status_code", "statusCode")
_OPENING = re.compile(
    r"(<(tool_use_)?error>"  # Claude Code
    r"|(tool )?[\w.]*(error|exception)( (executing|calling|running|invoking)\b[^\n:]{0,80})?:"
    r"|(http|error|(http )?(status|error)( code)|http (status|error)):? ?[45]\d\d\b"
    r"|an (unexpected )?error (has )?occurred (while|when|during)\b"  # openai-agents
    r"|\d+ validation errors? for |validation errors? found\b"  # pydantic, instructor
    r"|(failed|unable) to (call|execute|invoke|run) [^\n:]{0,80}:)",
    re.I,
)
_WHY = frozenset(("message", "detail", "reason", "error_message"))
_TRACEBACK = "Traceback (most recent call last)"
_NOTHING = frozenset(("", '""', "''", "()", "null", "none", "undefined", "nan", "no output"))


def says_error(text: str) -> bool:
    """Whether a tool result is an error: by its JSON, its first words, or a traceback."""
    text = text.strip()
    if text.startswith("{"):
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return isinstance(body, dict) and _reports_error(body)
    return _OPENING.match(text[:500]) is not None or _TRACEBACK in text[:2000]


def is_empty(text: str) -> bool:
    """Whether a tool result holds nothing: no text, null, or JSON of empty lists and objects."""
    text = text.strip()
    if len(text) > 200:
        return False
    if text.strip("().").casefold() in _NOTHING or text.casefold() in _NOTHING:
        return True
    if text[0] not in "[{":
        return False
    try:
        return _is_void(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _is_void(value: Any) -> bool:
    """No value anywhere; a count of 0 beside an empty list is none either."""
    if isinstance(value, dict):
        has_list = any(entry == [] for entry in value.values())
        return all(_is_void(entry) or (has_list and _is_zero(entry)) for entry in value.values())
    if isinstance(value, list):
        return not value
    return value is None or value == ""


def _is_zero(value: Any) -> bool:
    return value == 0 and not isinstance(value, bool)


def _reports_error(body: dict[str, Any]) -> bool:
    if body.get("error") or body.get("is_error") is True or body.get("isError") is True:
        return True
    return any(_is_failure(body.get(name), body) for name in _STATUS)


def _is_failure(status: Any, body: dict[str, Any]) -> bool:
    if isinstance(status, bool):
        return False
    if isinstance(status, int):
        return 400 <= status <= 599
    if not isinstance(status, str):
        return False
    # A build that failed is what was asked for, unless the tool says why it could not tell.
    is_failed = status.lower() in ("failed", "failure") and not _WHY.isdisjoint(body)
    return status.lower() == "error" or is_failed
