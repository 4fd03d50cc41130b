"""Responses answers: OpenAI's events and objects, from whatever an engine says in chat."""

import asyncio
import json
from itertools import pairwise, zip_longest
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.dialects.responses import ResponsesAnswer, chat_body, input_messages
from tests.fakes.vllm import FakeVLLM, _Answer

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "patch"},
    {
        "type": "namespace",
        "name": "mcp",
        "description": "",
        "tools": [{"type": "function", "name": "read"}],
    },
]
BODY: dict[str, Any] = {"model": "policy", "input": "hi", "tools": TOOLS}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def an_answer(**more: Any) -> ResponsesAnswer:
    return ResponsesAnswer({**BODY, **more}, response_id="resp_x", model="policy", created_at=9.5)


def a_chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "token_ids": [4711]}
    return {"id": "chatcmpl-1", "choices": [choice], "prompt_token_ids": [4711]}


def a_call(index: int, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **more}
    call = {"index": index, "function": {k: v for k, v in function.items() if v is not None}}
    return {**call, "id": f"call_{index}", "type": "function"} if "name" in more else call


def whole_chat(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason, "token_ids": [4711]}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": USAGE, "prompt_token_ids": [4711]}


def streamed(answer: ResponsesAnswer, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a whole stream, each held against OpenAI's own model of it."""
    last = {"choices": [], "usage": USAGE}
    pieces = [answer.begin(), *(answer.chunk(c) for c in [*chunks, last]), answer.finish()]
    return read(b"".join(pieces))


def read(raw: bytes) -> list[dict[str, Any]]:
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


# -- events ----------------------------------------------------------------------------


def test_a_text_is_told_in_openais_order() -> None:
    answer = an_answer()
    events = streamed(
        answer,
        a_chunk(role="assistant", content=""),
        a_chunk(content="Good"),
        a_chunk(content="bye"),
        a_chunk("stop", content=""),
    )
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert [e["delta"] for e in events if "delta" in e] == ["Good", "bye"]
    response = events[-1]["response"]
    assert response == answer.response
    assert response["output"] == [
        {
            "id": "msg_x_0",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": "Goodbye"}
            ],
        }
    ]
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


