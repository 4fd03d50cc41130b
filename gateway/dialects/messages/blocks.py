"""Content blocks of an answer in the Messages dialect, in the order in which they may be sent.

Pure. At most one block is open at a time and the index has no gap, as Anthropic's
clients expect. An engine may speak of several calls at once: the later ones wait
here until the arguments of the first are whole.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

Event = dict[str, Any]


@dataclass(slots=True)
class _Call:
    """One tool call, as far as it is known."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    sent: int = 0  # pieces of the arguments that the client has

    @property
    def is_whole(self) -> bool:
        """Whether all of the arguments have come."""
        return bool(self.arguments) and read_input("".join(self.arguments)) is not None


class Blocks:
    """The blocks of one answer. Each method returns the events it causes."""

    def __init__(self, *, signature: str, has_thoughts: bool) -> None:
        self._signature = signature
        self._has_thoughts = has_thoughts
        self._index = 0
        self._open: str | None = None
        self._blank = ""  # space after a call: it is text only if more follows
        self._calls: dict[int, _Call] = {}
        self._waiting: list[_Call] = []  # calls that are not closed, the open one first
        self.has_calls = False  # a tool was called

    @property
    def has_whole_calls(self) -> bool:
        """Whether every call can be run; the last one may have been cut short."""
        return self.has_calls and all(call.is_whole for call in self._calls.values())

    def thought(self, text: str) -> list[Event]:
        """A piece of the engine's reasoning; nothing for a client that asked for none."""
        if not text or not self._has_thoughts:
            return []
        block = {"type": "thinking", "thinking": "", "signature": ""}
        events = [] if self._open == "thinking" else [*self._close(), self._start(block)]
        return [*events, self._delta("thinking_delta", thinking=text)]

    def text(self, text: str) -> list[Event]:
        """A piece of what is said."""
        if self._calls and self._open != "text":
            self._blank += text
            if not self._blank.strip():
                return []
            text, self._blank = self._blank, ""
        if not text:
            return []
        block = {"type": "text", "text": ""}
        events = [] if self._open == "text" else [*self._close(), self._start(block)]
        return [*events, self._delta("text_delta", text=text)]

    def call(self, number: int, identity: object, name: object, arguments: object) -> list[Event]:
        """A piece of the engine's call `number`."""
        self._blank = ""
        call = self._calls.get(number)
        if call is None:
            known = identity if isinstance(identity, str) and identity else None
            call = self._calls[number] = _Call(known or f"toolu_{self._signature}_{number}")
            self._waiting.append(call)
        if isinstance(name, str):
            call.name = call.name or name
        if isinstance(arguments, str) and arguments:
            call.arguments.append(arguments)
        return self._proceed()

    def end(self) -> list[Event]:
        """What closes the last block; an empty text where there was none."""
        events = self._close()
        if not self._index:
            events += [self._start({"type": "text", "text": ""}), *self._close()]
        return events

    # -- inside --------------------------------------------------------------------

    def _proceed(self) -> list[Event]:
        """Send what may be sent of the calls that wait."""
        events: list[Event] = []
        while self._waiting:
            call = self._waiting[0]
            events += self._send(call)
            if len(self._waiting) == 1 or not call.is_whole:
                break
            events += self._stop_call()
            del self._waiting[0]
        return events

    def _send(self, call: _Call) -> list[Event]:
        events: list[Event] = []
        if self._open != "tool_use":
            if not call.name:
                return []
            events = self._close_said()
            self.has_calls = True
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            events.append(self._start(block))
        pieces, call.sent = call.arguments[call.sent :], len(call.arguments)
        if pieces:
            events.append(self._delta("input_json_delta", partial_json="".join(pieces)))
        return events

    def _close(self) -> list[Event]:
        """Close what is open, and send the calls that wait, whole or not."""
        events = self._close_said()
        while self._waiting:
            events += self._send(self._waiting.pop(0))
            events += self._stop_call()
        return events

    def _close_said(self) -> list[Event]:
        return [] if self._open == "tool_use" else self._stop()

    def _stop_call(self) -> list[Event]:
        return self._stop() if self._open == "tool_use" else []

    def _stop(self) -> list[Event]:
        if self._open is None:
            return []
        events: list[Event] = []
        if self._open == "thinking":
            events.append(self._delta("signature_delta", signature=self._signature))
        events.append({"type": "content_block_stop", "index": self._index})
        self._open = None
        self._index += 1
        return events

    def _start(self, block: dict[str, Any]) -> Event:
        self._open = block["type"]
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, kind: str, **said: str) -> Event:
        delta = {"type": kind, **said}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def read_input(arguments: str) -> dict[str, Any] | None:
    """A call's arguments as an object; None when they are not one."""
    try:
        found = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
