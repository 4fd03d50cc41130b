"""The output of a Responses answer while it grows: chat deltas in, items and events out.

Pure. An item opens when its first piece comes, so items stand in the order in
which the model spoke. Reasoning and text close when something else begins;
calls stay open to the end, as engines may write several at once. A whole answer
goes the same way, as one delta whose events nobody hears.
"""

from typing import Any

from gateway.dialects.chat import as_text
from gateway.dialects.responses.events import (
    OUTPUT_TEXT,
    REASONING,
    REFUSAL,
    Call,
    Events,
    Spoken,
)
from gateway.dialects.responses.tools import Tool


class Output:
    """All items of one answer."""

    def __init__(self, events: Events, stem: str, tools: list[Tool]) -> None:
        self._events = events
        self._stem = stem
        self._tools = {tool.engine_name: tool for tool in reversed(tools)}
        self._spoken: Spoken | None = None
        self._calls: dict[int, Call] = {}
        self._closed: dict[int, dict[str, Any]] = {}
        self._count = 0
        self._text: list[str] = []
        self._has_message = False

    def add(self, delta: dict[str, Any], logprobs: list[dict[str, Any]]) -> None:
        """One delta, or a whole message; `logprobs` belong to its text."""
        reasoning = as_text(delta.get("reasoning")) or as_text(delta.get("reasoning_content"))
        if reasoning:
            self._speak(REASONING, reasoning, [])
        if text := as_text(delta.get("content")):
            self._speak(OUTPUT_TEXT, text, logprobs)
        if refusal := as_text(delta.get("refusal")):
            self._speak(REFUSAL, refusal, [])
        calls = delta.get("tool_calls")
        for position, piece in enumerate(calls if isinstance(calls, list) else []):
            if isinstance(piece, dict):
                self._add_call(piece, position)

    def close(self, status: str) -> list[dict[str, Any]]:
        """The finished items; `status` is that of the last one, the others are completed."""
        self._open_calls()
        if not self._has_message and not self._calls:
            self._speak(OUTPUT_TEXT, "", [])  # agents wait for a message or a call
        for item in self._still_open():
            is_last = item.index == self._count - 1
            self._closed[item.index] = item.close(status if is_last else "completed")
        return _in_order(self._closed)

    def so_far(self) -> list[dict[str, Any]]:
        """The items of an answer that broke, with what is there of them."""
        halves = {item.index: item.item("incomplete") for item in self._still_open()}
        return _in_order({**self._closed, **halves})

    def chat_message(self) -> dict[str, Any]:
        """The same answer as one chat message, without its reasoning."""
        text = "".join(self._text)
        calls = [call.chat_call() for call in self._calls.values() if call.is_open]
        if not calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": text or None, "tool_calls": calls}

    def _still_open(self) -> list[Spoken | Call]:
        found: list[Spoken | Call] = [call for call in self._calls.values() if call.is_open]
        if self._spoken is not None:
            found.append(self._spoken)
        return sorted(found, key=lambda item: item.index)

    def _speak(self, kind: str, piece: str, logprobs: list[dict[str, Any]]) -> None:
        is_reasoning = kind == REASONING
        if self._spoken is None or self._spoken.is_reasoning != is_reasoning:
            self._end_spoken()
            self._open_calls()
            index = self._next_index()
            self._spoken = Spoken(self._events, self._stem, index, is_reasoning=is_reasoning)
        self._spoken.add(kind, piece, logprobs)
        if not is_reasoning:
            self._text.append(piece)
            self._has_message = True

    def _end_spoken(self) -> None:
        if self._spoken is not None:
            self._closed[self._spoken.index] = self._spoken.close("completed")
            self._spoken = None

    def _add_call(self, piece: dict[str, Any], position: int) -> None:
        index = piece.get("index")
        key = index if isinstance(index, int) else position
        call = self._calls.get(key)
        if call is None:
            self._open_calls()
            call = self._calls[key] = Call(self._events, self._stem)
        call.call_id = call.call_id or as_text(piece.get("id")) or ""
        function = piece.get("function")
        said = function if isinstance(function, dict) else {}
        if not call.is_open:
            call.name += as_text(said.get("name")) or ""
        if arguments := as_text(said.get("arguments")):
            if not call.is_open:
                self._open(call)
            call.add(arguments)

    def _open_calls(self) -> None:
        for call in self._calls.values():
            if not call.is_open:
                self._open(call)

    def _open(self, call: Call) -> None:
        """Its arguments begin, or something else does: its name is whole."""
        self._end_spoken()
        index = self._next_index()
        others = {other.call_id for other in self._calls.values() if other.is_open}
        if not call.call_id or call.call_id in others:
            call.call_id = f"call_{self._stem}_{index}"
        call.open(index, self._tools)

    def _next_index(self) -> int:
        self._count += 1
        return self._count - 1


def _in_order(items: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for _, item in sorted(items.items())]
