"""Items kept from earlier: what `input` refers to by id, and what `input` itself is kept as.

Pure. The id of an item of ours holds the id of its response (`msg_X_0` is the
first of `resp_X`), so a store of responses by id is enough to find it. AI-SDK
refers to every earlier item of an assistant when it may expect them to be kept.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.dialects.responses.items import kind_of

_ITEM_ID = re.compile(r"[a-z]+_(.+)_[0-9]+")


def item_stem(response_id: str) -> str:
    """What the ids of a response's items have in their middle."""
    return response_id.removeprefix("resp_")


def referenced_responses(body: dict[str, Any]) -> list[str]:
    """Ids of the responses whose items `input` refers to; each once, in order."""
    found = (_ITEM_ID.fullmatch(item_id) for item_id in _references(body))
    return list(dict.fromkeys(f"resp_{match[1]}" for match in found if match))


def with_references(body: dict[str, Any], responses: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The body with the items themselves, as far as `responses` hold them."""
    wanted = set(_references(body))
    if not wanted:
        return body
    items = [item for response in responses for item in response["output"]]
    known = {item["id"]: item for item in items if item["id"] in wanted}
    resolved = [
        known.get(item["id"], item) if _is_reference(item) else item for item in body["input"]
    ]
    return {**body, "input": resolved}


def input_items(body: dict[str, Any], response_id: str) -> list[dict[str, Any]]:
    """The items of `input`, first to last, as `GET /responses/{id}/input_items` lists them."""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    stem = item_stem(response_id)
    return [_listed(item, f"msg_{stem}_in{position}") for position, item in enumerate(items)]


def _listed(item: dict[str, Any], item_id: str) -> dict[str, Any]:
    if kind_of(item) != "message":
        return {"id": item_id, **item}
    content = item.get("content")
    if isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return {"id": item_id, "type": "message", "status": "completed", **item, "content": content}


def _references(body: dict[str, Any]) -> list[str]:
    given = body.get("input")
    return [item["id"] for item in given if _is_reference(item)] if isinstance(given, list) else []


def _is_reference(item: object) -> bool:
    if not isinstance(item, dict) or kind_of(item) != "item_reference":
        return False
    return isinstance(item.get("id"), str)
