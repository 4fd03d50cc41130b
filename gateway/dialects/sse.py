"""Server-sent events: cut a byte stream into events, and take our additions out of each.

Pure, and independent of where the network split the bytes. An event that needs
no change leaves as the bytes that came. What is not an event we know passes
untouched: a broken upstream is the client's to see, not ours to mend.
"""

import re
from typing import Any

import orjson

from gateway.dialects.chat import Additions, strip_answer

MAX_EVENT_BYTES = 8 * 1024 * 1024
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
DONE = b"[DONE]"


class EventSplitter:
    """Bytes in, whole events out (with their blank line); holds at most one event."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._pending = bytearray()
        self._scanned = 0
        self._max = max_event_bytes
        self._is_overlong = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that `piece` completes; an overlong one comes out in pieces."""
        self._pending += piece
        events: list[bytes] = []
        start = 0
        search_from = max(0, self._scanned - 3)
        while match := _END.search(self._pending, search_from):
            end = match.end()
            if end == len(self._pending) and self._pending[-1:] == b"\r":
                break  # a "\n" may follow and belong to it
            events.append(bytes(self._pending[start:end]))
            self._is_overlong = False
            start = search_from = end
        del self._pending[:start]
        self._scanned = len(self._pending)
        if self._is_overlong or len(self._pending) > self._max:
            self._is_overlong = True
            # The last bytes may be the beginning of the blank line.
            cut = max(0, len(self._pending) - 3)
            if cut:
                events.append(bytes(self._pending[:cut]))
                del self._pending[:cut]
                self._scanned = len(self._pending)
        return events

    def flush(self) -> bytes:
        """What is left when the stream has ended."""
        rest = bytes(self._pending)
        self._pending.clear()
        self._scanned = 0
        return rest


def event_payload(event: bytes) -> bytes | None:
    """The joined `data` lines of an event; None when it has none (a comment)."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and b"\n" not in event[6:-2]:
        return event[6:-2].rstrip(b"\r")
    lines = [_payload_line(line) for line in _LINE_END.split(event)]
    found = [line for line in lines if line is not None]
    return b"\n".join(found) if found else None


def _payload_line(line: bytes) -> bytes | None:
    if line == b"data":
        return b""
    if not line.startswith(b"data:"):
        return None
    return line[6:] if line.startswith(b"data: ") else line[5:]


def parse_chunk(event: bytes) -> dict[str, Any] | None:
    """The JSON object an event carries, or None."""
    if len(event) > MAX_EVENT_BYTES:
        return None
    payload = event_payload(event)
    if payload is None:
        return None
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return chunk if isinstance(chunk, dict) else None


def is_done(event: bytes) -> bool:
    """Whether this is the event that ends a chat stream."""
    return len(event) < 64 and (event_payload(event) or b"").strip() == DONE


class StreamCleaner:
    """Takes our additions out of a stream, event by event.

    vLLM puts its fingerprint on the last chunk of an answer, or on the usage
    chunk if there is one. Where we asked for usage, the last chunk therefore
    waits for the next event, which vLLM sends at once.
    """

    def __init__(self, additions: Additions, alias: str | None) -> None:
        self._additions = additions
        self._alias = alias
        self._has_work = alias is not None or additions != Additions()
        self.held: bytes | None = None
        self.usage: dict[str, Any] | None = None

    def clean(self, event: bytes) -> bytes:
        """What the client gets for this event, now."""
        return self.clean_chunk(event, parse_chunk(event))

    def clean_chunk(self, event: bytes, chunk: dict[str, Any] | None) -> bytes:
        """The same where it is known what the event holds; changes `chunk`."""
        if chunk is not None and isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        if not self._has_work:
            return event
        if chunk is None:
            return self.flush() + event
        if self._additions.usage and chunk.get("choices") == [] and chunk.get("usage"):
            return self._release(chunk.get("system_fingerprint"))
        before = self.flush()
        is_ours = self._is_sent_only_for_us(chunk)
        has_changed = strip_answer(chunk, self._additions, self._alias)
        if is_ours:
            return before
        if self._additions.usage and "usage" in chunk and chunk["usage"] is None:
            del chunk["usage"]
            has_changed = True
        cleaned = _with_payload(event, chunk) if has_changed else event
        if self._additions.usage and _is_last_chunk(chunk):
            self.held = cleaned
            return before
        return before + cleaned

    def flush(self) -> bytes:
        """What was held back; also call it when the stream has ended."""
        held, self.held = self.held, None
        return held or b""

    def _release(self, fingerprint: object) -> bytes:
        held = self.flush()
        chunk = parse_chunk(held) if held else None
        if chunk is None or fingerprint is None or "system_fingerprint" in chunk:
            return held
        chunk["system_fingerprint"] = fingerprint
        return _with_payload(held, chunk)

    def _is_sent_only_for_us(self, chunk: dict[str, Any]) -> bool:
        # vLLM keeps quiet while its parser buffers, unless ids or logprobs were asked for.
        if not (self._additions.token_ids and self._additions.logprobs):
            return False
        choices = chunk.get("choices")
        return (
            isinstance(choices, list)
            and bool(choices)
            and all(
                isinstance(choice, dict)
                and choice.get("delta") == {}
                and choice.get("finish_reason") is None
                and choice.get("token_ids") is not None
                for choice in choices
            )
        )


def _is_last_chunk(chunk: dict[str, Any]) -> bool:
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in choices
    )


def _with_payload(event: bytes, chunk: dict[str, Any]) -> bytes:
    """The event with another payload; its other lines stay."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return b"data: %b\n\n" % orjson.dumps(chunk)
    kept = [line for line in _LINE_END.split(event) if line and _payload_line(line) is None]
    newline = b"\r\n" if event.endswith(b"\r\n") else b"\n"
    return newline.join([*kept, b"data: " + orjson.dumps(chunk), b"", b""])
