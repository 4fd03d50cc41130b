"""Answers in the Messages dialect: the events, and that whole and streamed say the same."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.messages import MessagesAnswer
from tests.fakes.vllm import FakeVLLM, _Answer

ASKED = {
    "model": "base",
    "messages": [{"role": "user", "content": "hi"}],
    "return_token_ids": True,
    "logprobs": True,
    "stream_options": {"include_usage": True},
}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
CALLS = [
    {"name": "find", "arguments": '{"q": "a b c d e f g"}'},
    {"name": "look", "arguments": '{"deep": {"x": [1, 2]}}'},
]


def answer(**body: Any) -> MessagesAnswer:
    return MessagesAnswer(body, message_id="msg_1", model="policy")


def engine(reply: Any) -> _Answer:
    return _Answer(FakeVLLM(reply=lambda model, messages: reply), ASKED, "r1")


def piece(finish: str | None = None, stop: Any = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}
    return {"id": "c", "choices": [choice]}


def call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    found: dict[str, Any] = {"index": index, "function": function}
    return found if name is None else {"id": f"call_{index}", "type": "function", **found}


def events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream; their names must be those in the bodies."""
    found = []
    for event in stream.decode().split("\n\n")[:-1]:
        name, body = event.split("\n")
        found.append(json.loads(body.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def stream(chunks: list[dict[str, Any]], **body: Any) -> list[dict[str, Any]]:
    one = answer(**body)
    return events(b"".join([*map(one.chunk, chunks), one.finish()]))


def accumulated(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client puts together, and that it may: one block open, no gap in the index."""
    message: dict[str, Any] = dict(found[0]["message"])
    assert [event["type"] for event in found[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    blocks: list[dict[str, Any]] = []
    is_open = False
    given = ""
    for event in found[2:-2]:
        assert event["index"] == len(blocks) - is_open
        assert (event["type"] == "content_block_start") != is_open
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
            is_open, given = True, ""
        elif event["type"] == "content_block_stop":
            is_open = False
        else:
            for name, said in event["delta"].items():
                if name == "partial_json":
                    given += said
                    blocks[-1]["input"] = json.loads(given) if is_json(given) else {}
                elif name != "type":
                    blocks[-1][name] += said
    assert not is_open
    return {**message, **found[-2]["delta"], "content": blocks, "usage": found[-2]["usage"]}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


REPLIES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=3),
)


@settings(max_examples=80, deadline=None)
@given(REPLIES)
def test_a_stream_adds_up_to_the_whole_answer_of_the_engine(reply: Any) -> None:
    whole = answer().whole(engine(reply).whole())
    found = stream(list(engine(reply).chunks()))
    assert accumulated(found) == whole
    assert found[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"] > 0
    assert "token_ids" not in json.dumps([found, whole])
    assert '"logprobs": ' not in json.dumps([found, whole])  # as a key: a reply may say so


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=12),
    st.text(max_size=12),
    st.lists(st.sampled_from(CALLS), max_size=3),
    st.lists(st.integers(0, 60), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_any_cut_of_an_answer_gives_the_same_message(
    thought: str,
    text: str,
    calls: list[dict[str, str]],
    places: list[int],
    is_interleaved: bool,
    has_thoughts: bool,
) -> None:
    body = THINKING if has_thoughts else {}

    def cut(said: str) -> list[str]:
        edges = sorted({0, len(said), *(place % (len(said) + 1) for place in places)})
        return [said[start:end] for start, end in pairwise(edges)]

    named = [call(n, "", c["name"]) for n, c in enumerate(calls)]
    filled = [[call(n, bit) for bit in cut(c["arguments"])] for n, c in enumerate(calls)]
    if is_interleaved:
        rounds = [[one] for one in named]
        rounds += [[bits[i]] for i in range(70) for bits in filled if i < len(bits)]
    else:
        rounds = [[one] for n, first in enumerate(named) for one in [first, *filled[n]]]
    chunks = [
        piece(role="assistant", content=""),
        *(piece(reasoning=bit) for bit in cut(thought)),
        *(piece(content=bit) for bit in cut(text)),
        *(piece(tool_calls=some) for some in rounds),
        piece("tool_calls" if calls else "stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}},
    ]
    message = {
        "role": "assistant",
        "content": text or None,
        "reasoning": thought or None,
        "tool_calls": [
            {"id": f"call_{n}", "type": "function", "function": c} for n, c in enumerate(calls)
        ],
    }
    whole = answer(**body).whole(
        {
            "choices": [{"message": message, "finish_reason": "tool_calls" if calls else "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        }
    )
    assert accumulated(stream(chunks, **body)) == whole
    kinds = [block["type"] for block in whole["content"]]
    said = ["thinking"] * bool(thought and has_thoughts) + ["text"] * bool(text)
    assert kinds == ([*said, *["tool_use"] * len(calls)] or ["text"])


def test_each_piece_of_text_leaves_at_once() -> None:
    one = answer()
    begun = events(one.begin())
    assert begun[0]["message"] == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "policy",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    assert begun[1] == {"type": "ping"}
    assert one.chunk(piece(role="assistant", content="")) == b""
    assert [e["type"] for e in events(one.chunk(piece(content="a")))] == [
        "content_block_start",
        "content_block_delta",
    ]
    said = events(one.chunk(piece(content="b")))
    assert said == [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "b"},
        }
    ]
    assert one.chunk(piece()) == b""  # token ids only
    assert one.usage is None
    assert one.chunk({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}) == b""
    assert one.usage == {"prompt_tokens": 4, "completion_tokens": 2}
    assert events(one.finish()) == [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"input_tokens": 4, "output_tokens": 2},
        },
        {"type": "message_stop"},
    ]


def test_arguments_leave_as_they_come() -> None:
    one = answer()
    one.begin()
    one.chunk(piece(tool_calls=[call(0, "", "find")]))
    assert events(one.chunk(piece(tool_calls=[call(0, '{"q":')])))[0]["delta"] == {
        "type": "input_json_delta",
        "partial_json": '{"q":',
    }


@pytest.mark.parametrize(
    ("finish", "stop", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", 151645, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_why_an_answer_ended_is_translated(finish: str, stop: Any, expected: Any) -> None:
    ended = stream([piece(content="a"), piece(finish, stop)])[-2]["delta"]
    choice = {"message": {"content": "a"}, "finish_reason": finish, "stop_reason": stop}
    whole = answer().whole({"choices": [choice]})
    assert (ended["stop_reason"], ended["stop_sequence"]) == expected
    assert (whole["stop_reason"], whole["stop_sequence"]) == expected


def test_a_forced_call_is_a_call_although_the_engine_says_stop() -> None:
    called = piece("stop", tool_calls=[call(0, "{}", "find")])
    assert stream([called])[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_call_that_a_stop_sequence_cut_short_is_not_to_be_run() -> None:
    cut = piece("stop", "END", tool_calls=[call(0, '{"q": "a', "find")])
    assert stream([cut])[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    whole = piece("stop", "END", tool_calls=[call(0, '{"q": "a"}', "find")])
    assert stream([whole])[-2]["delta"]["stop_reason"] == "tool_use"


def test_space_after_a_call_is_no_block_but_text_is() -> None:
    called = piece(tool_calls=[call(0, "{}", "find")])
    blank = accumulated(stream([called, piece(content="\n"), piece("tool_calls")]))
    assert [block["type"] for block in blank["content"]] == ["tool_use"]
    said = accumulated(stream([called, piece(content="\n"), piece("stop", content="so")]))
    assert said["content"][1] == {"type": "text", "text": "\nso"}


def test_an_empty_answer_still_has_a_block() -> None:
    assert accumulated(stream([piece("stop")]))["content"] == [{"type": "text", "text": ""}]
    assert answer().whole({})["content"] == [{"type": "text", "text": ""}]


def test_thoughts_are_for_those_who_ask() -> None:
    chunks = [piece(reasoning="hm"), piece("stop", content="yes")]
    assert accumulated(stream(chunks))["content"] == [{"type": "text", "text": "yes"}]
    assert accumulated(stream(chunks, **THINKING))["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "msg_1"},
        {"type": "text", "text": "yes"},
    ]


def test_what_came_from_the_cache_is_counted_apart() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    assert answer().whole({"usage": usage})["usage"] == {
        "input_tokens": 2,
        "cache_read_input_tokens": 8,
        "output_tokens": 2,
    }


def test_a_broken_stream_ends_with_an_error_event_and_nothing_after() -> None:
    one = answer()
    one.chunk(piece(content="a"))
    assert events(one.broken("upstream_cut", "it broke")) == [
        {
            "type": "error",
            "error": {"type": "api_error", "message": "it broke", "code": "upstream_cut"},
        }
    ]
    assert one.finish() == b""
    assert one.chunk(piece(content="b")) == b""
    said = events(answer().chunk({"error": {"message": "engine died"}}))
    assert said[0]["error"]["message"] == "engine died"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "reasoning",
                    "tool_calls",
                    "index",
                    "function",
                    "name",
                    "arguments",
                    "usage",
                    "prompt_tokens",
                    "finish_reason",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
CHUNKS = st.dictionaries(st.sampled_from(["choices", "usage", "error", "x"]), JSON, max_size=3)
DELTAS = st.fixed_dictionaries({"content": JSON, "reasoning": JSON, "tool_calls": JSON})
CHOICES = st.fixed_dictionaries({"delta": DELTAS | JSON, "message": DELTAS, "finish_reason": JSON})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(CHUNKS | st.fixed_dictionaries({"choices": st.lists(CHOICES, max_size=2)}), max_size=4)
)
def test_an_odd_engine_raises_nothing(chunks: list[dict[str, Any]]) -> None:
    for event in stream(chunks, **THINKING):
        assert event["type"]
    for chunk in chunks:
        assert answer().whole(chunk)["content"]
