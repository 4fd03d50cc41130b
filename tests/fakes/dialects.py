"""What providers write: whole answers and streams of chat, responses and messages. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.vllm import pieces

CREATED = 1_790_000_000  # every answer's time
Event = tuple[str | None, dict[str, Any]]  # name and data


# -- chat, as OpenAI writes it -------------------------------------------------------------


def chat_answer(head: dict[str, Any], parts: list[Any], body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    text = parts[0] if isinstance(parts[0], str) else None
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if text is None:
        message["tool_calls"] = [_chat_call(part) for part in parts]
    else:
        message["annotations"] = []
    finish = "stop" if text is not None else "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice],
        "usage": count_usage(body, parts),
    }


def chat_chunks(head: dict[str, Any], parts: list[Any], body: dict[str, Any]) -> Iterator[Event]:
    """A stream's chunks; `usage` is null in all but the last for who asked for it."""
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    head = {**head, "object": "chat.completion.chunk"}
    unknown = {"usage": None} if wants_usage else {}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return None, {**head, "choices": [choice], **unknown}

    if isinstance(parts[0], str):
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in pieces(parts[0]):
            yield chunk({"content": piece})
        yield chunk({}, "stop")
    else:
        yield chunk({"role": "assistant", "content": None, "refusal": None})
        for index, part in enumerate(parts):
            started = _chat_call({**part, "arguments": ""})
            yield chunk({"tool_calls": [{"index": index, **started}]})
            for piece in pieces(part["arguments"]):
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield chunk({}, "tool_calls")
    if wants_usage:
        yield None, {**head, "choices": [], "usage": count_usage(body, parts)}


def _chat_call(part: dict[str, Any]) -> dict[str, Any]:
    function = {"name": part["name"], "arguments": part["arguments"]}
    return {"id": part["id"], "type": "function", "function": function}


# -- responses -----------------------------------------------------------------------------


def response_object(name: str, body: dict[str, Any], output: list[Any]) -> dict[str, Any]:
    """A whole response, with what was asked echoed as OpenAI does."""
    usage = count_usage(body, output)
    return {
        "id": name,
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body.get("model"),
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
        "user": None,
        "metadata": body.get("metadata") or {},
    }


def response_events(response: dict[str, Any]) -> Iterator[Event]:
    """The events of a response, numbered without a gap."""
    for number, (kind, content) in enumerate(_response_events(response)):
        yield kind, {"type": kind, "sequence_number": number, **content}


def _response_events(response: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(response["output"]):
        place = {"output_index": index}
        empty: dict[str, Any] = {"status": "in_progress", "arguments": ""}
        if item["type"] == "message":
            empty = {"status": "in_progress", "content": []}
        yield "response.output_item.added", {**place, "item": {**item, **empty}}
        within = {**place, "item_id": item["id"]}
        if item["type"] == "message":
            yield from _text_events(item["content"][0], {**within, "content_index": 0})
        else:
            for piece in pieces(item["arguments"]):
                yield "response.function_call_arguments.delta", {**within, "delta": piece}
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield "response.function_call_arguments.done", {**within, **done}
        yield "response.output_item.done", {**place, "item": item}
    yield "response.completed", {"response": response}


def _text_events(
    part: dict[str, Any], place: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}


# -- messages ------------------------------------------------------------------------------


def message_object(name: str, body: dict[str, Any], parts: list[Any]) -> dict[str, Any]:
    """A whole Anthropic message."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {
            "type": "tool_use",
            "id": part["id"],
            "name": part["name"],
            "input": json.loads(part["arguments"]),
        }
        for part in parts
    ]
    usage = count_usage(body, parts)
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": content,
        "stop_reason": "end_turn" if isinstance(parts[0], str) else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
        },
    }


def message_events(message: dict[str, Any]) -> Iterator[Event]:
    """The events of a message, `ping` among them."""
    used = message["usage"]
    begun: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "usage": {**used, "output_tokens": 1},
    }
    yield "message_start", {"type": "message_start", "message": {**message, **begun}}
    for index, block in enumerate(message["content"]):
        is_text = block["type"] == "text"
        empty = {**block, **({"text": ""} if is_text else {"input": {}})}
        place = {"index": index}
        start = {"type": "content_block_start", **place, "content_block": empty}
        yield "content_block_start", start
        if index == 0:
            yield "ping", {"type": "ping"}
        whole = block["text"] if is_text else json.dumps(block["input"])
        for piece in pieces(whole):
            delta = (
                {"type": "text_delta", "text": piece}
                if is_text
                else {"type": "input_json_delta", "partial_json": piece}
            )
            yield "content_block_delta", {"type": "content_block_delta", **place, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", **place}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": used["output_tokens"]}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
    yield "message_stop", {"type": "message_stop"}


# -- counting ------------------------------------------------------------------------------


def count_usage(body: dict[str, Any], answered: Any) -> dict[str, Any]:
    asked = {name: body.get(name) for name in ("messages", "input", "prompt", "system")}
    prompt, completion = count_words(asked), count_words(answered)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def count_words(content: Any) -> int:
    return len(pieces(content if isinstance(content, str) else json.dumps(content)))