def test_text_then_calls_are_items_in_that_order() -> None:
    events = streamed(
        an_answer(),
        a_chunk(content="Looking."),
        a_chunk(tool_calls=[a_call(0, "", name="find")]),
        a_chunk(tool_calls=[a_call(0, '{"q"')]),
        a_chunk(tool_calls=[a_call(0, ":1}")]),
        a_chunk("tool_calls"),
    )
    assert kinds(events)[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    added, done = events[8], events[12]
    assert added["item"]["arguments"] == ""
    assert added["item"]["status"] == "in_progress"
    assert done["item"] == {
        "id": "fc_x_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_0",
        "name": "find",
        "arguments": '{"q":1}',
    }


def test_calls_written_at_once_keep_their_own_arguments() -> None:
    answer = an_answer()
    events = streamed(
        answer,
        a_chunk(tool_calls=[a_call(0, "", name="find"), a_call(1, "", name="mcp__read")]),
        a_chunk(tool_calls=[a_call(0, '{"a"'), a_call(1, '{"b"')]),
        a_chunk(tool_calls=[a_call(1, ":2}"), a_call(0, ":1}")]),
        a_chunk("tool_calls"),
    )
    deltas = [(e["output_index"], e["delta"]) for e in events if "delta" in e]
    assert deltas == [(0, '{"a"'), (1, '{"b"'), (1, ":2}"), (0, ":1}")]
    first, second = answer.response["output"]
    assert (first["name"], first["arguments"]) == ("find", '{"a":1}')
    assert (second["name"], second["namespace"], second["arguments"]) == ("read", "mcp", '{"b":2}')


def test_a_name_in_pieces_is_whole_when_its_item_begins() -> None:
    events = streamed(
        an_answer(),
        a_chunk(tool_calls=[a_call(0, name="mcp__")]),
        a_chunk(tool_calls=[{"index": 0, "function": {"name": "read"}}]),
        a_chunk("tool_calls", tool_calls=[a_call(0, "{}")]),
    )
    assert events[2]["item"]["name"] == "read"
    assert events[2]["item"]["namespace"] == "mcp"


def test_a_custom_tool_gets_its_text_not_the_json_around_it() -> None:
    answer = an_answer()
    events = streamed(
        answer,
        a_chunk(tool_calls=[a_call(0, '{"input": "a\\n', name="patch")]),
        a_chunk("tool_calls", tool_calls=[a_call(0, 'b"}')]),
    )
    assert kinds(events)[2:] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    assert events[3]["delta"] == events[4]["input"] == "a\nb"
    item = answer.response["output"][0]
    assert (item["type"], item["id"], item["input"]) == ("custom_tool_call", "ctc_x_0", "a\nb")
    assert answer.output_messages()[0]["tool_calls"][0]["function"]["name"] == "patch"


@pytest.mark.parametrize("arguments", ["bare text", "[1]", '{"input": 5}'])
def test_a_custom_tool_called_without_json_gets_what_was_written(arguments: str) -> None:
    call = {"id": "c", "function": {"name": "patch", "arguments": arguments}}
    assert an_answer().whole(whole_chat(tool_calls=[call]))["output"][0]["input"] == arguments


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_an_item_of_its_own(field: str) -> None:
    events = streamed(
        an_answer(), a_chunk(**{field: "hm"}), a_chunk(**{field: "."}), a_chunk("stop", content="4")
    )
    assert kinds(events)[2:9] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    reasoning, message = events[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm."}]
    assert reasoning["id"] == "rs_x_0"
    assert message["content"][0]["text"] == "4"


def test_a_refusal_is_a_part_of_the_message() -> None:
    answer = an_answer()
    events = streamed(answer, a_chunk(content="Well: "), a_chunk("stop", refusal="no"))
    assert "refusal.delta" in kinds(events)
    assert "refusal.done" in kinds(events)
    text, refusal = answer.response["output"][0]["content"]
    assert text["text"] == "Well: "
    assert refusal == {"type": "refusal", "refusal": "no"}


def test_an_empty_answer_is_an_empty_message() -> None:
    answer = an_answer()
    events = streamed(answer, a_chunk("stop", role="assistant", content=""))
    assert "output_text.delta" not in kinds(events)
    assert answer.response["output"][0]["content"][0]["text"] == ""
    assert answer.output_messages() == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_a_cut_answer_is_incomplete_in_its_last_item(finish_reason: str, reason: str) -> None:
    answer = an_answer()
    calls = [a_call(0, "{}", name="find"), a_call(1, '{"q', name="find")]
    events = streamed(answer, a_chunk(content="a"), a_chunk(finish_reason, tool_calls=calls))
    assert kinds(events)[-1] == "incomplete"
    assert answer.response["status"] == "incomplete"
    assert answer.response["incomplete_details"] == {"reason": reason}
    statuses = [item["status"] for item in answer.response["output"]]
    assert statuses == ["completed", "completed", "incomplete"]


def test_a_broken_stream_ends_with_an_error_and_what_was_said() -> None:
    answer = an_answer()
    raw = answer.chunk(a_chunk(content="Good"))
    raw += answer.chunk(a_chunk(tool_calls=[a_call(0, '{"q', name="find")]))
    events = read(raw + answer.broken("upstream_broken", "it is gone"))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert (events[-2]["code"], events[-2]["message"]) == ("upstream_broken", "it is gone")
    response = events[-1]["response"]
    assert response["error"] == {"code": "server_error", "message": "it is gone"}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert answer.finish() == answer.chunk(a_chunk(content="x")) == answer.broken("a", "b") == b""


def test_a_text_that_broke_off_is_kept_with_what_is_there() -> None:
    answer = an_answer()
    answer.chunk(a_chunk(content="Good"))
    answer.broken("rate_limit_exceeded", "wait")
    assert answer.response["output"][0]["content"][0]["text"] == "Good"
    assert answer.response["error"]["code"] == "rate_limit_exceeded"


def test_an_error_from_the_engine_ends_the_stream() -> None:
    for error in ({"message": "out of memory", "code": 500}, "out of memory"):
        answer = an_answer()
        events = read(answer.begin() + answer.chunk({"error": error}))
        assert kinds(events) == ["created", "in_progress", "error", "failed"]
        assert answer.response["error"]["message"] == "out of memory"
    for reason in ("abort", "error"):
        events = streamed(an_answer(), a_chunk(reason, content="x"))
        assert kinds(events)[-2:] == ["error", "failed"]
        assert an_answer().whole(whole_chat(reason, content="x"))["status"] == "failed"
    assert an_answer().whole({"choices": []})["status"] == "failed"


def test_a_call_without_an_id_of_its_own_gets_one() -> None:
    same = {"id": "call_1", "function": {"name": "find", "arguments": "{}"}}
    answer = an_answer()
    output = answer.whole(whole_chat(tool_calls=[same, same, {**same, "id": None}]))["output"]
    assert [item["call_id"] for item in output] == ["call_1", "call_x_1", "call_x_2"]
    kept = answer.output_messages()[0]["tool_calls"]
    assert [call["id"] for call in kept] == ["call_1", "call_x_1", "call_x_2"]


def test_odd_pieces_of_an_answer_are_passed_over() -> None:
    answer = an_answer()
    odd: list[dict[str, Any]] = [
        {},
        {"choices": 5},
        {"choices": [5, {"index": 1, "delta": {"content": "second"}}]},
        {"choices": [{"index": 0, "delta": None}], "usage": 5},
        a_chunk(content=5, tool_calls=5),
        a_chunk(tool_calls=[5, {"function": 5}]),
    ]
    streamed(answer, *odd)
    assert len(answer.response["output"]) == 1


# -- the object ------------------------------------------------------------------------


def test_the_answer_echoes_what_was_asked() -> None:
    asked = {
        "instructions": "be kind",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_output_tokens": 9,
        "previous_response_id": "resp_w",
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low"},
        "truncation": "auto",
        "user": "u",
        "store": False,
        "top_logprobs": 2,
    }
    response = an_answer(**asked).whole(whole_chat(content="x"))
    expected = {**asked, "text": {"verbosity": "low", "format": {"type": "text"}}, "tools": TOOLS}
    assert {name: response[name] for name in expected} == expected
    assert response["created_at"] == 9
    Response.model_validate(response)


def test_nulls_are_echoed_as_openais_defaults() -> None:
    nulls = dict.fromkeys(("tools", "tool_choice", "metadata", "parallel_tool_calls", "text"))
    response = an_answer(**nulls, service_tier="auto").whole(whole_chat(content="x"))
    Response.model_validate(response)
    assert response["tools"] == []
    assert response["tool_choice"] == "auto"
    assert response["metadata"] == {}
    assert response["parallel_tool_calls"] is True
    assert response["service_tier"] == "default"


def an_entry(token: str) -> dict[str, Any]:
    entry = {"token": token, "logprob": -0.5, "bytes": None}
    return {**entry, "top_logprobs": [entry]}


def with_logprobs(chat: dict[str, Any], *tokens: str) -> dict[str, Any]:
    chat["choices"][0]["logprobs"] = {"content": [an_entry(token) for token in tokens]}
    return chat


SHOWN = {"include": ["message.output_text.logprobs"]}


def test_logprobs_are_shown_to_who_asked() -> None:
    answer = an_answer(**SHOWN)
    events = streamed(
        answer,
        with_logprobs(a_chunk(content="Good"), "Good"),
        with_logprobs(a_chunk(content="bye"), "bye"),
        with_logprobs(a_chunk("stop", content=""), "<end>"),
    )
    shown = [e["logprobs"][0]["token"] for e in events if "delta" in e]
    assert shown == ["Good", "bye"]
    part = answer.response["output"][0]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]] == ["Good", "bye"]
    assert part["logprobs"][0]["bytes"] == [71, 111, 111, 100]
    whole = with_logprobs(whole_chat(content="Goodbye"), "Good", "bye", "<end>")
    assert an_answer(**SHOWN).whole(whole)["output"] == answer.response["output"]


