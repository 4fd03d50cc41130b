"""Reading a recorded call: its tools, its tool calls, and the tool results it was sent.

Pure. OpenAI-shaped bodies stay dictionaries and clients write odd ones, so
everything here is tolerant: what cannot be read is not there. Chat, responses
and messages bodies are understood; answers are always in chat form.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trajectories.model import Transition


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asked for, its arguments as the text it wrote."""

    id: str
    name: str
    arguments: str

    @property
    def parsed(self) -> Any:
        """The arguments as JSON; raises ValueError when they are not. Empty text means none."""
        return json.loads(self.arguments) if self.arguments.strip() else {}

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two calls that ask for the same thing."""
        try:
            return self.name, json.dumps(self.parsed, sort_keys=True)
        except ValueError:
            return self.name, self.arguments


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the application sent back for a call."""

    call_id: str
    text: str
    is_error: bool  # the body itself says so; the text may, too


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries in `value`, if it is a list."""
    entries = value if isinstance(value, list) else ()
    return (entry for entry in entries if isinstance(entry, dict))


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in dicts(content) if isinstance(part.get("text"), str))


def calls_of(transition: Transition) -> list[ToolCall]:
    """The tool calls of a transition's first answer."""
    if not transition.choices:
        return []
    message = transition.choices[0].message
    found = []
    for call in dicts(message.get("tool_calls")):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            found.append(
                ToolCall(
                    str(call.get("id") or ""),
                    function["name"],
                    arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
                )
            )
    return found


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


def results_of(request: dict[str, Any]) -> Iterator[ToolResult]:
    """Every tool result a request carries, in any of the three shapes."""
    for message in dicts(request.get("messages")):
        if message.get("role") == "tool" and isinstance(message.get("tool_call_id"), str):
            yield ToolResult(message["tool_call_id"], text_of(message.get("content")), False)
        for part in dicts(message.get("content")):
            if part.get("type") == "tool_result" and isinstance(part.get("tool_use_id"), str):
                yield ToolResult(
                    part["tool_use_id"], text_of(part.get("content")), part.get("is_error") is True
                )
    for item in dicts(request.get("input")):
        if item.get("type") == "function_call_output" and isinstance(item.get("call_id"), str):
            yield ToolResult(item["call_id"], text_of(item.get("output")), False)


def schema_of(request: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema the answer was asked to hold; `{}` for any JSON object, None for text."""
    wanted = request.get("response_format")
    if not isinstance(wanted, dict):
        text = request.get("text")
        wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    if wanted.get("type") != "json_schema":
        return None
    inner = wanted.get("json_schema")
    schema = (inner if isinstance(inner, dict) else wanted).get("schema")
    return schema if isinstance(schema, dict) else {}
