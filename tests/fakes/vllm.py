"""One controllable fake of vLLM's server, for every test and for the containers.

It writes what vLLM 0.32 writes (keys, nulls, which chunk carries what), serves
adapters it was told to load, and fails on demand. In a test:

    with FakeVLLM().serve() as fake:      # a thread; fake.url
        fake.reply = lambda model, messages: "hello"
        fake.fault = "crash_after"        # see FAULTS; fake.fault = None ends it
        fake.requests[-1].body            # what arrived

Standalone: `python tests/fakes/vllm.py --port 8000 [--host 0.0.0.0] [--model base]`,
with `POST /fake {"fault": "...", "reply": "..."}` to control it.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

EOS = 2
FINGERPRINT = "vllm-fake-0"
NO_DETAILS = {"prompt_tokens_details": None, "completion_tokens_details": None}
FAULTS = {
    "crash_before": "the connection closes before the status line",
    "crash_after": "the connection closes after `fault_after` chunks",
    "hang_before": "nothing is answered",
    "hang_after": "nothing follows after `fault_after` chunks",
    "error_object": "an error event in the stream, then [DONE], under 200",
    "no_done": "the stream ends cleanly, without [DONE]",
    "garbage": "events that are not JSON between the good ones",
    "429": "refused, with retry-after",
    "500": "an engine error",
    "503": "overloaded, with retry-after",
}

Reply = Callable[[str, list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes


@dataclass
class FakeVLLM:
    """State and switches; see the module's docstring.

    `reply` returns the text of an answer, or a list of tool calls
    `[{"name", "arguments"}]`. `gate`, when set, lets one chunk pass for each
    `release()`; `chunk_seconds` slows a stream.
    """

    base_model: str = "base"
    reply: Reply = lambda model, messages: f"You are talking to {model} now."
    reply_to: Callable[[dict[str, Any]], Any] | None = None  # goes before `reply`; sees the body
    fault: str | None = None
    fault_after: int = 2
    fault_count: int | None = None  # None: until told otherwise
    chunk_seconds: float = 0.0
    api_key: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    weights_name: str | None = "default"  # None: started without VLLM_SERVER_DEV_MODE
    requests: list[Seen] = field(default_factory=list)
    chunks_sent: int = 0
    running: int = 0
    waiting: int = 0  # as /metrics tells it
    looks: int = 0  # at /metrics
    cancelled: int = 0
    url: str = ""
    gate: "threading.Semaphore | None" = None
    _numbers: Any = field(default_factory=itertools.count)

    # -- control -------------------------------------------------------------------

    def hold(self) -> None:
        """From now on each chunk of a stream waits for a `release()`."""
        self.gate = threading.Semaphore(0)

    def release(self, chunks: int = 1) -> None:
        assert self.gate is not None
        self.gate.release(chunks)

    def let_go(self) -> None:
        """Chunks wait no longer."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.release(1_000_000)

    def forget_adapters(self) -> None:
        """What a restart does."""
        self.adapters.clear()

    @contextlib.contextmanager
    def serve(self, port: int = 0) -> Iterator[Self]:
        """Serve from a thread on 127.0.0.1; `url` says where."""
        started = threading.Event()
        endings: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def run() -> None:
            runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ending = asyncio.Event()
            endings.append((asyncio.get_running_loop(), ending))
            started.set()
            await ending.wait()
            await runner.cleanup()

        thread = threading.Thread(target=asyncio.run, args=(run(),), name="fake-vllm", daemon=True)
        thread.start()
        assert started.wait(10), "the fake did not start"
        try:
            yield self
        finally:
            self.let_go()
            loop, ending = endings[0]
            loop.call_soon_threadsafe(ending.set)
            thread.join(10)

    def app(self) -> web.Application:
        """The server's routes."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_routes(self.routes())
        return app

    def routes(self) -> list[web.RouteDef]:
        """What is served, the first that fits first."""
        return [
            web.get("/health", self._health),
            web.get("/metrics", self._metrics),
            web.get("/v1/models", self._models),
            web.post("/v1/chat/completions", self._chat),
            web.post("/v1/completions", self._completions),
            web.post("/tokenize", self._tokenize),
            web.post("/v1/load_lora_adapter", self._load),
            web.post("/v1/unload_lora_adapter", self._unload),
            web.get("/weight_info", self._weight_info),
            web.post("/update_weight_version", self._name_weights),
            web.post("/fake", self._control),
            web.route("*", "/v1/{rest:.*}", self._echo),
        ]

    # -- routes --------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        self.looks += 1
        labels = f'{{engine="0",model_name="{self.base_model}"}}'
        found = {"running": self.running, "waiting": self.waiting}
        lines = [f"vllm:num_requests_{name}{labels} {count:.1f}" for name, count in found.items()]
        return web.Response(text="# HELP vllm:num_requests_running ...\n" + "\n".join(lines) + "\n")

    async def _weight_info(self, _: web.Request) -> web.Response:
        if self.weights_name is None:
            return _error(404, "NotFoundError", "Not Found")
        return web.json_response({"weight_version": self.weights_name})

    async def _name_weights(self, request: web.Request) -> web.Response:
        self.weights_name = (await request.json())["new_version"]
        return web.json_response({"success": True, "new_version": self.weights_name})

    async def _control(self, request: web.Request) -> web.Response:
        wish = await request.json()
        self.fault = wish.get("fault", self.fault)
        if "reply" in wish:
            self.reply = lambda model, messages: wish["reply"]
        if wish.get("forget_adapters"):
            self.forget_adapters()
        return web.json_response({"adapters": self.adapters, "requests": len(self.requests)})

    async def _models(self, request: web.Request) -> web.Response:
        await self._see(request)
        served = [(self.base_model, None), *((name, self.base_model) for name in self.adapters)]
        entries = [
            {
                "id": name,
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "vllm",
                "root": self.adapters.get(name, name),
                "parent": parent,
                "max_model_len": 2048 if parent is None else None,
                "permission": [],
            }
            for name, parent in served
        ]
        return web.json_response({"object": "list", "data": entries})

    async def _echo(self, request: web.Request) -> web.Response:
        seen = await self._see(request)
        return web.json_response(
            {"method": seen.method, "path": seen.path, "size": len(seen.raw)},
            headers={"x-engine": "fake"},
        )

    async def _load(self, request: web.Request) -> web.Response:
        body = (await self._see(request)).body
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return _error(
                400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."
            )
        if name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded."
            return _error(400, "InvalidUserInput", message)
        problem = adapter_problem(path)
        if problem is not None:
            status = 404 if problem.startswith("No adapter found") else 500
            return _error(
                status, "NotFoundError" if status == 404 else "InternalServerError", problem
            )
        self.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await self._see(request)).body.get("lora_name")
        if name not in self.adapters:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = (await self._see(request)).body
        refused = self._refuse_model(body) or await self._early_fault(request)
        if refused is not None:
            return refused
        if body.get("stream_options") and not body.get("stream"):
            message = "Stream options can only be defined when `stream=True`."
            return _error(400, "BadRequestError", message, "stream_options")
        completion = _Completion(self, body, f"cmpl-{self._id()}")
        if body.get("stream"):
            return await self._stream(request, completion)
        return web.json_response(completion.whole())

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = (await self._see(request)).body
        refused = self._refuse_model(body)
        if refused is not None:
            return refused
        texts = [_text(message) for message in body.get("messages") or []]
        ids = token_ids(" ".join(texts) if "messages" in body else body.get("prompt", ""))
        return web.json_response(
            {"count": len(ids), "max_model_len": 2048, "tokens": ids, "token_strs": None}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        seen = await self._see(request)
        body = seen.body
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return _error(400, "BadRequestError", "messages: Field required")
        refused = self._refuse_model(body) or self._refuse_body(body)
        if refused is None:
            refused = await self._early_fault(request)
        if refused is not None:
            return refused
        answer = _Answer(self, body, f"chatcmpl-{seen.headers.get('x-request-id') or self._id()}")
        self.running += 1
        try:
            if not body.get("stream"):
                if self.fault in ("hang_after", "crash_after"):
                    return await self._hang_or_crash(request)
                await self._pace()
                return web.json_response(answer.whole())
            return await self._stream(request, answer)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _stream(
        self, request: web.Request, answer: "_Answer | _Completion"
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", "x-engine": "fake"}
        )
        await response.prepare(request)
        fault = self._take_fault(
            ("crash_after", "hang_after", "error_object", "no_done", "garbage")
        )
        for number, chunk in enumerate(answer.chunks()):
            if fault is not None and number == self.fault_after:
                if fault in ("crash_after", "hang_after"):
                    await self._hang_or_crash(request, fault)
                if fault == "error_object":
                    error = {
                        "error": {
                            "message": "engine died",
                            "type": "InternalServerError",
                            "code": 500,
                        }
                    }
                    await response.write(f"data: {json.dumps(error)}\n\n".encode())
                    break
                if fault == "garbage":
                    await response.write(
                        b": comment\n\ndata: {not json\n\nevent: odd\ndata: 1\n\n\x00\xff\n\n"
                    )
            if number:
                await self._pace()
            await response.write(b"data: " + _compact(chunk) + b"\n\n")
            self.chunks_sent += 1
        if fault != "no_done":
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    # -- inside --------------------------------------------------------------------

    def _id(self) -> str:
        return f"{next(self._numbers):08x}{time.time_ns() % 10**9:09d}"

    async def _see(self, request: web.Request) -> Seen:
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.method, request.path_qs, headers, body, raw)
        self.requests.append(seen)
        return seen

    async def _pace(self) -> None:
        if self.gate is not None:
            gate = self.gate
            # A thread turns this gate, so there is no asyncio event to wait for.
            while self.gate is gate and not gate.acquire(blocking=False):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        if self.chunk_seconds:
            await asyncio.sleep(self.chunk_seconds)

    def _take_fault(self, kinds: tuple[str, ...]) -> str | None:
        if self.fault not in kinds or self.fault_count == 0:
            return None
        if self.fault_count is not None:
            self.fault_count -= 1
        return self.fault

    async def _early_fault(self, request: web.Request) -> web.Response | None:
        fault = self._take_fault(("crash_before", "hang_before", "429", "500", "503"))
        if fault in ("crash_before", "hang_before"):
            await self._hang_or_crash(request, fault)
        if fault is None:
            return None
        kind = {"429": "RateLimitError", "500": "InternalServerError", "503": "ServiceUnavailable"}
        response = _error(int(fault), kind[fault], f"fault {fault}")
        if fault != "500":
            response.headers["retry-after"] = "7"
        return response

    async def _hang_or_crash(self, request: web.Request, fault: str | None = None) -> Any:
        if (fault or self.fault or "").startswith("crash"):
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("crashed on demand")
        await asyncio.sleep(3600)

    def _refuse_model(self, body: dict[str, Any]) -> web.Response | None:
        model = body.get("model")
        if model == self.base_model or model in self.adapters:
            return None
        message = f"The model `{model}` does not exist. Valid aliases: {self.base_model}."
        return _error(404, "NotFoundError", message, "model")

    def _refuse_body(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("stream_options") and not body.get("stream"):
            return _error(
                400, "BadRequestError", "Stream options can only be defined when `stream=True`."
            )
        if body.get("top_logprobs") and not body.get("logprobs"):
            message = "when using `top_logprobs`, `logprobs` must be set to true."
            return _error(400, "BadRequestError", message, "top_logprobs")
        return None

    def _factor(self, model: str) -> float:
        """Adapters answer differently from the base model, and from each other."""
        return 1.0 if model == self.base_model else 1.0 + zlib.crc32(model.encode()) % 100 / 1000


class _Answer:
    """One answer, as a whole and as chunks, with vLLM's keys in vLLM's order."""

    def __init__(self, fake: FakeVLLM, body: dict[str, Any], response_id: str) -> None:
        self._body = body
        self._id = response_id
        self._model = body["model"]
        self._created = int(time.time())
        self._prompt = token_ids(" ".join(_text(message) for message in body["messages"]))
        self._factor = fake._factor(self._model)
        self._n = body.get("n") or 1
        if fake.reply_to is not None:
            replied = fake.reply_to(body)
        else:
            replied = fake.reply(self._model, body["messages"])
        self._text = replied if isinstance(replied, str) else None
        self._calls = [] if isinstance(replied, str) else replied
        self._wants_ids = bool(body.get("return_token_ids"))
        self._wants_logprobs = bool(body.get("logprobs"))
        options = body.get("stream_options") or {}
        self._wants_usage = bool(options.get("include_usage"))
        self._wants_running_usage = self._wants_usage and bool(
            options.get("continuous_usage_stats")
        )

    def _pieces(self, index: int) -> list[str]:
        text = self._text
        if text is None:
            text = "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in self._calls)
        elif index:
            text = f"{text} ({index})"
        limit = self._body.get("max_completion_tokens") or self._body.get("max_tokens")
        found = pieces(text)
        return found[:limit] if limit and limit <= len(found) else [*found, ""]

    def _ids(self, found: list[str]) -> list[int]:
        return [token_id(piece) if piece else EOS for piece in found]

    def _logprobs(self, found: list[str], first: int = 0) -> dict[str, Any] | None:
        if not self._wants_logprobs:
            return None
        top = int(self._body.get("top_logprobs") or 0)
        content = []
        for position, piece in enumerate(found, first):
            value = logprob(position, self._factor)
            entry = {"token": piece, "logprob": value, "bytes": list(piece.encode())}
            content.append({**entry, "top_logprobs": [entry] * top})
        return {"content": content}

    def _call_id(self, number: int) -> str:
        """vLLM's default form: `call_...` is what OpenAI writes."""
        return "chatcmpl-tool-" + hashlib.md5(f"{self._id}/{number}".encode()).hexdigest()

    def _whole_calls(self) -> list[dict[str, Any]]:
        return [
            {"id": self._call_id(number), "type": "function", "function": call}
            for number, call in enumerate(self._calls)
        ]

    def _finish(self, found: list[str]) -> str:
        if found[-1]:
            return "length"
        return "tool_calls" if self._calls else "stop"

    def whole(self) -> dict[str, Any]:
        choices, total = [], 0
        for index in range(self._n):
            found = self._pieces(index)
            total += len(found)
            message: dict[str, Any] = {
                "role": "assistant",
                "content": self._text and "".join(found),
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                **({"tool_calls": self._whole_calls()} if self._calls else {}),
                "reasoning": None,
            }
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._logprobs(found),
                    "finish_reason": self._finish(found),
                    "stop_reason": None,
                    "token_ids": self._ids(found) if self._wants_ids else None,
                    "routed_experts": None,
                }
            )
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": _usage(len(self._prompt), total) | NO_DETAILS,
            "prompt_logprobs": None,
            "prompt_token_ids": self._prompt if self._wants_ids else None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **more,
        }

    def chunks(self) -> Iterator[dict[str, Any]]:
        for index in range(self._n):
            choice = {
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
            more = {"usage": _usage(len(self._prompt), 0)} if self._wants_running_usage else {}
            prompt = self._prompt if self._wants_ids else None
            yield self._chunk([choice], **more, prompt_token_ids=prompt, prompt_text=None)
        answers = [self._pieces(index) for index in range(self._n)]
        for position in range(max(map(len, answers))):
            for index, found in enumerate(answers):
                if position < len(found):
                    chunk = self._token(index, position, found)
                    if chunk is not None:
                        yield chunk
        if self._wants_usage:
            usage = _usage(len(self._prompt), sum(map(len, answers)))
            yield self._chunk([], usage=usage, system_fingerprint=FINGERPRINT)

    def _token(self, index: int, position: int, found: list[str]) -> dict[str, Any] | None:
        is_last = position == len(found) - 1
        delta = self._delta(position, found)
        logprobs = self._logprobs([found[position]], position)
        if delta is None:
            if not is_last and logprobs is None and not self._wants_ids:
                return None  # the tool parser is buffering: nothing to say
            delta = {}
        choice: dict[str, Any] = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": self._finish(found) if is_last else None,
        }
        if is_last:
            choice["stop_reason"] = None
        choice["token_ids"] = self._ids([found[position]]) if self._wants_ids else None
        more: dict[str, Any] = {}
        if self._wants_running_usage:
            more["usage"] = _usage(len(self._prompt), position + 1)
        if is_last and not self._wants_usage:
            more["system_fingerprint"] = FINGERPRINT
        return self._chunk([choice], **more)

    def _delta(self, position: int, found: list[str]) -> dict[str, Any] | None:
        if not self._calls:
            return {"content": found[position]} if found[position] else None
        # The parser speaks at two tokens: the name, then the arguments.
        speaks_at = (len(found) // 2, len(found) - 2)
        if position not in speaks_at:
            return None
        calls = []
        for number, call in enumerate(self._calls):
            if position == speaks_at[0]:
                function = {"name": call["name"]}
                calls.append(
                    {
                        "id": self._call_id(number),
                        "type": "function",
                        "index": number,
                        "function": function,
                    }
                )
            else:
                calls.append({"index": number, "function": {"arguments": call["arguments"]}})
        return {"content": None, "tool_calls": calls}


class _Completion:
    """The answers to a legacy completion, with vLLM's keys in vLLM's order."""

    def __init__(self, fake: FakeVLLM, body: dict[str, Any], response_id: str) -> None:
        self._body = body
        self._head = {
            "id": response_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": body["model"],
        }
        self._factor = fake._factor(body["model"])
        self._n = body.get("n") or 1
        given = body.get("prompt", "")
        is_one = isinstance(given, str) or all(isinstance(entry, int) for entry in given)
        self._prompts = [given] if is_one else given
        self._wants_ids = bool(body.get("return_token_ids"))
        options = body.get("stream_options") or {}
        self._wants_usage = bool(options.get("include_usage"))
        self._wants_running_usage = self._wants_usage and bool(
            options.get("continuous_usage_stats")
        )

    def _answers(self) -> list[tuple[list[int], str, list[str]]]:
        """For each answer the prompt's ids, its text as echoed, and the answer's pieces."""
        count = int(self._body.get("max_tokens") or 16)
        found = []
        for prompt in self._prompts:
            ids = token_ids(prompt) if isinstance(prompt, str) else prompt
            # Asked for ids, vLLM leaves the text out of an echo.
            text = prompt if isinstance(prompt, str) and not self._wants_ids else ""
            echoed = text if self._body.get("echo") else ""
            found += [(ids, echoed, [f" ok{n or ''}"] * count) for n in range(self._n)]
        return found

    def _logprobs(
        self, ids: list[int], found: list[str], first: int, offset: int
    ) -> dict[str, Any] | None:
        top = self._body.get("logprobs")
        if top is None:
            return None
        values: list[float | None] = [
            logprob(position, self._factor) for position in range(first, first + len(found))
        ]
        if self._body.get("echo") and not first:
            values = [None, *prompt_logprobs(ids, self._factor), *values]
            found = ["?"] * len(ids) + found
        sizes = itertools.accumulate((len(piece) for piece in found[:-1]), initial=offset)
        return {
            "text_offset": list(sizes),
            "token_logprobs": values,
            "tokens": found,
            "top_logprobs": [
                None if value is None else {piece: value}
                for piece, value in zip(found, values, strict=True)
            ],
        }

    def whole(self) -> dict[str, Any]:
        choices, prompt_total, total = [], 0, 0
        for index, (ids, echoed, found) in enumerate(self._answers()):
            prompt_total += 0 if index % self._n else len(ids)
            total += len(found)
            wants_prompt = self._body.get("prompt_logprobs") is not None
            prompt_values = [
                {str(token): {"logprob": value, "rank": 1, "decoded_token": "?"}}
                for token, value in zip(ids[1:], prompt_logprobs(ids, self._factor), strict=True)
            ]
            choices.append(
                {
                    "index": index,
                    "text": echoed + "".join(found),
                    "logprobs": self._logprobs(ids, found, 0, 0),
                    "finish_reason": "length",
                    "stop_reason": None,
                    "token_ids": token_ids("".join(found)) if self._wants_ids else None,
                    "prompt_logprobs": [None, *prompt_values] if wants_prompt else None,
                    "prompt_token_ids": ids if self._wants_ids else None,
                    "routed_experts": None,
                }
            )
        return {
            **self._head,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": _usage(prompt_total, total) | NO_DETAILS,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def chunks(self) -> Iterator[dict[str, Any]]:
        answers = self._answers()
        for position in range(max(len(found) for _, _, found in answers)):
            for index, (ids, echoed, found) in enumerate(answers):
                yield self._chunk(index, position, ids, echoed, found)
        if self._wants_usage:
            prompt = sum(len(ids) for ids, _, _ in answers[:: self._n])
            usage = _usage(prompt, sum(len(found) for _, _, found in answers))
            yield {**self._head, "choices": [], "usage": usage, "system_fingerprint": FINGERPRINT}

    def _chunk(
        self, index: int, position: int, ids: list[int], echoed: str, found: list[str]
    ) -> dict[str, Any]:
        is_first, is_last = position == 0, position == len(found) - 1
        offset = sum(map(len, found[:position]))
        if self._body.get("echo") and not is_first:
            offset += len(ids)
        returns_prompt = is_first and (self._wants_ids or self._body.get("echo"))
        choice = {
            "index": index,
            "text": (echoed if is_first else "") + found[position],
            "logprobs": self._logprobs(ids, [found[position]], position, offset),
            "finish_reason": "length" if is_last else None,
            "stop_reason": None,
            "prompt_token_ids": ids if returns_prompt else None,
            "token_ids": [token_id(found[position])] if self._wants_ids else None,
        }
        chunk = {**self._head, "choices": [choice]}
        if self._wants_running_usage:
            chunk["usage"] = _usage(len(ids), position + 1)
        if is_last and not self._wants_usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk


def pieces(text: str) -> list[str]:
    """The fake's tokens: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def token_id(piece: str) -> int:
    return 10 + zlib.crc32(piece.encode()) % 30_000


def token_ids(text: str) -> list[int]:
    return [token_id(piece) for piece in pieces(text)]


def logprob(position: int, factor: float = 1.0) -> float:
    return -0.05 * (1 + position % 7) * factor


def prompt_logprobs(ids: list[int], factor: float) -> list[float]:
    """Of each id but the first."""
    return [logprob(position, factor) for position in range(1, len(ids))]


def adapter_problem(path: str) -> str | None:
    """What vLLM would find wrong with an adapter's files: it reads them, not their values."""
    folder = Path(path)
    if not folder.is_dir():
        return f"No adapter found at {path}"
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not config.is_file() or not weights.is_file():
        return f"Loading lora failed: no adapter_config.json or weights in {folder}"
    try:
        json.loads(config.read_text())
        raw = weights.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        end = max(
            (v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"Loading lora failed: {error}"
    return None if 8 + size + end == len(raw) else "Loading lora failed: incomplete weights"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return f"{message.get('role', '')}: {content or ''}"


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }


def _compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _error(status: int, kind: str, message: str, param: str | None = None) -> web.Response:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": error}, status=status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="base")
    parser.add_argument("--chunk-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    fake = FakeVLLM(base_model=arguments.model, chunk_seconds=arguments.chunk_seconds)
    web.run_app(
        fake.app(),
        host=arguments.host,
        port=arguments.port,
        handler_cancellation=True,
        print=lambda *_: None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
