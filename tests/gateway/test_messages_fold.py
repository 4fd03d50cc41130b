"""What a native upstream answered in Messages, recorded as a chat message."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.fold import Folded
from gateway.dialects.messages import MessagesAnswer, fold_message, fold_stream

MESSAGE = {
    "id": "msg_9",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "I look.", "signature": "s"},
        {"type": "text", "text": "Let me "},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"q": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
        {"type": "text", "text": "see."},
        {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": "é"}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 3,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 1,
        "output_tokens": 7,
    },
}
CHAT = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning": "I look.",
    "tool_calls": [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "find", "arguments": '{"q":"é"}'},
        },
        {"id": "toolu_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ],
}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 7,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def native_events() -> list[dict[str, Any]]:
    """MESSAGE as Anthropic streams it."""
    begun = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 1}
    head = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**begun, "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": head}, {"type": "ping"}]
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
    content: Any = MESSAGE["content"]
    for index, block in enumerate(content):
        kind = block["type"]
        names = {"text": "text", "thinking": "thinking", "tool_use": "input"}
        name = names.get(kind)
        start = block if name is None else {**block, name: {} if kind == "tool_use" else ""}
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        if name is not None and block[name]:
            said = block[name]
            if kind == "tool_use":
                said = json.dumps(said, separators=(",", ":"), ensure_ascii=False)
                name = "partial_json"
            for bit in (said[:3], said[3:]):
                delta = {"type": kinds[kind], name: bit}
                found.append({"type": "content_block_delta", "index": index, "delta": delta})
        found.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": "tool_use", "stop_sequence": None}
    found.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 7}})
    return [*found, {"type": "message_stop"}]


def encoded(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def test_a_whole_message_is_recorded_as_chat() -> None:
    folded = fold_message(MESSAGE)
    assert folded.is_complete
    assert (folded.response_id, folded.usage) == ("msg_9", USAGE)
    [choice] = folded.choices
    assert choice.message == CHAT
    assert choice.finish_reason == "tool_calls"
    assert (choice.token_ids, choice.logprobs) == ((), ())


def test_its_stream_is_recorded_alike() -> None:
    assert fold_stream(encoded(native_events())) == fold_message(MESSAGE)


def test_a_stream_that_was_cut_is_not_complete() -> None:
    raw = encoded(native_events())
    for end in range(0, len(raw) - 3, 7):
        assert not fold_stream(raw[:end]).is_complete
    # Only the blank line is missing.
    assert fold_stream(raw.rstrip(b"\n")).is_complete


def test_a_call_that_was_cut_keeps_what_came_of_it() -> None:
    events = [e for e in native_events() if e.get("index") in (None, 5)][:4]
    [choice] = fold_stream(encoded(events)).choices
    assert choice.message["tool_calls"][0]["function"]["arguments"] == '{"q'
    assert choice.finish_reason is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("one_of_tomorrow", "one_of_tomorrow"),
    ],
)
def test_why_it_ended_is_said_in_the_words_of_chat(reason: str, expected: str) -> None:
    folded = fold_message({**MESSAGE, "stop_reason": reason})
    assert folded.choices[0].finish_reason == expected


def test_errors_are_recorded_as_errors() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}
    assert fold_message(error) == Folded(error="later", is_done=True)
    folded = fold_stream(encoded([*native_events()[:5], error]))
    assert (folded.error, folded.is_done, folded.is_complete) == ("later", False, False)


def test_our_own_answers_fold_back_to_what_the_engine_said() -> None:
    function = {"name": "find", "arguments": '{"q":1}'}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    said = {"role": "assistant", "content": "so", "reasoning": "hm", "tool_calls": calls}
    answer = {
        "choices": [{"message": said, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    }
    body = {"thinking": {"type": "adaptive"}}
    whole = MessagesAnswer(body, message_id="msg_1", model="m").whole(answer)
    assert fold_message(whole).choices[0].message == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "thinking"]) | JSON},
    optional={"text": JSON, "input": JSON, "thinking": JSON},
)
EVENT = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["message_start", "content_block_start", "content_block_delta", "message_delta"]
        )
    },
    optional={
        "index": st.integers(0, 2) | JSON,
        "message": st.fixed_dictionaries({"content": JSON, "usage": JSON, "id": JSON}) | JSON,
        "content_block": BLOCK | JSON,
        "delta": st.fixed_dictionaries({}, optional={"text": JSON, "partial_json": JSON}) | JSON,
        "usage": JSON,
        "error": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENT, max_size=6), st.binary(max_size=20), JSON)
def test_odd_streams_and_messages_raise_nothing(
    events: list[dict[str, Any]], tail: bytes, content: Any
) -> None:
    assert isinstance(fold_stream(encoded(events) + tail), Folded)
    assert isinstance(fold_message({**MESSAGE, "content": content}), Folded)
