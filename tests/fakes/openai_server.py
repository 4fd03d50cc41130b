"""A scripted upstream that speaks every dialect natively, for the tests with real clients.

Chat completions, completions, responses, Anthropic messages and their token
count, embeddings, models, and all of it under Azure's paths. It answers what
`tests/fakes/script.py` says, in the providers' own shapes. Chat is written as
OpenAI writes it, or with `is_vllm` as vLLM does (token ids and logprobs for who
asks). `fault = "500"` with `fault_count = 1` provokes a retry; a question with
"Fail with 429" in it is refused.
"""

import asyncio
import hashlib
import json
import re
import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.dialects import (
    CREATED,
    Event,
    chat_answer,
    chat_chunks,
    count_usage,
    count_words,
    message_events,
    message_object,
    response_events,
    response_object,
)
from tests.fakes.script import (
    Calls,
    answer,
    ask_of_chat,
    ask_of_messages,
    ask_of_responses,
)
from tests.fakes.vllm import FakeVLLM, _compact, _error

_ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}
_WISH = re.compile(rb"Fail with (\d{3})")


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
                "usage": count_usage(body, text),
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
            return _in_anthropics_shape(refused)
        parts = self._parts(answer(ask_of_messages(body)), "toolu_")
        message = message_object(self._new_id("msg_"), body, parts)
        if body.get("stream"):
            return await self._events(request, message_events(message), ends_with_done=False)
        return web.json_response(message)

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = (await self._see(request)).body
        return web.json_response({"input_tokens": count_words(body.get("messages"))})

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
        usage = {"prompt_tokens": count_words(texts), "total_tokens": count_words(texts)}
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
        wished = _WISH.search(await request.read())
        if wished is None and self.is_vllm:
            return await super()._early_fault(request)
        status = wished[1].decode() if wished else self._take_fault(("429", "500", "503"))
        if status is None:
            return None
        kind = "BadRequestError" if status < "500" else "InternalServerError"
        response = _error(int(status), kind, f"as you wish: {status}", "model")
        if status in ("429", "503"):
            response.headers["retry-after"] = "7"
        return response


def _in_anthropics_shape(refused: web.Response) -> web.Response:
    assert refused.text is not None
    said = json.loads(refused.text)["error"]
    error = {"type": _ERROR_TYPES.get(refused.status, "api_error"), "message": said["message"]}
    headers = {name: refused.headers[name] for name in ("retry-after",) if name in refused.headers}
    content = {"type": "error", "error": error, "request_id": "req_scripted"}
    return web.json_response(content, status=refused.status, headers=headers)
