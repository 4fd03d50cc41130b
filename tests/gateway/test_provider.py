"""Foreign providers through litellm, against real HTTP: what goes in, what comes out, what fails.

The second half needs litellm, which does not fit into one environment with the
rest of the development tools (docs/upstreams.md); it is skipped where litellm is not.
"""

import asyncio
import importlib.metadata
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway.upstreams.provider import (
    Provider,
    ProviderError,
    chat_parameters,
    check_version,
    chunk_of,
    completion_of,
    embeddings_of,
    scrubbed,
)
from tests.fakes.vllm import FakeVLLM
from trajectories.errors import SettingsError
from trajectories.settings import OtherUpstreamSettings

KEY = "canary-key-4711"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "canary prompt"}]}
SMUGGLED = {
    "api_base": "http://127.0.0.1:9/v1",
    "base_url": "http://127.0.0.1:9/v1",
    "api_key": "theirs",
    "api_version": "1",
    "extra_headers": {"x-smuggled": "1"},
    "extra_body": {"smuggled": True},
    "headers": {"x-smuggled": "1"},
    "custom_llm_provider": "ollama",
    "mock_response": "mocked",
    "mock_timeout": True,
    "model_list": [],
    "fallbacks": ["gpt-4"],
    "metadata": {"smuggled": True},
    "num_retries": 9,
    "success_callback": ["langfuse"],
    "timeout": 0.001,
    "caching": True,
    "stream_options": {"smuggled": True},
    "web_search_options": {},
}


# -- pure ------------------------------------------------------------------------------


def test_only_listed_parameters_pass() -> None:
    body = {**BODY, **SMUGGLED, "model": "m", "stream": True, "temperature": 0.0, "seed": None}
    assert chat_parameters(body) == {**BODY, "temperature": 0.0}


def test_tools_that_litellm_would_run_itself_are_dropped() -> None:
    function = {"type": "function", "function": {"name": "f"}}
    mcp = {"type": "mcp", "server_url": "litellm_proxy"}
    assert chat_parameters({"tools": [function, mcp, "odd", {"type": []}]})["tools"] == [function]
    for none in ([mcp], [], None, 5, "odd"):
        assert "tools" not in chat_parameters({"tools": none})
    assert "tool_choice" not in chat_parameters({"tools": [mcp], "tool_choice": "required"})


def test_litellms_bookkeeping_stays_out_of_an_answer() -> None:
    answer = {
        "id": "c-1",
        "object": "chat.completion",
        "model": "m",
        "created": 1,
        "citations": None,
        "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": None}},
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "provider_specific_fields": {"a": 1},
                "message": {
                    "role": "assistant",
                    "content": None,
                    "function_call": None,
                    "tool_calls": [{"id": "call_1", "provider_specific_fields": {"a": 1}}],
                    "provider_specific_fields": {"a": 1},
                },
            }
        ],
    }
    assert completion_of(answer) == {
        "id": "c-1",
        "object": "chat.completion",
        "model": "m",
        "created": 1,
        "usage": {"prompt_tokens": 1, "prompt_tokens_details": {}},
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "call_1"}],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
    }


def test_the_chunk_with_the_usage_has_no_choices() -> None:
    empty = {"index": 0, "delta": {"content": None}, "finish_reason": None}
    assert chunk_of({"choices": [empty], "usage": {"total_tokens": 3}}) == {
        "usage": {"total_tokens": 3},
        "choices": [],
    }
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert chunk_of({"choices": [last], "usage": {"total_tokens": 3}})["choices"]
    assert chunk_of({"choices": [empty]})["choices"]


def test_embeddings_keep_what_is_openais() -> None:
    answer = {"object": "list", "data": [], "model": "m", "usage": {"total_tokens": 1}, "x": 1}
    assert "x" not in embeddings_of(answer)


