"""A scripted upstream that speaks every dialect natively, for the tests with real clients.

Chat completions, completions, responses, Anthropic messages and their token
count, embeddings, models, and all of it under Azure's paths. It answers what
`tests/fakes/script.py` says, in the providers' own shapes. Chat is written as
OpenAI writes it, or with `is_vllm` as vLLM does (token ids and logprobs for who
asks). `fault = "500"` with `fault_count = 1` provokes a retry.
"""

import asyncio
import hashlib
import json
import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.script import (
    Calls,
    answer,
    ask_of_chat,
    ask_of_messages,
    ask_of_responses,
)
from tests.fakes.vllm import FakeVLLM, _compact, _error, pieces

CREATED = 1_790_000_000
Event = tuple[str | None, dict[str, Any]]  # name and data


@dataclass
class ScriptedServer(FakeVLLM):
    """State and switches are those of FakeVLLM, and one more."""

    is_vllm: bool = False
    chunk_seconds: float = 0.0
    models: tuple[str, ...] = ("gpt-4o-mini", "text-embedding-3-small", "claude-sonnet-4-6")
    _made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.reply_to = lambda body: answer(ask_of_chat(body))

    def routes(self) -> list[web.RouteDef]:
        dialects = {
            "chat/completions": self._chat,
            "completions": self._completions,
            "responses": self._responses,
            "messages": self._messages,
            "messages/count_tokens": self._count_tokens,
            "embeddings": self._embeddings,
        }
        roots = ("/v1", "/openai/v1", "/openai/deployments/{deployment}", "/openai")
        own = [
            web.post(f"{root}/{path}", route) for root in roots for path, route in dialects.items()
        ]
        lists = [web.get(f"{root}/models", self._models) for root in ("/openai", "/openai/v1")]
        return [*own, *lists, *super().routes()]

    # -- chat and completions ------------------------------------------------------------

    def _refuse_model(self, body: dict[str, Any]) -> web.Response | None:
        is_named = self.is_vllm and body.get("model") is not None  # Azure names it in the path
        return super()._refuse_model(body) if is_named else None

    def _factor(self, model: str) -> float:
        return 1.0  # it has no adapters, and on Azure no name

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return prefix + hashlib.sha256(str(self._made).encode()).hexdigest()[:24]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self.is_vllm:
            return await super()._chat(request)
        body = (await self._see(request)).body
        refused = await self._early_fault(request)
        if refused is not None:
            return refused
        parts = self._parts(answer(ask_of_chat(body)), "call_")
        head = {
            "id": self._new_id("chatcmpl-"),
            "created": CREATED,
            "model": body.get("model") or request.match_info.get("deployment"),
            "service_tier": "default",
            "system_fingerprint": "fp_scripted",
        }
        if body.get("stream"):
            return await self._events(request, chat_chunks(head, parts, body))
        return web.json_response(chat_answer(head, parts, body))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        if self.is_vllm:
            return await super()._completions(request)
        body = (await self._see(request)).body
        text = " ok" * int(body.get("max_tokens") or 4)
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
        return web.json_response(
            {
                "id": self._new_id("cmpl-"),
                "object": "text_completion",
                "created": CREATED,
                "model": body["model"],
                "choices": [choice],
                "usage": _usage(body, text),
            }
        )

    # -- responses -----------------------------------------------------------------------

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = (await self._see(request)).body
        refused = await self._early_fault(request)
        if refused is not None:
            return refused
        parts = self._parts(answer(ask_of_responses(body)), "call_")
        output = [self._output_item(part) for part in parts]
        response = response_object(self._new_id("resp_"), body, output)
        if body.get("stream"):
            return await self._events(request, response_events(response), ends_with_done=False)
        return web.json_response(response)

    def _output_item(self, part: "str | dict[str, Any]") -> dict[str, Any]:
        if isinstance(part, str):
            content = {"type": "output_text", "text": part, "annotations": [], "logprobs": []}
            return {
                "id": self._new_id("msg_"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [content],
            }
        return {
            "id": self._new_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "arguments": part["arguments"],
            "call_id": part["id"],
            "name": part["name"],
        }

    # -- messages ------------------------------------------------------------------------

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = (await self._see(request)).body
        refused = await self._early_fault(request)
        if refused is not None:
            return refused
        parts = self._parts(answer(ask_of_messages(body)), "toolu_")
        message = message_object(self._new_id("msg_"), body, parts)
        if body.get("stream"):
            return await self._events(request, message_events(message), ends_with_done=False)
        return web.json_response(message)

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = (await self._see(request)).body
        return web.json_response({"input_tokens": _words(body.get("messages"))})

    # -- the rest ------------------------------------------------------------------------

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = (await self._see(request)).body
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        found = []
        for index, text in enumerate(texts):
            vector = [len(str(text)) / 64, 0.5, -0.25]
            packed = b64encode(struct.pack("<3f", *vector)).decode()
            value = packed if body.get("encoding_format") == "base64" else vector
            found.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": _words(texts), "total_tokens": _words(texts)}
        return web.json_response(
            {"object": "list", "data": found, "model": body["model"], "usage": usage}
        )

    async def _models(self, request: web.Request) -> web.Response:
        if self.is_vllm:
            return await super()._models(request)
        await self._see(request)
        entries = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": entries})

    # -- inside --------------------------------------------------------------------------

    def _parts(self, answered: str | Calls, prefix: str) -> list[Any]:
        """A text, or calls with ids."""
        if isinstance(answered, str):
            return [answered]
        return [{"id": self._new_id(prefix), **call} for call in answered]

    async def _events(
        self, request: web.Request, events: Iterator[Event], *, ends_with_done: bool = True
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for name, content in events:
                line = f"event: {name}\n".encode() if name else b""
                await response.write(line + b"data: " + _compact(content) + b"\n\n")
                self.chunks_sent += 1
                await self._pace()
            if ends_with_done:
                await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        await response.write_eof()
        return response

    async def _early_fault(self, request: web.Request) -> web.Response | None:
        if self.is_vllm:
            return await super()._early_fault(request)
        fault = self._take_fault(("429", "500", "503"))
        return None if fault is None else _error(int(fault), "server_error", f"fault {fault}")


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
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(body, parts)}


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
        yield None, {**head, "choices": [], "usage": _usage(body, parts)}


def _chat_call(part: dict[str, Any]) -> dict[str, Any]:
    function = {"name": part["name"], "arguments": part["arguments"]}
    return {"id": part["id"], "type": "function", "function": function}


# -- responses -----------------------------------------------------------------------------


def response_object(name: str, body: dict[str, Any], output: list[Any]) -> dict[str, Any]:
    """A whole response, with what was asked echoed as OpenAI does."""
    usage = _usage(body, output)
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
    usage = _usage(body, parts)
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


def _usage(body: dict[str, Any], answered: Any) -> dict[str, Any]:
    asked = {name: body.get(name) for name in ("messages", "input", "prompt", "system")}
    prompt, completion = _words(asked), _words(answered)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _words(content: Any) -> int:
    return len(pieces(content if isinstance(content, str) else json.dumps(content)))
