"""Content blocks of the Messages dialect as chat messages.

Pure. A user turn here may hold the results of tools, which in chat are messages
of their own and stand directly after the call. Raises ApiError 400 for what
cannot be read.
"""

import re
from typing import Any

import orjson

from gateway.errors import ApiError, bad_request

# Claude Code's first system block: version and a hash that changes with each request. It says
# nothing to a model, and would make each prompt differ from its first line on.
_BILLING = re.compile(r"\s*x-anthropic-billing-header:[^\n]*\n*")
_ERROR = "Error: "
Block = dict[str, Any]


def known_blocks(content: object, param: str) -> list[Block]:
    """Content as a list of blocks."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise bad_request("content must be a string or a list of blocks", param)
    return content


def system_text(given: object, param: str) -> str:
    """A system prompt as one text, without the line that only Anthropic's servers read."""
    blocks = known_blocks([] if given is None else given, param)
    texts = (_unbilled(_text(block, param)) for block in blocks if block.get("type") == "text")
    return "\n\n".join(text for text in texts if text)


def _unbilled(text: str) -> str:
    line = _BILLING.match(text)
    return text[line.end() :] if line else text


def assistant_message(blocks: list[Block], param: str) -> dict[str, Any]:
    """An earlier answer. Thoughts, and what Anthropic's servers did in between, are left out."""
    text = "".join(_text(block, param) for block in blocks if block.get("type") == "text")
    calls = [_call(block, param) for block in blocks if block.get("type") == "tool_use"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    elif not text:
        message["content"] = ""
    return message


def user_messages(blocks: list[Block], param: str, is_strict: bool) -> list[dict[str, Any]]:
    """A user's turn: the results of tools first, then what else was said."""
    found: list[dict[str, Any]] = []
    said: list[Block] = []
    for block in blocks:
        if block.get("type") != "tool_result":
            said.append(_part(block, param, is_strict))
            continue
        identity = block.get("tool_use_id")
        if not isinstance(identity, str):
            raise bad_request("a tool_result names its `tool_use_id`", param)
        parts = _result_parts(block.get("content"), param, is_strict)
        text = "\n".join(part["text"] for part in parts if _is_text(part))
        if block.get("is_error") and not text.lower().startswith("error"):
            text = _ERROR + text
        found.append({"role": "tool", "tool_call_id": identity, "content": text})
        # A tool's message holds text only; its pictures are shown in the turn it belongs to.
        said.extend(part for part in parts if not _is_text(part))
    if said:
        is_plain = len(said) == 1 and _is_text(said[0])
        found.append({"role": "user", "content": said[0]["text"] if is_plain else said})
    elif not found:
        found.append({"role": "user", "content": ""})
    return found


def _result_parts(content: object, param: str, is_strict: bool) -> list[Block]:
    if content is None:
        return []
    blocks = known_blocks(content, param)
    # A reference says that a tool was found; the tool itself stands in `tools`.
    found = [block for block in blocks if block.get("type") != "tool_reference"]
    return [_part(block, param, is_strict) for block in found]


def _part(block: Block, param: str, is_strict: bool) -> Block:
    """A block as a part of a chat message."""
    try:
        kind = block.get("type")
        if kind == "text":
            return {"type": "text", "text": _text(block, param)}
        if kind == "image":
            url = _image_url(block.get("source"), param)
            return {"type": "image_url", "image_url": {"url": url}}
        if kind == "document":
            return {"type": "text", "text": _document_text(block, param)}
        if kind == "search_result":
            return {"type": "text", "text": _titled(block, block.get("content"), param)}
        raise bad_request(f"the policy cannot read content of type {kind!r}"[:200], param)
    except ApiError:
        if is_strict:
            raise
        return block


def _is_text(part: Block) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _text(block: Block, param: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise bad_request("a text block has a `text`", param)
    return text


def _image_url(source: object, param: str) -> str:
    given = source if isinstance(source, dict) else {}
    if given.get("type") == "url" and isinstance(given.get("url"), str):
        url: str = given["url"]
        return url
    if given.get("type") == "base64" and isinstance(given.get("data"), str):
        return f"data:{given.get('media_type') or 'image/png'};base64,{given['data']}"
    raise bad_request("the source of an image is `base64` or `url`", param)


def _document_text(block: Block, param: str) -> str:
    source = block.get("source")
    given = source if isinstance(source, dict) else {}
    if given.get("type") == "text":
        return _titled(block, given.get("data"), param)
    if given.get("type") == "content":
        return _titled(block, given.get("content"), param)
    raise bad_request("the policy reads text and images, no documents of other kinds", param)


def _titled(block: Block, content: object, param: str) -> str:
    texts = (_text(part, param) for part in known_blocks(content, param))
    heads = (block.get(name) for name in ("title", "source", "context"))
    return "\n".join([*(head for head in heads if isinstance(head, str)), *texts])


def _call(block: Block, param: str) -> dict[str, Any]:
    identity, name, given = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(identity, str) or not isinstance(name, str) or not isinstance(given, dict):
        raise bad_request("a tool_use has an `id`, a `name` and an `input`", param)
    function = {"name": name, "arguments": orjson.dumps(given).decode()}
    return {"id": identity, "type": "function", "function": function}
