"""What an upstream that speaks Messages itself answered, as a chat assistant message.

Pure, and done once, after the last byte. There are no token ids here: such an
answer can teach by its text only. What Anthropic's servers did on the way
(searches, code) has no chat form and is left out.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.dialects.chat import FoldedChoice, as_text
from gateway.dialects.fold import Folded
from gateway.dialects.sse import EventSplitter, event_payload, parse_chunk

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_TEXTS = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}


@dataclass(slots=True)
class _Block:
    """A content block of a stream, as far as it came."""

    start: dict[str, Any] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)

    def add(self, delta: dict[str, Any]) -> None:
        piece = delta.get(_TEXTS.get(str(self.start.get("type")), ""))
        if isinstance(piece, str):
            self.pieces.append(piece)

    def whole(self) -> dict[str, Any]:
        if not self.pieces:
            return self.start
        name = "input" if self.start["type"] == "tool_use" else self.start["type"]
        begun = self.start.get(name)
        said = "".join(self.pieces)
        return {**self.start, name: begun + said if isinstance(begun, str) else said}


def fold_message(answer: dict[str, Any]) -> Folded:
    """A whole message, or an error."""
    if answer.get("error") is not None:
        return Folded(error=_error_text(answer["error"]), is_done=True)
    return _folded(answer, error=None, is_done=True, garbage=0)


def fold_stream(stream: bytes) -> Folded:
    """One message out of the raw bytes of an event stream."""
    events, garbage = _read(stream)
    message: dict[str, Any] = {}
    blocks: dict[int, _Block] = {}
    error: str | None = None
    is_done = False
    for event in events:
        kind, index = event.get("type"), event.get("index")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            message = event["message"]
        elif kind == "content_block_start" and type(index) is int:
            start = event.get("content_block")
            blocks[index] = _Block(start if isinstance(start, dict) else {})
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            if type(index) is int and index in blocks:
                blocks[index].add(event["delta"])
        elif kind == "message_delta":
            message = _changed(message, event)
        elif kind == "message_stop":
            is_done = True
        elif kind == "error":
            error = error or _error_text(event.get("error"))
    content = [block.whole() for _, block in sorted(blocks.items())]
    whole = {**message, "content": content} if message else {}
    return _folded(whole, error=error, is_done=is_done, garbage=garbage)


def _read(stream: bytes) -> tuple[list[dict[str, Any]], int]:
    """The events, and how many could not be read."""
    splitter = EventSplitter()
    found: list[dict[str, Any]] = []
    garbage = 0
    for raw in splitter.feed(stream):
        event = parse_chunk(raw)
        if event is not None:
            found.append(event)
        else:
            garbage += event_payload(raw) is not None  # else it is a comment
    rest = splitter.flush()
    last = parse_chunk(rest)
    if last is not None:
        found.append(last)
    return found, garbage + (last is None and bool(rest.strip()))


def _changed(message: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """The message after a `message_delta`, whose counts are totals."""
    delta, usage = event.get("delta"), event.get("usage")
    before = message.get("usage")
    after = {
        **(before if isinstance(before, dict) else {}),
        **{k: v for k, v in (usage.items() if isinstance(usage, dict) else ()) if v is not None},
    }
    return {**message, **(delta if isinstance(delta, dict) else {}), "usage": after}


def _folded(message: dict[str, Any], *, error: str | None, is_done: bool, garbage: int) -> Folded:
    content = message.get("content")
    choices: tuple[FoldedChoice, ...] = ()
    if isinstance(content, list):
        reason = message.get("stop_reason")
        ended = _FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else None
        said = _chat_message([block for block in content if isinstance(block, dict)])
        choices = (FoldedChoice(message=said, finish_reason=ended),)
    return Folded(
        response_id=as_text(message.get("id")),
        choices=choices,
        usage=_usage(message.get("usage")),
        error=error,
        is_done=is_done,
        garbage=garbage,
    )


def _chat_message(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    text = _joined(blocks, "text")
    message: dict[str, Any] = {"role": "assistant", "content": text}
    thoughts = _joined(blocks, "thinking")
    if thoughts:
        message["reasoning"] = thoughts
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    if calls:
        message["tool_calls"] = calls
    return message


def _joined(blocks: list[dict[str, Any]], kind: str) -> str | None:
    texts = [block.get(kind) for block in blocks if block.get("type") == kind]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


def _call(block: dict[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    # A stream's input is text; it stays as it came, since it may have been cut.
    arguments = given if isinstance(given, str) else orjson.dumps(given or {}).decode()
    function = {"name": as_text(block.get("name")) or "", "arguments": arguments}
    return {"id": as_text(block.get("id")), "type": "function", "function": function}


def _usage(usage: object) -> dict[str, Any] | None:
    """Tokens as chat counts them: what came from a cache is input too."""
    if not isinstance(usage, dict):
        return None

    def count(name: str) -> int:
        value = usage.get(name)
        return value if type(value) is int else 0

    cached = count("cache_read_input_tokens")
    prompt = count("input_tokens") + cached + count("cache_creation_input_tokens")
    completion = count("output_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]
