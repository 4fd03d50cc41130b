"""Items of the Responses dialect (`input`, `output`) as chat messages.

Pure. One chat message of an assistant is several items here: its text, then
each call. Items that follow each other without an answer between them are one
turn, and become one message again. Reasoning and the items of hosted tools
have no chat form and are left out. Raises ApiError 400 for what cannot be read.
"""

from collections.abc import Mapping
from typing import Any

from gateway.dialects.responses.tools import custom_arguments, engine_name
from gateway.errors import ApiError, bad_request

_TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
_CHAT_ITEMS = frozenset(
    {
        "message",
        "function_call",
        "custom_tool_call",
        "function_call_output",
        "custom_tool_call_output",
        "additional_tools",
    }
)
Message = dict[str, Any]


def messages_of(given: object, *, is_strict: bool = True) -> list[Message]:
    """The chat messages of a body's `input` or a response's `output`.

    Not strict, for records of calls that another engine answers: what has no
    chat form stays as it is inside a message, or is left out.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise bad_request("`input` must be a string or a list of items", "input")
    messages: list[Message] = []
    for position, item in enumerate(given):
        try:
            _add(messages, item, f"input[{position}]", is_strict)
        except ApiError:
            if is_strict:
                raise
    return messages


def kind_of(item: Mapping[str, Any]) -> str | None:
    """The type of an item; easy messages and references may leave it out."""
    kind = item.get("type")
    if kind is None:
        return "message" if "role" in item else "item_reference" if "id" in item else None
    return kind if isinstance(kind, str) else None


def left_out_items(given: object) -> list[str]:
    """The types of the items that have no chat form."""
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    kinds = [kind_of(item) for item in items]
    return [kind for kind in kinds if kind is not None and kind not in _CHAT_ITEMS]


def _add(messages: list[Message], item: object, at: str, is_strict: bool) -> None:
    kind = kind_of(item) if isinstance(item, dict) else None
    if not isinstance(item, dict) or kind is None:
        raise bad_request(f"`{at}` must be an object with a `type` or a `role`", at)
    if kind == "message":
        _add_message(messages, item, at, is_strict)
    elif kind in ("function_call", "custom_tool_call"):
        _turn(messages).setdefault("tool_calls", []).append(_call(item, kind, at))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        content = _content(item.get("output"), f"{at}.output", is_strict)
        call_id = _string(item, "call_id", at)
        messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
    elif kind == "item_reference":
        raise bad_request(f"`{at}` refers to an item that is not kept here", at)


def _add_message(messages: list[Message], item: dict[str, Any], at: str, is_strict: bool) -> None:
    role = item.get("role")
    if role == "assistant":
        text = _said(item.get("content"), f"{at}.content")
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and (last["content"] is None or "tool_calls" in last):
            last["content"] = (last["content"] or "") + text
        else:
            messages.append({"role": "assistant", "content": text})
    elif role in ("user", "system", "developer"):
        content = _content(item.get("content"), f"{at}.content", is_strict)
        # Chat templates know no developers.
        messages.append({"role": "user" if role == "user" else "system", "content": content})
    else:
        message = f"`{at}.role` must be user, assistant, system or developer"
        raise bad_request(message, f"{at}.role")


def _turn(messages: list[Message]) -> Message:
    """The assistant's message that is being read, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _call(item: dict[str, Any], kind: str, at: str) -> dict[str, Any]:
    namespace = item.get("namespace")
    name = engine_name(_string(item, "name", at), namespace if isinstance(namespace, str) else None)
    if kind == "custom_tool_call":
        arguments = custom_arguments(_string(item, "input", at))
    else:
        arguments = _string(item, "arguments", at)
    call_id = _string(item, "call_id", at)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _string(item: dict[str, Any], name: str, at: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise bad_request(f"`{at}.{name}` must be a string", f"{at}.{name}")
    return value


def _said(content: object, at: str) -> str:
    """What an assistant said. Its parts are pieces of one text."""
    if isinstance(content, str | None):
        return content or ""
    found: list[str] = []
    for part in _parts(content, at):
        if part.get("type") not in _TEXT_PARTS:
            raise bad_request(f"`{at}` holds a part that an assistant cannot have said", at)
        found.append(_text(part, at))
    return "".join(found)


def _content(content: object, at: str, is_strict: bool) -> str | list[dict[str, Any]]:
    """What a user, a system or a tool said: one text, or chat parts."""
    if isinstance(content, str | None):
        return content or ""
    parts = [_part(part, at, is_strict) for part in _parts(content, at)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def _parts(content: object, at: str) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise bad_request(f"`{at}` must be a string or a list of parts", at)
    return content


def _part(part: dict[str, Any], at: str, is_strict: bool) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, at)}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        if part.get("detail") in ("low", "high"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if not is_strict and isinstance(kind, str):
        return part
    if kind == "input_file":
        raise bad_request("this model reads no files: send `input_file` as text", at)
    if kind == "input_image":
        raise bad_request("this model sees images by `image_url` only", at)
    raise bad_request(f"`{at}` holds a part of a type that this model cannot read", at)


def _text(part: dict[str, Any], at: str) -> str:
    text = part.get("refusal" if part["type"] == "refusal" else "text")
    if not isinstance(text, str):
        raise bad_request(f"`{at}` holds a text part without text", at)
    return text
