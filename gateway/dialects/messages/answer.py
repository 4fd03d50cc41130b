"""A chat engine's answer in the Messages dialect, whole or event by event.

Pure; one object for one call. What was asked of the engine for training (token
ids, logprobs) has no place in these bodies and so never reaches the client.
A whole answer is built by the same rules as the stream, so both say the same.
"""

from typing import Any

import orjson

from gateway.dialects.chat import as_text
from gateway.dialects.messages.blocks import Blocks, Event, read_input

_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


class MessagesAnswer:
    """One call: `whole`, or `chunk` for each chunk and then `finish`."""

    def __init__(self, body: dict[str, Any], *, message_id: str, model: str) -> None:
        thinking = body.get("thinking")
        kind = thinking.get("type") if isinstance(thinking, dict) else None
        # Clients that did not ask for thoughts take the first block for the text.
        self._has_thoughts = kind in ("enabled", "adaptive")
        self._id = message_id
        self._model = model
        self._blocks = Blocks(signature=message_id, has_thoughts=self._has_thoughts)
        self._is_begun = False
        self._is_broken = False
        self._input_tokens = 0
        self._finish_reason: str | None = None
        self._stopped_at: str | None = None
        self.usage: dict[str, Any] | None = None  # in chat's words

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The engine's `chat.completion` as a message."""
        choice = _first_choice(answer)
        message = choice.get("message")
        events = self._read(message if isinstance(message, dict) else {})
        self._note_end(choice)
        reason, matched = self._stop_reason()
        usage = answer.get("usage")
        return {
            **self._message(),
            "content": _content([*events, *self._blocks.end()]),
            "stop_reason": reason,
            "stop_sequence": matched,
            "usage": _usage(usage if isinstance(usage, dict) else {}, self._input_tokens),
        }

    def begin(self) -> bytes:
        """The first two events. Not called, they come with the first chunk and count the prompt."""
        self._is_begun = True
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        start = {**self._message(), "usage": usage}
        return _encode([{"type": "message_start", "message": start}, {"type": "ping"}])

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """The events of one parsed `chat.completion.chunk`; none for most that are only ours."""
        if self._is_broken:
            return b""
        if chunk.get("error") is not None:
            return self.broken("upstream_error", _error_text(chunk["error"]))
        begun = b"" if self._is_begun else self._begin(chunk)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choice = _first_choice(chunk)
        self._note_end(choice)
        delta = choice.get("delta")
        return begun + _encode(self._read(delta)) if isinstance(delta, dict) and delta else begun

    def finish(self) -> bytes:
        """The closing events of a stream that ended well; nothing after an error."""
        if self._is_broken:
            return b""
        begun = b"" if self._is_begun else self.begin()
        events = self._blocks.end()
        reason, matched = self._stop_reason()
        delta = {"stop_reason": reason, "stop_sequence": matched}
        usage = _usage(self.usage or {}, self._input_tokens)
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        events.append({"type": "message_stop"})
        return begun + _encode(events)

    def broken(self, code: str, message: str) -> bytes:
        """The event that ends a stream which will not go on."""
        self._is_broken = True
        error = {"type": "api_error", "message": message, "code": code}
        return _encode([{"type": "error", "error": error}])

    # -- inside --------------------------------------------------------------------

    def _begin(self, chunk: dict[str, Any]) -> bytes:
        ids = chunk.get("prompt_token_ids")
        self._input_tokens = len(ids) if isinstance(ids, list) else 0
        return self.begin()

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _read(self, said: dict[str, Any]) -> list[Event]:
        """A chat message, or a piece of one, as events."""
        events: list[Event] = []
        events += self._blocks.thought(as_text(said.get("reasoning")) or "")
        events += self._blocks.text(as_text(said.get("content")) or "")
        calls = said.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                index = call.get("index")
                number = index if isinstance(index, int) else position
                name, arguments = function.get("name"), function.get("arguments")
                events += self._blocks.call(number, call.get("id"), name, arguments)
        return events

    def _note_end(self, choice: dict[str, Any]) -> None:
        if choice.get("finish_reason") is not None:
            self._finish_reason = as_text(choice["finish_reason"])
            # vLLM says here which string it stopped at; a number is an end token.
            self._stopped_at = as_text(choice.get("stop_reason"))

    def _stop_reason(self) -> tuple[str, str | None]:
        """Why it ended. A call that a stop sequence cut short must not be run."""
        ended = (
            _STOP_REASONS.get(self._finish_reason) if isinstance(self._finish_reason, str) else None
        )
        if ended is not None:
            return ended, None
        if self._stopped_at is not None and not self._blocks.has_whole_calls:
            return "stop_sequence", self._stopped_at
        return ("tool_use" if self._blocks.has_calls else "end_turn"), None


def _content(events: list[Event]) -> list[dict[str, Any]]:
    """The blocks that a client puts together from these events."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            arguments = ""
            continue
        delta = event.get("delta", {})
        for name, piece in delta.items():
            if name == "partial_json":
                arguments += piece
                blocks[-1]["input"] = read_input(arguments) or {}
            elif name != "type":
                blocks[-1][name] += piece
    return blocks


def _first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _usage(usage: dict[str, Any], input_tokens: int) -> dict[str, Any]:
    """Anthropic counts what came from the cache apart from the other input."""
    prompt = usage.get("prompt_tokens")
    total = prompt if isinstance(prompt, int) else input_tokens
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    completion = usage.get("completion_tokens")
    found = {"input_tokens": total, "output_tokens": completion or 0}
    if isinstance(cached, int):
        found = {**found, "input_tokens": max(0, total - cached), "cache_read_input_tokens": cached}
    return found


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]


def _encode(events: list[Event]) -> bytes:
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
        for event in events
    )