@pytest.mark.parametrize(
    "text",
    [
        f"wrong key {KEY}.",
        "Incorrect API key provided: sk-proj-ab***********wxyz.",
        "GET https://example.org/v1?key=4711abc&alt=sse failed",
        "headers: Authorization: Bearer 4711abc",
        "AKIAIOSFODNN7EXAMPLE is not authorised",
    ],
)
def test_nothing_that_looks_like_a_key_leaves(text: str) -> None:
    said = scrubbed(text, KEY)
    assert "***" in said
    assert not any(part in said for part in ("4711", "proj", "wxyz", "EXAMPLE"))


def test_a_plain_message_stays_and_a_long_one_is_cut() -> None:
    text = "max_tokens: key parameter missing"
    assert scrubbed(text, None) == text
    assert len(scrubbed("x" * 10_000, None)) == 500


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.83.9", "0.99.0", "1.83.9.post1"])
def test_an_unsafe_litellm_is_refused(version: str) -> None:
    with pytest.raises(SettingsError, match=r"1\.83\.10 or later"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.83.10", "1.106.2", "2.0", "1.109.1rc1"])
def test_a_safe_litellm_is_taken(version: str) -> None:
    check_version(version)


def installed() -> bool:
    try:
        importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(installed(), reason="litellm is installed here")
def test_without_litellm_it_is_said_what_to_install() -> None:
    with pytest.raises(SettingsError, match=r"pip install 'ratchet-gateway\[gateway,providers\]'"):
        Provider(OtherUpstreamSettings(kind="litellm", provider="anthropic"))


# -- with litellm, over HTTP -----------------------------------------------------------

with_litellm = pytest.mark.skipif(
    not installed(), reason="litellm is not installed; make test-providers installs it"
)
# litellm and its HTTP clients warn of themselves; that is not ours to mend.
quietly = pytest.mark.filterwarnings("default")


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with FakeVLLM().serve() as running:
        yield running


@asynccontextmanager
async def provider_for(url: str, provider: str = "openai") -> AsyncIterator[Provider]:
    made = Provider(OtherUpstreamSettings(kind="litellm", provider=provider, url=url, api_key=KEY))
    try:
        yield made
    finally:
        await made.close()


@with_litellm
@quietly
async def test_a_completion_comes_in_openais_shape(fake: FakeVLLM) -> None:
    async with provider_for(f"{fake.url}/v1") as provider:
        answer = await provider.complete({**BODY, **SMUGGLED, "temperature": 0.5}, "base", 10)
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "You are talking to base now."}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 7
    (seen,) = fake.requests
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.body == {**BODY, "model": "base", "temperature": 0.5}
    assert "smuggled" not in json.dumps(seen.headers)


@with_litellm
@quietly
async def test_a_stream_comes_in_chunks_with_usage_in_the_last(fake: FakeVLLM) -> None:
    async with provider_for(f"{fake.url}/v1") as provider:
        chunks = [chunk async for chunk in provider.stream({**BODY, **SMUGGLED}, "base", 10)]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    text = "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )
    assert text == "You are talking to base now."
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 7
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "stop"
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}


@with_litellm
@quietly
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_tool_calls_come_through(fake: FakeVLLM, is_streamed: bool) -> None:
    fake.reply = lambda model, messages: [{"name": "look_up", "arguments": '{"city": "Bern"}'}]
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    async with provider_for(f"{fake.url}/v1") as provider:
        if is_streamed:
            deltas = [
                choice["delta"]
                async for chunk in provider.stream({**BODY, "tools": tools}, "base", 10)
                for choice in chunk["choices"]
            ]
            calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        else:
            answer = await provider.complete({**BODY, "tools": tools}, "base", 10)
            assert answer["choices"][0]["finish_reason"] == "tool_calls"
            calls = answer["choices"][0]["message"]["tool_calls"]
    assert calls[0]["id"]
    assert calls[0]["function"]["name"] == "look_up"
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == {"city": "Bern"}
    assert fake.requests[0].body["tools"] == tools


