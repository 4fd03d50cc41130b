"""Tools of the Responses dialect as chat functions, and the way back for the names.

Pure. An engine that speaks chat knows functions only. So a namespace becomes its
functions under `namespace__name`, and a custom tool (free text in) a function
with one string, `input`. Tools that OpenAI itself runs (`web_search` and the
like) have no chat form and are left out. Raises ApiError 400 for what is malformed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import bad_request

CUSTOM_INPUT = "input"
_SEPARATOR = "__"
_CALLABLE = ("function", "custom", "namespace")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool the engine can call."""

    name: str
    namespace: str | None
    definition: dict[str, Any]
    is_custom: bool = False

    @property
    def engine_name(self) -> str:
        """The function's name in the chat body."""
        return engine_name(self.name, self.namespace)

    @property
    def function(self) -> dict[str, Any]:
        """The tool as chat lists it."""
        definition = self.definition
        found: dict[str, Any] = {"name": self.engine_name}
        description = definition.get("description")
        if isinstance(description, str):
            found["description"] = description
        if self.is_custom:
            found |= _free_text(definition)
        elif definition.get("parameters") is not None:
            found["parameters"] = definition["parameters"]
        if isinstance(definition.get("strict"), bool):
            found["strict"] = definition["strict"]
        return {"type": "function", "function": found}


def engine_name(name: str, namespace: str | None) -> str:
    """What a tool is called in chat."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


def tools_of(body: dict[str, Any]) -> list[Tool]:
    """The tools that have a chat form: those of the body, and those its input adds."""
    found = list(_listed(body.get("tools"), "tools"))
    for position, item in enumerate(_objects(body.get("input"))):
        if item.get("type") == "additional_tools":
            found += _listed(item.get("tools"), f"input[{position}].tools")
    return found


def hosted_tools(body: dict[str, Any]) -> list[str]:
    """The types of the tools that have none."""
    kinds = [tool.get("type") for tool in _objects(body.get("tools"))]
    return [kind for kind in kinds if isinstance(kind, str) and kind not in _CALLABLE]


def _objects(given: object) -> list[dict[str, Any]]:
    return [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []


def _listed(tools: object, at: str, namespace: str | None = None) -> Iterator[Tool]:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise bad_request(f"`{at}` must be a list", at)
    for position, tool in enumerate(tools):
        place = f"{at}[{position}]"
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str):
            raise bad_request(f"`{place}` must be an object with a `type`", place)
        if kind not in _CALLABLE:
            continue
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise bad_request(f"`{place}.name` must be a non-empty string", f"{place}.name")
        if kind != "namespace":
            if not isinstance(tool.get("parameters"), dict | None):
                raise bad_request(f"`{place}.parameters` must be an object", f"{place}.parameters")
            yield Tool(name, namespace, tool, is_custom=kind == "custom")
        elif namespace is None:
            yield from _listed(tool.get("tools"), f"{place}.tools", name)
        else:
            raise bad_request(f"`{place}`: a namespace holds no namespace", place)


def _free_text(definition: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a custom tool; its grammar is told, as chat cannot enforce one."""
    wanted: dict[str, Any] = {"type": "string"}
    form = definition.get("format")
    if isinstance(form, dict) and isinstance(form.get("definition"), str):
        wanted["description"] = f"Text of this {form.get('syntax')} grammar:\n{form['definition']}"
    return {
        "parameters": {
            "type": "object",
            "properties": {CUSTOM_INPUT: wanted},
            "required": [CUSTOM_INPUT],
            "additionalProperties": False,
        }
    }


def custom_arguments(text: object) -> str:
    """The arguments of a custom tool's function call."""
    return orjson.dumps({CUSTOM_INPUT: text}).decode()


def custom_input(arguments: str) -> str:
    """The text in such arguments; as they are when the model wrote it bare."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = found.get(CUSTOM_INPUT) if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def chat_tools(body: dict[str, Any]) -> dict[str, Any]:
    """`tools` and `tool_choice` of the chat body; neither when no tool is left."""
    tools = tools_of(body)
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(tools, choice)
    named = _choice(choice, {tool.engine_name for tool in tools})
    if not tools:
        return {}
    found: dict[str, Any] = {"tools": [tool.function for tool in tools]}
    if named is not None:
        found["tool_choice"] = named
    return found


def _allowed(tools: list[Tool], choice: dict[str, Any]) -> tuple[list[Tool], object]:
    """Chat cannot forbid single tools: the others are not shown."""
    at = "tool_choice.tools"
    if not isinstance(choice.get("tools"), list):
        raise bad_request(f"`{at}` must be a list", at)
    names = {_named(entry, at) for entry in choice["tools"] if _is_ours(entry)}
    return [tool for tool in tools if tool.engine_name in names], choice.get("mode") or "auto"


def _is_ours(entry: object) -> bool:
    return not isinstance(entry, dict) or entry.get("type") in ("function", "custom")


def _named(entry: object, at: str) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    namespace = entry.get("namespace") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        raise bad_request(f"`{at}` must name a tool", at)
    return engine_name(name, namespace)


def _choice(choice: object, names: set[str]) -> object:
    if choice is None or (isinstance(choice, str) and choice in ("auto", "none", "required")):
        return choice
    if not isinstance(choice, dict) or not isinstance(choice.get("type"), str):
        raise bad_request("`tool_choice` must be auto, none, required or an object", "tool_choice")
    if choice["type"] not in ("function", "custom"):
        return "auto"  # a hosted tool, which was left out
    name = _named(choice, "tool_choice")
    if name not in names:
        raise bad_request(f"`tool_choice` names {name!r}, which is not in `tools`", "tool_choice")
    return {"type": "function", "function": {"name": name}}