def test_logprobs_that_cannot_be_read_are_left_out() -> None:
    answer = an_answer(**SHOWN)
    odd = [5, {"token": 5}, {"token": "Good", "logprob": -1, "top_logprobs": [5]}]
    chunk = a_chunk(content="Good")
    chunk["choices"][0]["logprobs"] = {"content": odd}
    streamed(answer, chunk)
    shown = answer.response["output"][0]["content"][0]["logprobs"]
    assert [(entry["token"], entry["top_logprobs"]) for entry in shown] == [("Good", [])]


@pytest.mark.parametrize(
    ("tokens", "message", "shown"),
    [
        (["<t>", "hm", "</t>", "Hi", "!", ""], {"content": "Hi!", "reasoning": "hm"}, ["Hi", "!"]),
        (["Hi!", "<call>"], {"content": "Hi", "tool_calls": [{}]}, []),
        (["H", "i", "<call>"], {"content": "Hi", "tool_calls": [{}]}, ["H", "i"]),
        (["\ufffd", "\ufffd"], {"content": "é"}, ["\ufffd", "\ufffd"]),
        (["\ufffd", "\ufffd"], {"content": "é", "reasoning": "x"}, []),
    ],
)
def test_only_the_texts_own_tokens_are_shown(
    tokens: list[str], message: dict[str, Any], shown: list[str]
) -> None:
    output = an_answer(**SHOWN).whole(with_logprobs(whole_chat(**message), *tokens))["output"]
    text = next(item for item in output if item["type"] == "message")["content"][0]
    assert [entry["token"] for entry in text["logprobs"]] == shown


