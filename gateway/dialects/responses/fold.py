"""A Responses answer of an engine that speaks the dialect itself, as a chat answer for the record.

Pure, and done once, after the last byte; the client got the bytes as they came.
"""

from typing import Any

from gateway.dialects.chat import FoldedChoice, as_text
from gateway.dialects.fold import Folded
from gateway.dialects.responses.items import messages_of
from gateway.dialects.sse import EventSplitter, event_payload, is_done, parse_chunk

_CUT = {"max_output_tokens": "length", "content_filter": "content_filter"}


def fold_response(answer: dict[str, Any]) -> Folded:
    """A whole Response object."""
    items = _items(answer.get("output"))
    status = answer.get("status")
    error = answer.get("error")
    message = _message(items)
    return Folded(
        response_id=as_text(answer.get("id")),
        choices=(FoldedChoice(message=message, finish_reason=_finish_reason(answer, message)),)
        if items
        else (),
        usage=_chat_usage(answer.get("usage")),
        error=_error_text(error) if error else "failed" if status == "failed" else None,
        is_done=status in ("completed", "incomplete", "failed"),
    )


def fold_stream(stream: bytes) -> Folded:
    """All events of a stream; what is there of it when it was cut."""
    splitter = EventSplitter()
    events = splitter.feed(stream)
    events.append(splitter.flush())
    response: dict[str, Any] = {}
    items: dict[int, dict[str, Any]] = {}
    error: object = None
    garbage = 0
    for raw in events:
        event = parse_chunk(raw)
        if event is None:
            garbage += event_payload(raw) is not None and not is_done(raw)
            continue
        kind = event.get("type")
        if kind == "error" or event.get("error"):
            error = error or event.get("error") or event
        if isinstance(event.get("response"), dict):
            response = event["response"]
        else:
            _grow(items, event)
    if not _items(response.get("output")):
        response = {**response, "output": [item for _, item in sorted(items.items())]}
    folded = fold_response(response)
    return Folded(
        response_id=folded.response_id,
        choices=folded.choices,
        usage=folded.usage,
        error=folded.error or (_error_text(error) if error else None),
        is_done=folded.is_done,
        garbage=garbage,
    )


def _grow(items: dict[int, dict[str, Any]], event: dict[str, Any]) -> None:
    """An item that ended, or a piece of one that may never."""
    kind, index, item = event.get("type"), event.get("output_index"), event.get("item")
    if not isinstance(index, int):
        return
    if isinstance(item, dict):
        items[index] = item
        return
    piece, open_item = event.get("delta"), items.get(index)
    if not isinstance(piece, str) or open_item is None:
        return
    if kind == "response.output_text.delta" and isinstance(open_item.get("content"), list):
        open_item["content"].append({"type": "output_text", "text": piece})
    elif kind == "response.function_call_arguments.delta":
        open_item["arguments"] = (as_text(open_item.get("arguments")) or "") + piece
    elif kind == "response.custom_tool_call_input.delta":
        open_item["input"] = (as_text(open_item.get("input")) or "") + piece


def _items(output: object) -> list[dict[str, Any]]:
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _message(items: list[dict[str, Any]]) -> dict[str, Any]:
    """All items as one assistant message."""
    turns = messages_of(items, is_strict=False)
    said = [turn for turn in turns if turn["role"] == "assistant"]
    texts = [turn["content"] for turn in said if turn["content"]]
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) or None}
    if calls := [call for turn in said for call in turn.get("tool_calls", ())]:
        message["tool_calls"] = calls
    if thought := [text for item in items for text in _thoughts(item)]:
        message["reasoning"] = "\n".join(thought)
    return message


def _thoughts(item: dict[str, Any]) -> list[str]:
    """The reasoning itself, or the summary of it where the engine keeps it to itself."""
    if item.get("type") != "reasoning":
        return []
    parts = _items(item.get("content")) or _items(item.get("summary"))
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def _finish_reason(answer: dict[str, Any], message: dict[str, Any]) -> str | None:
    status, details = answer.get("status"), answer.get("incomplete_details")
    if status == "incomplete":
        reason = as_text(details.get("reason")) if isinstance(details, dict) else None
        return _CUT.get(reason or "", "length")
    if status != "completed":
        return None
    return "tool_calls" if "tool_calls" in message else "stop"


def _chat_usage(usage: object) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    names = {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": "total_tokens",
        "prompt_tokens_details": "input_tokens_details",
        "completion_tokens_details": "output_tokens_details",
    }
    return {chat: usage[native] for chat, native in names.items() if native in usage}


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]
