"""Providers behind the exchange: the same answers, records and fallbacks as over plain HTTP.

First the adapter, with a provider that is scripted; then litellm itself, before
the fake engine as an OpenAI-compatible provider, through the whole gateway
(skipped where litellm is not installed: docs/upstreams.md).
"""

import asyncio
import importlib.metadata
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import orjson
import pytest

from gateway.access import ANYONE
from gateway.call import Call
from gateway.dialects.asking import PATHS, Asked
from gateway.dialects.chat import NO_ADDITIONS
from gateway.dialects.chat_reply import ChatReply
from gateway.errors import ApiError
from gateway.reception import receive
from gateway.upstreams.foreign import Foreign
from gateway.upstreams.pool import Carrier
from gateway.wire.headers import AnswerHead, read_headers
from gateway.wire.hot import HotPaths
from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, wait_for
from tests.gateway.test_chat import events
from trajectories.model import Outcome
from trajectories.settings import BreakerSettings, OtherUpstreamSettings

SETTINGS = OtherUpstreamSettings(url="http://unused")
CHUNKS: list[dict[str, Any]] = [
    {"id": "c-1", "choices": [{"index": 0, "delta": {"content": "hello"}}]},
    {"id": "c-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
]


class Scripted:
    """A provider that says what it is told to."""

    def __init__(self, said: list[Any]) -> None:
        self.said = said
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.is_stopped = self.is_closed = False

    async def complete(self, body: dict[str, Any], model: str, timeout: float) -> dict[str, Any]:
        self.asked.append(("complete", body, model))
        return await self._next(self.said[0])

    async def embed(self, body: dict[str, Any], model: str, timeout: float) -> dict[str, Any]:
        self.asked.append(("embed", body, model))
        return await self._next(self.said[0])

    async def stream(
        self, body: dict[str, Any], model: str, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.asked.append(("stream", body, model))
        try:
            for one in self.said:
                yield await self._next(one)
        finally:
            self.is_stopped = True

    async def close(self) -> None:
        self.is_closed = True

    async def _next(self, one: Any) -> dict[str, Any]:
        if isinstance(one, Exception):
            raise one
        if isinstance(one, asyncio.Event):
            await one.wait()
            return CHUNKS[0]
        found: dict[str, Any] = one
        return found


class Ear:
    """Listens as an exchange does."""

    def __init__(self, *, leaves_at: str = "") -> None:
        self.carrier: Carrier | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.failure = ""
        self.is_over = asyncio.Event()
        self._leaves_at = leaves_at

    def on_head(self, head: AnswerHead) -> None:
        self.status, self.headers = head.status, dict(head.headers)
        self._leave("head")

    def on_piece(self, piece: bytes, is_last: bool) -> None:
        self.pieces.append(piece)
        if is_last:
            self.is_over.set()
        self._leave("piece")

    def on_failure(self, code: str, message: str) -> None:
        self.failure = f"{code}: {message}"
        self.is_over.set()

    def _leave(self, at: str) -> None:
        if self._leaves_at == at and self.carrier is not None:
            self.carrier.cancel()
            self.is_over.set()


def some_call() -> Call:
    """Not looked at: what goes to the provider stands in `Asked`."""
    path = HotPaths().find(b"/v1/chat/completions")
    assert path is not None
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    return receive(path, read_headers([]), ANYONE, body)


def send(said: list[Any], body: dict[str, Any], ear: Ear, path: str = "chat") -> Scripted:
    speaker = Scripted(said)
    foreign = Foreign("far", speaker, patience=SETTINGS, breaker=BreakerSettings())
    payload = orjson.dumps({"model": "m", **body})
    asked = Asked(PATHS[path], payload, ChatReply(NO_ADDITIONS, None, "m"))  # type: ignore[index]
    foreign.send(foreign.choose(0, 0.0), ear, asked, some_call())
    return speaker


async def hear(said: list[Any], body: dict[str, Any], path: str = "chat") -> tuple[Ear, Scripted]:
    ear = Ear()
    speaker = send(said, body, ear, path)
    async with asyncio.timeout(5):
        await ear.is_over.wait()
    assert ear.carrier is None
    return ear, speaker


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def test_a_whole_answer_is_json() -> None:
    ear, speaker = await hear([{"id": "c-1"}], {"messages": []})
    assert (ear.status, ear.headers) == (200, {b"content-type": b"application/json"})
    assert ear.pieces == [b'{"id":"c-1"}']
    assert speaker.asked == [("complete", {"model": "m", "messages": []}, "m")]


async def test_embeddings_are_asked_for_as_such() -> None:
    ear, speaker = await hear([{"object": "list"}], {"input": "x"}, "embeddings")
    assert ear.pieces == [b'{"object":"list"}']
    assert speaker.asked[0][0] == "embed"


async def test_a_stream_is_events_and_done() -> None:
    wish = {"stream": True, "stream_options": {"include_usage": True}}
    ear, _ = await hear(CHUNKS, wish)
    assert ear.headers[b"content-type"] == b"text/event-stream"
    assert events(b"".join(ear.pieces)) == [*CHUNKS, b"[DONE]"]


async def test_usage_that_nobody_asked_for_is_left_out() -> None:
    ear, _ = await hear(CHUNKS, {"stream": True, "n": 2})
    assert events(b"".join(ear.pieces)) == [*CHUNKS[:2], b"[DONE]"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_refusal_is_its_status_with_a_body(is_streamed: bool) -> None:
    error = ApiError(429, "slow_down", "too many", retry_after=7)
    ear, _ = await hear([error], {"stream": is_streamed})
    assert (ear.status, ear.headers[b"retry-after"]) == (429, b"7")
    assert orjson.loads(ear.pieces[0])["error"]["code"] == "slow_down"


async def test_a_stream_that_breaks_is_a_failure() -> None:
    error = ApiError(504, "upstream_timeout", "silence")
    ear, speaker = await hear([CHUNKS[0], error], {"stream": True})
    assert ear.failure == "upstream_timeout: silence"
    assert speaker.is_stopped


@pytest.mark.parametrize("said", [[ValueError("key=secret")], [CHUNKS[0], KeyError("secret")]])
async def test_a_bug_of_the_library_is_told_without_its_text(
    said: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    ear, _ = await hear(said, {"stream": True})
    found = f"{ear.failure} {ear.pieces}"
    assert "library failed" in found
    assert ear.failure or ear.status == 502
    assert "secret" not in found + caplog.text


async def test_who_hangs_up_closes_the_providers_stream_and_hears_no_more() -> None:
    ear = Ear()
    speaker = send([*CHUNKS[:1], asyncio.Event()], {"stream": True}, ear)
    await until(lambda: ear.pieces)
    assert ear.carrier is not None
    assert ear.carrier.is_open
    ear.carrier.cancel()
    await until(lambda: speaker.is_stopped)
    assert not ear.is_over.is_set()


@pytest.mark.parametrize(("at", "pieces"), [("head", 0), ("piece", 1)])
async def test_a_listener_may_hang_up_while_it_listens(at: str, pieces: int) -> None:
    ear = Ear(leaves_at=at)
    speaker = send(CHUNKS, {"stream": True}, ear)
    await until(lambda: speaker.is_stopped)
    assert len(ear.pieces) == pieces
    assert not ear.failure


async def test_a_paused_listener_is_not_talked_to() -> None:
    ear = Ear()
    gate = asyncio.Event()
    send([CHUNKS[0], gate, *CHUNKS[:1]], {"stream": True}, ear)
    await until(lambda: ear.pieces)
    assert ear.carrier is not None
    ear.carrier.pause()
    gate.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(ear.pieces) <= 2  # one was under way
    ear.carrier.resume()
    await asyncio.wait_for(ear.is_over.wait(), 5)
    assert len(ear.pieces) == 4


async def test_closing_ends_what_runs() -> None:
    speaker = Scripted([asyncio.Event()])
    foreign = Foreign("far", speaker, patience=SETTINGS, breaker=BreakerSettings())
    ear = Ear()
    asked = Asked(PATHS["chat"], b'{"model":"m","stream":true}', ChatReply(NO_ADDITIONS, None, "m"))
    foreign.send(foreign.choose(0, 0.0), ear, asked, some_call())
    await asyncio.sleep(0)
    foreign.drop_idle(0.0)
    foreign.close()
    await foreign.closed()
    assert speaker.is_stopped
    assert speaker.is_closed


# -- litellm, through the gateway --------------------------------------------------


def has_litellm() -> bool:
    try:
        importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def needs_litellm(test: Any) -> Any:
    reason = "litellm is not installed: docs/upstreams.md says how"
    # pydantic remarks on litellm's own types, in the middle of a stream.
    quietly = pytest.mark.filterwarnings("default")
    return quietly(pytest.mark.skipif(not has_litellm(), reason=reason)(test))


FAR = {"kind": "litellm", "provider": "openai", "api_key": "theirs", "first_byte_seconds": 5}
WEATHER = [{"name": "weather", "arguments": '{"city": "Rome"}'}]


@pytest.fixture
def provider() -> Iterator[FakeVLLM]:
    with FakeVLLM(base_model="big").serve() as fake:
        yield fake


@pytest.fixture
def foreign(start: Callable[..., Running], provider: FakeVLLM) -> Running:
    """A gateway whose model `teacher` is a provider's, and which `policy` falls back to."""
    return start(
        upstreams={"far": {**FAR, "url": f"{provider.url}/v1"}},
        routes={
            "teacher": {"upstream": "far", "model": "big"},
            "policy": {"upstream": "policy", "fallbacks": ["teacher"]},
        },
    )


def tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    return {"type": "function", "function": {"name": "weather", "parameters": parameters}}


def is_foreign(record: Any) -> bool:
    """Recorded under the upstream's name, and without what only our engine knows."""
    ids = [choice.token_ids for choice in record.choices]
    return bool(
        record.upstream == "far"
        and record.policy_version is None
        and record.policy is None
        and not record.prompt_token_ids
        and not any(ids)
    )


@needs_litellm
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_chat_is_answered_and_recorded_under_the_upstreams_name(
    foreign: Running, provider: FakeVLLM, is_streamed: bool
) -> None:
    answer = foreign.chat(model="teacher", stream=is_streamed, temperature=0.5)
    assert answer.status_code == 200
    text = "You are talking to big now."
    if is_streamed:
        found = events(answer.content)
        assert found[-1] == b"[DONE]"
        said = [c["delta"].get("content") or "" for e in found[:-1] for c in e["choices"]]
        assert "".join(said) == text
        assert all(event["model"] == "teacher" for event in found[:-1])
        assert not any(event.get("usage") for event in found[:-1])
    else:
        assert answer.json()["choices"][0]["message"]["content"] == text
        assert answer.json()["model"] == "teacher"
    (record,) = foreign.records()
    assert is_foreign(record)
    assert (record.outcome, record.model) == (Outcome.COMPLETE, "big")
    assert record.choices[0].message["content"] == text
    assert record.usage["completion_tokens"] > 0
    (seen,) = provider.requests
    assert seen.headers["authorization"] == "Bearer theirs"
    assert (seen.body["temperature"], seen.body["model"]) == (0.5, "big")
    assert foreign.fake.requests == []


@needs_litellm
@pytest.mark.parametrize("is_streamed", [False, True])
def test_tool_calls_come_through(foreign: Running, provider: FakeVLLM, is_streamed: bool) -> None:
    provider.reply = lambda model, messages: WEATHER
    answer = foreign.chat(model="teacher", stream=is_streamed, tools=[tool()])
    assert answer.status_code == 200
    (record,) = foreign.records()
    (call,) = record.choices[0].message["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert record.choices[0].finish_reason == "tool_calls"
    assert is_foreign(record)


@needs_litellm
@pytest.mark.parametrize("is_streamed", [False, True])
def test_responses_are_translated_over_it(
    foreign: Running, provider: FakeVLLM, is_streamed: bool
) -> None:
    body = {"model": "teacher", "input": "hi", "instructions": "be brief", "stream": is_streamed}
    answer = foreign.client.post("/v1/responses", json=body)
    assert answer.status_code == 200
    assert "You are talking to big now." in answer.text
    assert is_streamed == ("event: response.completed" in answer.text)
    (record,) = foreign.records()
    assert is_foreign(record)
    assert record.dialect == "responses"
    roles = [message["role"] for message in record.request["messages"]]
    assert roles == ["system", "user"]
    assert record.choices[0].message["content"] == "You are talking to big now."


@needs_litellm
@pytest.mark.parametrize("is_streamed", [False, True])
def test_messages_are_translated_over_it(
    foreign: Running, provider: FakeVLLM, is_streamed: bool
) -> None:
    provider.reply = lambda model, messages: WEATHER
    body = {
        "model": "teacher",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "weather", "input_schema": tool()["function"]["parameters"]}],
        "stream": is_streamed,
    }
    answer = foreign.client.post("/v1/messages", json=body)
    assert answer.status_code == 200
    if is_streamed:
        assert "event: message_stop" in answer.text
    else:
        (block,) = answer.json()["content"]
        assert (block["type"], block["input"]) == ("tool_use", {"city": "Rome"})
    (record,) = foreign.records()
    assert is_foreign(record)
    assert record.choices[0].message["tool_calls"][0]["function"]["name"] == "weather"


@needs_litellm
@pytest.mark.parametrize("is_streamed", [False, True])
def test_it_answers_when_the_policys_engine_is_dead(
    start: Callable[..., Running], provider: FakeVLLM, is_streamed: bool
) -> None:
    running = start(
        upstream={"url": "http://127.0.0.1:9"},
        upstreams={"far": {**FAR, "url": f"{provider.url}/v1"}},
        routes={
            "teacher": {"upstream": "far", "model": "big"},
            "policy": {"upstream": "policy", "fallbacks": ["teacher"]},
        },
    )
    assert running.chat(stream=is_streamed).status_code == 200
    (record,) = running.records()
    assert is_foreign(record)
    assert record.outcome == Outcome.COMPLETE
    assert "ratchet_fallbacks_total 1.0" in running.client.get("/metrics").text


@needs_litellm
def test_its_refusals_keep_their_status_and_fall_back(foreign: Running, provider: FakeVLLM) -> None:
    provider.fault = "429"
    refused = foreign.chat(model="teacher")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    streamed = foreign.chat(model="teacher", stream=True)
    assert streamed.status_code == 429
    assert [record.outcome for record in foreign.records()] == [Outcome.FAILED] * 2
    provider.fault, foreign.fake.fault = "500", "503"
    both = foreign.chat()  # the policy first, then the teacher
    assert both.status_code == 500
    assert len(foreign.fake.requests) == 1


@needs_litellm
def test_a_stream_that_breaks_off_ends_with_an_error(foreign: Running, provider: FakeVLLM) -> None:
    provider.fault = "crash_after"
    answer = foreign.chat(model="teacher", stream=True)
    found = events(answer.content)
    assert "error" in found[-1]
    assert b"[DONE]" not in answer.content
    (record,) = foreign.records()
    assert record.outcome == Outcome.INCOMPLETE


@needs_litellm
def test_a_client_that_leaves_stops_the_provider(foreign: Running, provider: FakeVLLM) -> None:
    provider.hold()
    body = {"model": "teacher", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with foreign.client.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_bytes())
    wait_for(lambda: provider.cancelled == 1)
    (record,) = wait_for(foreign.records)
    assert record.outcome == Outcome.DISCONNECTED
    provider.let_go()


@needs_litellm
def test_silence_ends_with_a_time_out(start: Callable[..., Running], provider: FakeVLLM) -> None:
    upstream = {**FAR, "url": f"{provider.url}/v1", "first_byte_seconds": 0.5}
    route = {"upstream": "far", "model": "big"}
    running = start(upstreams={"far": upstream}, routes={"teacher": route})
    provider.fault = "hang_before"
    refused = running.chat(model="teacher", stream=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "upstream_timeout")
    wait_for(lambda: provider.running == 0)


@needs_litellm
def test_counting_tokens_is_not_offered_by_it(foreign: Running) -> None:
    body = {"model": "teacher", "messages": [{"role": "user", "content": "hi"}]}
    refused = foreign.client.post("/v1/messages/count_tokens", json=body)
    assert (refused.status_code, refused.json()["type"]) == (400, "error")