@pytest.mark.parametrize("reply", ["one two three", [{"name": "find", "arguments": '{"q": 1}'}]])
def test_nothing_that_we_asked_for_is_in_the_clients_bytes(reply: Any) -> None:
    asked = {"model": "base", "messages": [], "return_token_ids": True, "logprobs": True}
    engine = _Answer(FakeVLLM(reply=lambda model, messages: reply), asked, "r1")
    answer = an_answer()
    raw = answer.begin() + b"".join(map(answer.chunk, engine.chunks())) + answer.finish()
    whole = json.dumps(an_answer().whole(engine.whole()))
    for name in ("token_ids", '"logprob"', "system_fingerprint", '"base"'):
        assert name not in whole
        assert name.encode() not in raw
    assert kinds(read(raw))[-1] == "completed"


# -- any answer, cut anywhere ----------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["find", "mcp__read", "patch", "unknown"]),
        st.dictionaries(st.sampled_from(["input", "q"]), TEXT, max_size=2).map(json.dumps),
    ),
    max_size=3,
)
CUTS = st.lists(st.integers(0, 1000), max_size=5)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)] or [""]


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"reasoning": TEXT, "content": TEXT, "refusal": TEXT}),
    CALLS,
    CUTS,
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_a_stream_cut_anywhere_gives_the_whole_answer_and_goes_back_as_it_came(
    said: dict[str, str], calls: list[tuple[str, str]], places: list[int], end: str, at_once: bool
) -> None:
    in_order = [name for name in ("reasoning", "content", "refusal") if name in said]
    chunks = [a_chunk(**{name: piece}) for name in in_order for piece in cut(said[name], places)]
    begun = [a_chunk(tool_calls=[a_call(i, name=name)]) for i, (name, _) in enumerate(calls)]
    written = [
        [a_chunk(tool_calls=[a_call(i, piece)]) for piece in cut(arguments, places)]
        for i, (_, arguments) in enumerate(calls)
    ]
    if at_once:
        turns = zip_longest(*written)
        chunks += begun + [piece for turn in turns for piece in turn if piece is not None]
    else:
        for first, pieces in zip(begun, written, strict=True):
            chunks += [first, *pieces]
    answer = an_answer()
    events = streamed(answer, *chunks, a_chunk(end))
    message = {
        **said,
        "tool_calls": [
            {"id": f"call_{i}", "type": "function", "function": {"name": n, "arguments": a}}
            for i, (n, a) in enumerate(calls)
        ],
    }
    whole = an_answer()
    assert whole.whole(whole_chat(end, **message)) == answer.response == events[-1]["response"]
    assert whole.output_messages() == answer.output_messages()
    Response.model_validate(answer.response)
    # Fed back as input, the output is the message that was given out.
    back = input_messages({"input": answer.response["output"]})
    assert [readable(turn) for turn in back] == [readable(t) for t in answer.output_messages()]
    chat_body({**BODY, "input": [*answer.response["output"], {"role": "user", "content": "?"}]}, [])


