"""Anthropic's own client reads our bodies: its models, its stream, its errors, a loop of tools."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from gateway.dialects.messages import MessagesAnswer, chat_body, error_body, parse_messages
from gateway.errors import ApiError
from tests.fakes.vllm import FakeVLLM, _Answer

anthropic = pytest.importorskip("anthropic")

TOOL = {
    "name": "find",
    "description": "Finds",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
}
CALLS = [
    {"name": "find", "arguments": '{"q": "a b c"}'},
    {"name": "find", "arguments": '{"q": "d e f"}'},
]
Seen = list[dict[str, Any]]


class Found(BaseModel):
    """A structured answer."""

    city: str


def gateway(reply: Any, seen: Seen) -> Callable[[httpx2.Request], httpx2.Response]:
    """The pure parts put together, as a server would: body, engine, answer."""

    def serve(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/messages"
        body = parse_messages(request.read())
        chat = chat_body(body)
        seen.append(chat)
        added = {"return_token_ids": True, "logprobs": True}
        added |= {"stream_options": {"include_usage": True}} if chat.get("stream") else {}
        said = reply(chat["messages"]) if callable(reply) else reply
        engine = _Answer(FakeVLLM(reply=lambda model, messages: said), chat | added, "r1")
        answer = MessagesAnswer(body, message_id="msg_1", model=body["model"])
        if not chat.get("stream"):
            return httpx2.Response(200, json=answer.whole(engine.whole()))
        events = b"".join([*map(answer.chunk, engine.chunks()), answer.finish()])
        return httpx2.Response(200, content=events, headers={"content-type": "text/event-stream"})

    return serve


def client(serve: Callable[[httpx2.Request], httpx2.Response]) -> Any:
    transport = httpx2.MockTransport(serve)
    return anthropic.Anthropic(
        api_key="k",
        base_url="http://gateway.test",
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    )


def request(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "policy", "max_tokens": 99, "messages": messages, "tools": [TOOL], **more}


@pytest.mark.parametrize("reply", ["Hello there, world.", "", CALLS])
def test_its_stream_adds_up_to_its_whole_message(reply: Any) -> None:
    seen: Seen = []
    sdk = client(gateway(reply, seen))
    whole = sdk.messages.create(**request())
    with sdk.messages.stream(**request()) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    # The models are strict here: the client itself takes anything.
    strict = anthropic.types.Message.model_validate(whole.to_dict(), strict=True)
    assert strict.to_dict() == whole.to_dict()
    assert final.to_dict(exclude_none=True) == whole.to_dict(exclude_none=True)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert [block.type for block in whole.content] == (
        ["text"] if isinstance(reply, str) else ["tool_use"] * 2
    )
    assert whole.stop_reason == ("end_turn" if isinstance(reply, str) else "tool_use")
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0


def test_every_event_is_one_that_it_knows() -> None:
    raw = client(gateway(CALLS, [])).messages.create(**request(stream=True))
    for event in raw:
        assert type(event).model_validate(event.to_dict(), strict=True).to_dict() == event.to_dict()
        assert set(event.to_dict()) <= set(type(event).model_fields)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_loop_of_tools_goes_round(is_streamed: bool) -> None:
    def reply(messages: list[dict[str, Any]]) -> Any:
        results = [message["content"] for message in messages if message["role"] == "tool"]
        return f"Found {' and '.join(results)}." if results else CALLS

    seen: Seen = []
    sdk = client(gateway(reply, seen))
    turns: list[Any] = [{"role": "user", "content": "find both"}]
    for _ in range(2):
        if is_streamed:
            with sdk.messages.stream(**request(messages=turns)) as stream:
                message = stream.get_final_message()
        else:
            message = sdk.messages.create(**request(messages=turns))
        turns.append({"role": "assistant", "content": message.content})
        called = [block for block in message.content if block.type == "tool_use"]
        if called:
            results = [
                {"type": "tool_result", "tool_use_id": one.id, "content": one.input["q"].upper()}
                for one in called
            ]
            turns.append({"role": "user", "content": results})
    assert message.content[0].text == "Found A B C and D E F."
    # The engine sees its own calls again, with its own ids and the same arguments.
    roles = [entry["role"] for entry in seen[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    again = seen[-1]["messages"][1]["tool_calls"]
    assert [json.loads(one["function"]["arguments"]) for one in again] == [
        json.loads(one["arguments"]) for one in CALLS
    ]
    assert [one["id"] for one in again] == [
        result["tool_call_id"] for result in seen[-1]["messages"][2:]
    ]
    assert all(one["id"].startswith("chatcmpl-tool-") for one in again)


def test_its_structured_output_is_asked_for_and_read() -> None:
    seen: Seen = []
    sdk = client(gateway('{"city": "Paris"}', seen))
    parsed = sdk.messages.parse(**request(output_format=Found))
    assert parsed.parsed_output == Found(city="Paris")
    assert "city" in seen[0]["response_format"]["json_schema"]["schema"]["properties"]


def test_our_errors_are_its_errors() -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        error = ApiError(404, "unknown_model", "there is no such model")
        return httpx2.Response(404, content=error_body(error, "req_1"), headers=error.headers)

    with pytest.raises(anthropic.NotFoundError, match="no such model") as caught:
        client(refuse).messages.create(**request())
    assert caught.value.body["error"]["type"] == "not_found_error"


def test_a_stream_that_breaks_raises_in_the_client() -> None:
    def cut(_: httpx2.Request) -> httpx2.Response:
        answer = MessagesAnswer({}, message_id="msg_1", model="policy")
        said = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
        content = answer.chunk(said) + answer.broken("upstream_cut", "the engine left")
        return httpx2.Response(200, content=content, headers={"content-type": "text/event-stream"})

    sdk = client(cut)
    with (
        pytest.raises(anthropic.APIStatusError, match="the engine left"),
        sdk.messages.stream(**request()) as stream,
    ):
        stream.get_final_message()
