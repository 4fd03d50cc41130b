"""Logprobs of a chat answer as Responses shows them. Pure."""

from itertools import accumulate
from typing import Any


def read_logprobs(value: object) -> list[dict[str, Any]]:
    """Entries with their alternatives; what cannot be read is left out."""
    content = value.get("content") if isinstance(value, dict) else None
    found: list[dict[str, Any]] = []
    for entry in content if isinstance(content, list) else []:
        shown = _entry(entry)
        if shown is not None:
            top = entry.get("top_logprobs")
            likely = map(_entry, top if isinstance(top, list) else [])
            shown["top_logprobs"] = [other for other in likely if other is not None]
            found.append(shown)
    return found


def _entry(entry: object) -> dict[str, Any] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    token, known = entry["token"], entry.get("bytes")
    spelled = known if isinstance(known, list) else list(token.encode())
    return {"token": token, "bytes": spelled, "logprob": entry.get("logprob")}


def of_text(entries: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Of a whole answer's entries those that spell its text; none when they cannot be told.

    The engine lists every token: of reasoning, of tool calls, the end token.
    """
    ends = list(accumulate(len(entry["token"]) for entry in entries))
    start = "".join(entry["token"] for entry in entries).rfind(text)
    if start < 0:
        return []  # a character of several tokens
    try:
        first = ends.index(start) + 1 if start else 0
        last = ends.index(start + len(text), first)
    except ValueError:
        return []  # a token that is text only in part
    return entries[first : last + 1]