def readable(turn: dict[str, Any]) -> dict[str, Any]:
    """A message with the text of custom tools for their JSON, which may be spelled otherwise."""
    calls = [
        {**call, "function": {**call["function"], "arguments": _spelled(call["function"])}}
        for call in turn.get("tool_calls", [])
    ]
    return {**turn, "tool_calls": calls}


def _spelled(function: dict[str, Any]) -> Any:
    arguments = function["arguments"]
    if function["name"] != "patch":
        return arguments
    return json.loads(arguments).get("input", arguments)


# -- openai-python itself --------------------------------------------------------------


async def accumulated(raw: bytes, **asked: Any) -> tuple[list[Any], Any]:
    """What `client.responses.stream` makes of these bytes."""

    async def reply(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=raw)

    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(reply))
    async with openai.AsyncOpenAI(api_key="k", http_client=transport, max_retries=0) as client:
        async with client.responses.stream(model="policy", input="hi", **asked) as stream:
            events = [event async for event in stream]
            if not raw.count(b"event: response.completed"):
                return events, None
            return events, await stream.get_final_response()


def test_openais_own_accumulator_reads_the_stream() -> None:
    answer = an_answer()
    raw = answer.begin()
    for chunk in (
        a_chunk(reasoning="hm"),
        a_chunk(content="Look"),
        a_chunk(content="ing"),
        a_chunk(tool_calls=[a_call(0, '{"q"', name="find"), a_call(1, "{", name="find")]),
        a_chunk(tool_calls=[a_call(1, "}"), a_call(0, ":1}")]),
        a_chunk("tool_calls"),
        {"choices": [], "usage": USAGE},
    ):
        raw += answer.chunk(chunk)
    raw += answer.finish()
    events, final = asyncio.run(accumulated(raw))
    snapshots = [event.snapshot for event in events if hasattr(event, "snapshot")]
    assert snapshots == ["Look", "Looking", '{"q"', "{", "{}", '{"q":1}']
    assert final.output_text == "Looking"
    assert [item.type for item in final.output][2:] == ["function_call", "function_call"]
    assert final.output[2].arguments == '{"q":1}'
    assert final.usage.total_tokens == 10


def test_openais_own_accumulator_sees_that_a_stream_broke() -> None:
    answer = an_answer()
    raw = answer.begin() + answer.chunk(a_chunk(content="Good")) + answer.broken("gone", "it broke")
    events, final = asyncio.run(accumulated(raw))
    assert final is None
    assert [event.type for event in events][-2:] == ["error", "response.failed"]
    assert events[-1].response.error.message == "it broke"
