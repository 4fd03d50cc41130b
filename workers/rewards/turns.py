"""Reading a recorded call: its tools, its tool calls, and the tool results it was sent.

Pure. OpenAI-shaped bodies stay dictionaries and clients write odd ones, so
everything here is tolerant: what cannot be read is not there. Chat, responses
and messages bodies are understood; answers are always in chat form.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trajectories.model import Transition


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asked for, its arguments as the text it wrote."""

    id: str
    name: str
    arguments: str
    value: Any  # the arguments as JSON; empty text means none
    is_readable: bool  # False: the arguments are not JSON

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two calls that ask for the same thing."""
        if not self.is_readable:
            return self.name, self.arguments
        return self.name, json.dumps(self.value, sort_keys=True)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the application sent back for a call."""

    call_id: str
    content: Any  # a string, or a list of parts
    is_error: bool  # the body itself says so; the text may, too

    @property
    def text(self) -> str:
        return text_of(self.content)

    @property
    def is_text(self) -> bool:
        """Whether nothing but text was sent: no picture, no file."""
        return all(isinstance(part.get("text"), str) for part in dicts(self.content))


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries in `value`, if it is a list."""
    entries = value if isinstance(value, list) else ()
    return (entry for entry in entries if isinstance(entry, dict))


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in dicts(content) if isinstance(part.get("text"), str))


def calls_of(transition: Transition) -> tuple[ToolCall, ...]:
    """The tool calls of a transition's first answer."""
    if not transition.choices:
        return ()
    message = transition.choices[0].message
    found = []
    for call in dicts(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments or {})
            found.append(_read_call(str(call.get("id") or ""), function["name"], arguments))
    return tuple(found)


def _read_call(call_id: str, name: str, arguments: str) -> ToolCall:
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return ToolCall(call_id, name, arguments, None, False)
    return ToolCall(call_id, name, arguments, value, True)


def answer_of(transition: Transition) -> str:
    """The text of a transition's first answer."""
    return text_of(transition.choices[0].message.get("content")) if transition.choices else ""


def tools_of(request: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Tool name -> JSON schema of its arguments (None: none given)."""
    tools: dict[str, dict[str, Any] | None] = {}
    for tool in dicts(request.get("tools")):
        inner = tool.get("function")
        entry = inner if isinstance(inner, dict) else tool
        if isinstance(entry.get("name"), str):
            schema = entry.get("parameters", entry.get("input_schema"))
            tools[entry["name"]] = schema if isinstance(schema, dict) else None
    return tools


def messages_of(request: dict[str, Any]) -> list[Any]:
    """What a request says, in order: its messages, or the items of a responses body."""
    messages, items = request.get("messages"), request.get("input")
    if isinstance(messages, list):
        return messages + items if isinstance(items, list) else messages
    return items if isinstance(items, list) else []


def results_of(messages: Iterable[Any]) -> Iterator[ToolResult]:
    """Every tool result in messages or items, in any of the three shapes."""
    for message in messages:
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if message.get("role") == "tool":
            if isinstance(message.get("tool_call_id"), str):
                yield ToolResult(message["tool_call_id"], content, False)
        elif message.get("type") == "function_call_output":
            if isinstance(message.get("call_id"), str):
                yield ToolResult(message["call_id"], message.get("output"), False)
        elif isinstance(content, list):
            for part in dicts(content):
                if part.get("type") == "tool_result" and isinstance(part.get("tool_use_id"), str):
                    is_error = part.get("is_error") is True
                    yield ToolResult(part["tool_use_id"], part.get("content"), is_error)


def schema_of(request: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema the answer was asked to hold; `{}` for any JSON object, None for text."""
    wanted = request.get("response_format")
    for name in ("text", "output_config"):  # as the responses and the messages dialect write it
        outer = request.get(name)
        if not isinstance(wanted, dict) and isinstance(outer, dict):
            wanted = outer.get("format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    if wanted.get("type") != "json_schema":
        return None
    inner = wanted.get("json_schema")
    schema = (inner if isinstance(inner, dict) else wanted).get("schema")
    return schema if isinstance(schema, dict) else {}
