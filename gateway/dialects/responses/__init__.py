"""Responses: what is read from a body, and how an engine that speaks chat is asked.

Pure, and the door to the dialect: what its other modules offer is
imported from here. An engine of ours is asked in chat, as only there it tells
its token ids. What has no chat form, as a tool that OpenAI runs itself, is left
out of what the engine is asked (`left_out` names it); the answer echoes it.
"""

from typing import Any

from gateway.dialects.chat import parse_object
from gateway.dialects.responses.answer import ResponsesAnswer, wants_logprobs
from gateway.dialects.responses.fold import fold_response, fold_stream
from gateway.dialects.responses.items import left_out_items, messages_of
from gateway.dialects.responses.references import (
    input_items,
    referenced_responses,
    with_references,
)
from gateway.dialects.responses.tools import chat_tools, hosted_tools
from gateway.errors import ApiError, bad_request

__all__ = [
    "ResponsesAnswer",
    "chat_body",
    "check_responses",
    "fold_response",
    "fold_stream",
    "input_items",
    "input_messages",
    "left_out",
    "named_responses",
    "parse_responses",
    "recorded_body",
    "referenced_responses",
    "wants_logprobs",
    "with_references",
]

# What chat has no word for, has another word for, or what is answered here.
_NOT_PASSED = frozenset(
    {
        "background",
        "client_metadata",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "logprobs",
        "max_output_tokens",
        "max_tool_calls",
        "messages",
        "moderation",
        "n",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)


MOST_NAMED = 64  # responses that one call builds on: each has to be looked up


def parse_responses(raw: bytes, deployment: str | None = None) -> dict[str, Any]:
    """The body as an object, or an ApiError that says what is wrong with it.

    `deployment` is the model where the path names it and the body does not (Azure).
    """
    body = parse_object(raw)
    if deployment is not None and body.get("model") is None:
        body["model"] = deployment
    return check_responses(body)


def check_responses(body: dict[str, Any]) -> dict[str, Any]:
    """The same body, if any engine could be asked with it; else an ApiError."""
    model, given = body.get("model"), body.get("input")
    if not isinstance(model, str) or not model:
        raise bad_request("`model` must be a non-empty string", "model")
    if given is None:
        if all(
            body.get(name) is None for name in ("previous_response_id", "prompt", "conversation")
        ):
            raise bad_request("`input` is missing", "input")
    elif not isinstance(given, str) and not _is_list_of_objects(given):
        raise bad_request("`input` must be a string or a list of objects", "input")
    if not isinstance(body.get("previous_response_id"), str | None):
        raise bad_request("`previous_response_id` must be a string", "previous_response_id")
    return body


def _is_list_of_objects(given: object) -> bool:
    return isinstance(given, list) and all(isinstance(item, dict) for item in given)


def chat_body(body: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat body that asks an engine of ours; `history` is what `previous_response_id` names.

    Raises ApiError 400 for what such an engine cannot be asked.
    """
    if body.get("prompt") is not None:
        raise bad_request("`prompt` names a template that is not kept here", "prompt")
    instructions = body.get("instructions")
    if not isinstance(instructions, str | None):
        raise bad_request("`instructions` must be a string", "instructions")
    messages = [*history, *input_messages(body)]
    if instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    if not messages:
        raise bad_request("`input` holds no message", "input")
    asked = {**_asked(body), **chat_tools(body)}
    return {**_passed(body), "messages": _one_system(messages), **asked}


def named_responses(body: dict[str, Any]) -> list[str]:
    """The ids of the responses that a body builds on, in one way or another. Raises ApiError."""
    previous = body.get("previous_response_id")
    found = [previous] if isinstance(previous, str) else []
    named = list(dict.fromkeys([*found, *referenced_responses(body)]))
    if len(named) > MOST_NAMED:
        raise bad_request(f"`input` refers to more than {MOST_NAMED} responses", "input")
    return named


def input_messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    """`input` as chat messages, without the instructions, which hold for one call only."""
    return messages_of(body.get("input"))


def recorded_body(body: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat form of a call that an engine answers in this dialect; never an error.

    What has no chat form stays as it is inside a message, or is left out.
    """
    try:
        return chat_body(body, history)
    except ApiError:
        messages = [*history, *messages_of(body.get("input"), is_strict=False)]
        if isinstance(body.get("instructions"), str):
            messages.insert(0, {"role": "system", "content": body["instructions"]})
        return {**_passed(body), "messages": messages}


def left_out(body: dict[str, Any]) -> list[str]:
    """The types of tools and items that the engine does not get to see; each once."""
    return list(dict.fromkeys([*hosted_tools(body), *left_out_items(body.get("input"))]))


def _passed(body: dict[str, Any]) -> dict[str, Any]:
    """What chat knows by the same name, vLLM's own parameters among it."""
    return {n: v for n, v in body.items() if v is not None and n not in _NOT_PASSED}


def _one_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system messages at the beginning as one: several chat templates refuse a second."""
    texts: list[str] = []
    for message in messages:
        if message["role"] != "system" or not isinstance(message["content"], str):
            break
        texts.append(message["content"])
    if len(texts) < 2:
        return messages
    return [{"role": "system", "content": "\n\n".join(texts)}, *messages[len(texts) :]]


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    """What chat calls by another name."""
    asked: dict[str, Any] = {}
    if body.get("max_output_tokens") is not None:
        asked["max_completion_tokens"] = body["max_output_tokens"]
    effort = _object(body, "reasoning").get("effort")
    if effort is not None:
        asked["reasoning_effort"] = effort
    wanted = _object(body, "text").get("format")
    if wanted is not None:
        asked |= _response_format(wanted)
    if wants_logprobs(body):
        asked["logprobs"] = True
        if body.get("top_logprobs"):
            asked["top_logprobs"] = body["top_logprobs"]
    return asked


def _response_format(wanted: object) -> dict[str, Any]:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(wanted, dict) or kind != "json_schema":
        message = "`text.format.type` must be text, json_object or json_schema"
        raise bad_request(message, "text.format.type")
    if not isinstance(wanted.get("name"), str) or not isinstance(wanted.get("schema"), dict):
        raise bad_request("`text.format` needs a `name` and a `schema`", "text.format")
    names = ("name", "description", "schema", "strict")
    schema = {name: wanted[name] for name in names if wanted.get(name) is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"`{name}` must be an object", name)
    return value
