"""What a scripted model answers: a pure function of what it is asked, the same in every dialect.

    answer(ask_of_chat(body))       text, or tool calls [{"name", "arguments"}]

It plays a model that behaves: it calls a tool that it was offered and has no
result of yet, fills the schema of a forced tool or of structured output, and
says something that only this conversation brings about. Ids are no part of the
question: they differ from run to run.
"""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Calls = list[dict[str, Any]]

CITY, DEGREES = "Paris", 21
_ID = re.compile(r"\b(?:chatcmpl-tool-|call_|toolu_|fc_)[0-9A-Za-z]+")
_LAST_CALLS = ("final_answer", "final_result")
_FILLED: dict[str, Any] = {
    "string": CITY,
    "integer": DEGREES,
    "number": DEGREES + 0.5,
    "boolean": True,
    "null": None,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model is asked, whatever the dialect."""

    system: str
    turns: tuple[tuple[str, str], ...]  # role and text; a tool's result has the role "tool"
    tools: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # name -> JSON schema
    forced: str | None = None  # a tool that must be called; "*": any
    schema: dict[str, Any] | None = None  # of structured output

    def __post_init__(self) -> None:
        # A turn of tool calls alone is a message in one dialect and none in another.
        said = tuple(turn for turn in self.turns if turn != ("assistant", ""))
        object.__setattr__(self, "turns", said)


def answer(ask: Ask) -> str | Calls:
    """The scripted model's answer."""
    if ask.forced in ask.tools:
        return [_filled_call(ask, str(ask.forced))]
    has_result = ask.turns and ask.turns[-1][0] == "tool"
    has_result = has_result or _is_observation(ask.turns[-1][1] if ask.turns else "")
    if "<code>" in ask.system and not ask.tools:
        return _code(has_result)
    if "Action Input:" in ask.system + _text(ask) and not ask.tools:
        return _react(has_result)
    handoffs = [name for name in ask.tools if name.startswith("transfer_to_")]
    if handoffs and not has_result:
        return [{"name": handoffs[0], "arguments": "{}"}]
    useful = [name for name in ask.tools if name not in _LAST_CALLS and name not in handoffs]
    if useful and not has_result:
        return [_filled_call(ask, useful[0])]
    last = next((name for name in ask.tools if name in _LAST_CALLS), None)
    if last is not None:
        return [_filled_call(ask, last)]
    if ask.schema is not None:
        return json.dumps(fill(ask.schema, ask.schema))
    return sentence(ask)


def sentence(ask: Ask) -> str:
    """A text that no other conversation gets."""
    content = json.dumps([ask.system, ask.turns])
    number = zlib.crc32(_ID.sub("ID", content).encode())
    last = _ID.sub("", ask.turns[-1][1]) if ask.turns else ""
    return f"Answer {number:08x}, to a question of {len(last.split())} words: it is fine today."


def fill(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """The least value that a JSON schema allows, with every property that it names."""
    if "$ref" in schema:
        return fill(root.get("$defs", {})[schema["$ref"].rsplit("/", 1)[1]], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return fill(schema[name][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if kind == "object":
        return {name: fill(entry, root) for name, entry in schema.get("properties", {}).items()}
    if kind == "array":
        return [fill(schema.get("items", {}), root)]
    return _FILLED[kind if isinstance(kind, str) else kind[0]]


def _filled_call(ask: Ask, name: str) -> dict[str, Any]:
    schema = ask.tools[name]
    return {"name": name, "arguments": json.dumps(fill(schema, schema))}


def _is_observation(text: str) -> bool:
    return "Observation:" in text[-2000:] and "Observation: the result" not in text[-2000:]


def _code(has_result: bool) -> str:
    """What smolagents' code agent reads."""
    if has_result:
        return f'Thought: I know it now.\n<code>\nfinal_answer("{DEGREES} in {CITY}")\n</code>'
    return f'Thought: I ask the tool.\n<code>\nprint(get_weather(city="{CITY}"))\n</code>'


def _react(has_result: bool) -> str:
    """What agents read that were built before tools were a field."""
    if has_result:
        return f"Thought: I now know the final answer\nFinal Answer: {DEGREES} in {CITY}"
    arguments = json.dumps({"city": CITY})
    return f"Thought: I ask.\nAction: get_weather\nAction Input: {arguments}"


def _text(ask: Ask) -> str:
    return " ".join(text for _, text in ask.turns)


# -- what each dialect asks ------------------------------------------------------------


def ask_of_chat(body: Mapping[str, Any]) -> Ask:
    """The question in a chat completions body."""
    messages = body.get("messages") or []
    listed = [entry.get("function", {}) for entry in body.get("tools") or []]
    wanted = (body.get("response_format") or {}).get("json_schema") or {}
    return Ask(
        system=_joined(_plain(m.get("content")) for m in messages if _is_system(m)),
        turns=tuple(
            (str(m.get("role")), _plain(m.get("content"))) for m in messages if not _is_system(m)
        ),
        tools={entry["name"]: entry.get("parameters") or {} for entry in listed},
        forced=_forced(body.get("tool_choice")),
        schema=wanted.get("schema"),
    )


def ask_of_responses(body: Mapping[str, Any]) -> Ask:
    """The question in a responses body."""
    given = body.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    turns = []
    for item in items:
        if item.get("type") == "function_call_output":
            turns.append(("tool", _plain(item.get("output"))))
        elif item.get("type", "message") == "message" and not _is_system(item):
            turns.append((str(item["role"]), _plain(item.get("content"))))
    wanted = (body.get("text") or {}).get("format") or {}
    listed = [entry for entry in body.get("tools") or [] if entry.get("type") == "function"]
    system = [_plain(item.get("content")) for item in items if _is_system(item)]
    return Ask(
        system=_joined([body.get("instructions") or "", *system]),
        turns=tuple(turns),
        tools={entry["name"]: entry.get("parameters") or {} for entry in listed},
        forced=_forced(body.get("tool_choice")),
        schema=wanted.get("schema"),
    )


def ask_of_messages(body: Mapping[str, Any]) -> Ask:
    """The question in an Anthropic messages body."""
    turns = []
    for message in body.get("messages") or []:
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        results = [block for block in blocks if block.get("type") == "tool_result"]
        if results:
            turns.append(("tool", _joined(_plain(block.get("content")) for block in results)))
        elif not _is_system(message):
            turns.append((str(message["role"]), _plain(content)))
    wanted = ((body.get("output_config") or {}).get("format")) or body.get("output_format") or {}
    listed = [entry for entry in body.get("tools") or [] if "input_schema" in entry]
    return Ask(
        system=_plain(body.get("system")),
        turns=tuple(turns),
        tools={entry["name"]: entry["input_schema"] for entry in listed},
        forced=_forced(body.get("tool_choice")),
        schema=wanted.get("schema"),
    )


def _forced(choice: Any) -> str | None:
    if not isinstance(choice, dict):
        return None
    return (choice.get("function") or choice).get("name")


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return _joined(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(texts)