@with_litellm
@quietly
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("500", 500), ("503", 503)])
async def test_errors_keep_their_status_and_retry_header(
    fake: FakeVLLM, fault: str, status: int, is_streamed: bool
) -> None:
    fake.fault = fault
    async with provider_for(f"{fake.url}/v1") as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider, is_streamed)
    assert caught.value.status == status
    assert caught.value.headers["retry-after"] == ("1" if fault == "500" else "7")
    assert f"fault {fault}" in caught.value.message
    assert len(fake.requests) == 1


async def ask(provider: Provider, is_streamed: bool, timeout: float = 10) -> list[Any]:
    if not is_streamed:
        return [await provider.complete(BODY, "base", timeout)]
    return [chunk async for chunk in provider.stream(BODY, "base", timeout)]


@with_litellm
@quietly
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_silence_and_a_dead_address_end_in_time(fake: FakeVLLM, is_streamed: bool) -> None:
    fake.fault = "hang_before"
    async with provider_for(f"{fake.url}/v1") as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider, is_streamed, 0.3)
    assert (caught.value.status, caught.value.code) == (504, "upstream_timeout")
    async with provider_for("http://127.0.0.1:9/v1") as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider, is_streamed)
    assert caught.value.status in (500, 502)
    assert caught.value.headers["retry-after"] == "1"


@with_litellm
@quietly
@pytest.mark.parametrize(("fault", "status"), [("crash_after", 502), ("hang_after", 504)])
async def test_a_stream_that_breaks_off_raises_after_its_chunks(
    fake: FakeVLLM, fault: str, status: int
) -> None:
    fake.fault = fault
    async with provider_for(f"{fake.url}/v1") as provider:
        stream = provider.stream(BODY, "base", 0.5)
        first = await anext(stream)
        with pytest.raises(ProviderError) as caught:
            [chunk async for chunk in stream]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert caught.value.status == status


@with_litellm
@quietly
async def test_closing_a_stream_cancels_it_upstream(fake: FakeVLLM) -> None:
    fake.hold()
    async with provider_for(f"{fake.url}/v1") as provider:
        stream = provider.stream(BODY, "base", 10)
        await anext(stream)
        assert fake.running == 1
        await stream.aclose()
        for _ in range(500):
            if not fake.running:
                break
            await asyncio.sleep(0.01)
    assert fake.running == 0


@with_litellm
@quietly
async def test_the_key_and_the_prompt_are_in_no_error_and_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        message = f"Incorrect API key provided: {KEY}"
        error = {"message": message, "type": "invalid_request_error", "code": "invalid_api_key"}
        return web.json_response({"error": error}, status=int(request.query.get("status", 401)))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    with caplog.at_level(logging.INFO):
        async with serving(app) as url, provider_for(f"{url}/v1") as provider:
            for is_streamed in (False, True):
                with pytest.raises(ProviderError) as caught:
                    await ask(provider, is_streamed)
                assert (caught.value.status, caught.value.code) == (502, "upstream_key")
                assert KEY not in str(caught.value)
                assert caught.value.__cause__ is None
                await asyncio.sleep(0.05)  # litellm logs from a task of its own
    written = "".join(capfd.readouterr()) + caplog.text
    assert KEY not in written
    assert "canary prompt" not in written


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- an Anthropic-shaped server --------------------------------------------------------

CLAUDE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"city": "Bern"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 11, "output_tokens": 5},
}


def claude_events() -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**CLAUDE, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for text in ("Let me", " look."):
        delta = {"type": "text_delta", "text": text}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    block = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}}
    yield {"type": "content_block_start", "index": 1, "content_block": block}
    for text in ('{"city":', ' "Bern"}'):
        delta = {"type": "input_json_delta", "partial_json": text}
        yield {"type": "content_block_delta", "index": 1, "delta": delta}
    yield {"type": "content_block_stop", "index": 1}
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


