"""Events of a Responses stream, and the items that tell their own growth by them.

Pure. An item opens, grows by pieces and closes; each step writes the events
OpenAI sends for it. What may be asked of an item in between is how it stands.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.dialects.responses.tools import Tool, custom_input

OUTPUT_TEXT, REFUSAL, REASONING = "output_text", "refusal", "reasoning_text"
_ADDED, _DONE = "response.output_item.added", "response.output_item.done"


class Events:
    """Writes events, numbered without a gap; `take` gives the bytes since the last time."""

    def __init__(self, *, is_heard: bool = True) -> None:
        self._is_heard = is_heard
        self._number = 0
        self._written: list[bytes] = []

    def add(self, kind: str, **fields: Any) -> None:
        if self._is_heard:
            event = {"type": kind, "sequence_number": self._number, **fields}
            self._number += 1
            self._written.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(event)))

    def take(self) -> bytes:
        written = b"".join(self._written)
        self._written.clear()
        return written


class Spoken:
    """An open item of text: a message, or reasoning."""

    def __init__(self, events: Events, stem: str, index: int, *, is_reasoning: bool) -> None:
        self._events = events
        self._id = f"{'rs' if is_reasoning else 'msg'}_{stem}_{index}"
        self.index = index
        self.is_reasoning = is_reasoning
        self._parts: list[dict[str, Any]] = []
        self._kind: str | None = None  # of the part that is open
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        events.add(_ADDED, output_index=index, item=self.item("in_progress"))

    def add(self, kind: str, piece: str, logprobs: list[dict[str, Any]]) -> None:
        """A piece of a part; another kind than before begins another part."""
        if kind != self._kind:
            self._end_part()
            self._kind = kind
            self._tell("content_part.added", part=_part(kind, "", []))
        if not piece:
            return
        self._pieces.append(piece)
        self._logprobs += logprobs
        more = {"logprobs": logprobs} if kind == OUTPUT_TEXT else {}
        self._tell(f"{kind}.delta", delta=piece, **more)

    def close(self, status: str) -> dict[str, Any]:
        """End it; the finished item."""
        self._end_part()
        item = self.item(status)
        self._events.add(_DONE, output_index=self.index, item=item)
        return item

    def item(self, status: str) -> dict[str, Any]:
        """The item as it stands."""
        content = list(self._parts)
        if self._kind is not None:
            content.append(_part(self._kind, "".join(self._pieces), self._logprobs))
        if self.is_reasoning:
            return {"id": self._id, "type": "reasoning", "summary": [], "content": content}
        said = {"status": status, "role": "assistant", "content": content}
        return {"id": self._id, "type": "message", **said}

    def _end_part(self) -> None:
        if self._kind is None:
            return
        kind, text = self._kind, "".join(self._pieces)
        part = _part(kind, text, self._logprobs)
        done: dict[str, Any] = {"refusal" if kind == REFUSAL else "text": text}
        if kind == OUTPUT_TEXT:
            done["logprobs"] = self._logprobs
        self._tell(f"{kind}.done", **done)
        self._tell("content_part.done", part=part)
        self._parts.append(part)
        self._kind, self._pieces, self._logprobs = None, [], []

    def _tell(self, kind: str, **fields: Any) -> None:
        place = {"item_id": self._id, "output_index": self.index, "content_index": len(self._parts)}
        self._events.add(f"response.{kind}", **place, **fields)


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == OUTPUT_TEXT:
        return {"type": kind, "annotations": [], "logprobs": logprobs, "text": text}
    return {"type": kind, "refusal" if kind == REFUSAL else "text": text}


class Call:
    """A tool call. Until it is opened its name and id may still grow."""

    def __init__(self, events: Events, stem: str) -> None:
        self._events = events
        self._stem = stem
        self._pieces: list[str] = []
        self._tool: Tool | None = None
        self.call_id = ""
        self.name = ""  # the engine's
        self.index = -1

    @property
    def is_open(self) -> bool:
        return self.index >= 0

    @property
    def _is_custom(self) -> bool:
        return self._tool is not None and self._tool.is_custom

    def open(self, index: int, tools: Mapping[str, Tool]) -> None:
        """Begin it as item number `index`, as a call of the tool that has its name."""
        self.index = index
        self._tool = tools.get(self.name)
        self._events.add(_ADDED, output_index=index, item=self.item("in_progress"))

    def add(self, piece: str) -> None:
        """A piece of the arguments."""
        self._pieces.append(piece)
        # The text of a custom tool is known when the JSON around it is whole.
        if not self._is_custom:
            self._tell("function_call_arguments.delta", delta=piece)

    def close(self, status: str) -> dict[str, Any]:
        """End it; the finished item."""
        item = self.item(status)
        if self._is_custom:
            self._tell("custom_tool_call_input.delta", delta=item["input"])
            self._tell("custom_tool_call_input.done", input=item["input"])
        else:
            # openai-python 2 reads the name here, 3 does not.
            said = {"name": item["name"], "arguments": item["arguments"]}
            self._tell("function_call_arguments.done", **said)
        self._events.add(_DONE, output_index=self.index, item=item)
        return item

    def item(self, status: str) -> dict[str, Any]:
        """The item as it stands."""
        arguments = "".join(self._pieces)
        named = {"name": self.name}
        if self._tool is not None:
            named = {"name": self._tool.name}
            if self._tool.namespace is not None:
                named["namespace"] = self._tool.namespace
        item = {"id": self._id, "status": status, "call_id": self.call_id, **named}
        if self._is_custom:
            text = custom_input(arguments) if arguments else ""
            return {"type": "custom_tool_call", **item, "input": text}
        return {"type": "function_call", **item, "arguments": arguments}

    def chat_call(self) -> dict[str, Any]:
        """The call as chat writes it."""
        function = {"name": self.name, "arguments": "".join(self._pieces)}
        return {"id": self.call_id, "type": "function", "function": function}

    @property
    def _id(self) -> str:
        return f"{'ctc' if self._is_custom else 'fc'}_{self._stem}_{self.index}"

    def _tell(self, kind: str, **fields: Any) -> None:
        place = {"item_id": self._id, "output_index": self.index}
        self._events.add(f"response.{kind}", **place, **fields)
