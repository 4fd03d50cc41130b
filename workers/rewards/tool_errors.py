"""Whether the text of a tool result reports an error.

Pure, and careful: a tool that found an error in a log file has not failed. So
only the shapes in which frameworks report their own failure count.
"""

import json
import re
from typing import Any

_STATUS = ("status", "status_code", "statusCode")
_OPENING = re.compile(
    r"(tool )?[\w.]*(error|exception)( (executing|calling|running)\b[^\n:]{0,80})?:", re.I
)
_TRACEBACK = "Traceback (most recent call last)"


def says_error(text: str) -> bool:
    """Whether a tool result is an error: by its JSON, its first words, or a traceback."""
    text = text.strip()
    if text.startswith("{"):
        try:
            body = json.loads(text)
        except ValueError:
            pass
        else:
            return isinstance(body, dict) and _reports_error(body)
    return bool(_OPENING.match(text)) or _TRACEBACK in text[:2000]


def _reports_error(body: dict[str, Any]) -> bool:
    if body.get("error") or body.get("is_error") is True or body.get("isError") is True:
        return True
    return any(_is_failure(body.get(name)) for name in _STATUS)


def _is_failure(status: Any) -> bool:
    if isinstance(status, bool):
        return False
    if isinstance(status, int):
        return 400 <= status <= 599
    return isinstance(status, str) and status.lower() in ("error", "failed", "failure")