@asynccontextmanager
async def claude(seen: list[dict[str, Any]]) -> AsyncIterator[Provider]:
    async def messages(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append({"key": request.headers.get("x-api-key"), **body})
        if body["model"] == "overloaded":
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return web.json_response({"type": "error", "error": error}, status=529)
        if not body.get("stream"):
            return web.json_response(CLAUDE)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for event in claude_events():
            await answer.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return answer

    app = web.Application()
    app.router.add_post("/v1/messages", messages)
    async with serving(app) as url, provider_for(url, "anthropic") as provider:
        yield provider


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ASKED = {
    "messages": [{"role": "system", "content": "Be brief."}, *BODY["messages"]],
    "max_tokens": 50,
    "tools": TOOLS,
    "logprobs": True,  # Anthropic has none: left out
    **SMUGGLED,
}


@with_litellm
@quietly
async def test_anthropic_answers_a_chat_completion() -> None:
    seen: list[dict[str, Any]] = []
    async with claude(seen) as provider:
        answer = await provider.complete(ASKED, "claude-x", 10)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    (call,) = choice["message"]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == (
        "toolu_1",
        "function",
        "look_up",
    )
    assert json.loads(call["function"]["arguments"]) == {"city": "Bern"}
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (11, 5)
    (body,) = seen
    assert (body["key"], body["model"], body["max_tokens"]) == (KEY, "claude-x", 50)
    assert body["system"][0]["text"] == "Be brief."
    assert body["tools"][0]["name"] == "look_up"
    assert not {"logprobs", *SMUGGLED} & set(body)


@with_litellm
@quietly
async def test_anthropic_streams_a_chat_completion() -> None:
    seen: list[dict[str, Any]] = []
    async with claude(seen) as provider:
        chunks = [chunk async for chunk in provider.stream(ASKED, "claude-x", 10)]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me look."
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == ("toolu_1", "look_up")
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == {"city": "Bern"}
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["tool_calls"]
    assert chunks[-1]["usage"]["total_tokens"] == 16


@with_litellm
@quietly
async def test_an_overloaded_provider_is_an_error_of_the_usual_kind() -> None:
    async with claude([]) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.complete(BODY, "overloaded", 10)
    assert caught.value.status in (500, 502, 503)
    assert caught.value.headers["retry-after"] == "1"


@with_litellm
@quietly
async def test_an_image_address_in_a_prompt_is_not_opened_from_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hits: list[str] = []

    async def image(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(body=b"GIF89a", content_type="image/gif")

    app = web.Application()
    app.router.add_get("/{name}", image)
    async with serving(app) as url, claude([]) as provider:
        # litellm's own guard lets public addresses pass; ours is the one looked at here.
        monkeypatch.setattr(provider._litellm, "user_url_validation", False, raising=False)
        part = {"type": "image_url", "image_url": {"url": f"{url}/secret.gif"}}
        body = {"messages": [{"role": "user", "content": [part]}]}
        with pytest.raises(ProviderError) as caught:
            await provider.complete(body, "claude-x", 10)
    assert caught.value.status == 400
    assert not hits


@with_litellm
@quietly
async def test_embeddings_are_passed_on() -> None:
    seen: list[dict[str, Any]] = []

    async def embed(request: web.Request) -> web.Response:
        seen.append(await request.json())
        row = {"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response(
            {"object": "list", "data": [row], "model": "embed-1", "usage": usage}
        )

    app = web.Application()
    app.router.add_post("/v1/embeddings", embed)
    async with serving(app) as url, provider_for(f"{url}/v1") as provider:
        answer = await provider.embed({"input": ["hi"], **SMUGGLED}, "embed-1", 10)
    assert answer["data"][0]["embedding"] == [0.25, -1.0]
    assert answer["usage"]["total_tokens"] == 1
    assert not set(SMUGGLED) & set(seen[0])
