"""Responses of engines that speak the dialect themselves: a chat answer for the record."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.fold import Folded
from gateway.dialects.responses import ResponsesAnswer, fold_response, fold_stream

TEXT = {"type": "output_text", "annotations": [], "text": "Looking."}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "output": [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [TEXT]},
        CALL,
    ],
    "usage": {
        "input_tokens": 4,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 6,
    },
}
MESSAGE = {
    "role": "assistant",
    "content": "Looking.",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ],
    "reasoning": "hm",
}


def stream_of(*events: dict[str, Any]) -> bytes:
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
    return "".join(lines).encode()


def item_event(kind: str, index: int, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": index, **more}


def test_a_whole_response_is_one_assistant_message() -> None:
    folded = fold_response(RESPONSE)
    assert folded.response_id == "resp_1"
    assert folded.is_complete
    assert folded.choices[0].message == MESSAGE
    assert folded.choices[0].finish_reason == "tool_calls"
    assert not folded.choices[0].token_ids
    assert folded.usage == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


@pytest.mark.parametrize(
    ("more", "finish_reason", "is_complete"),
    [
        ({"output": RESPONSE["output"][:3]}, "stop", True),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
            True,
        ),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
            True,
        ),
        ({"status": "in_progress"}, None, False),
        ({"status": "failed", "error": {"code": "server_error", "message": "x"}}, None, False),
    ],
)
def test_a_status_is_a_finish_reason(
    more: dict[str, Any], finish_reason: str | None, is_complete: bool
) -> None:
    folded = fold_response({**RESPONSE, **more})
    assert folded.choices[0].finish_reason == finish_reason
    assert folded.is_complete is is_complete


def test_a_failure_keeps_its_reason() -> None:
    assert fold_response({"status": "failed", "error": {"message": "too much"}}).error == "too much"
    assert fold_response({"status": "failed"}).error == "failed"
    assert fold_response({"error": {"message": "bad key"}}).error == "bad key"


def test_two_messages_of_one_response_are_one() -> None:
    said = RESPONSE["output"][2]
    folded = fold_response({**RESPONSE, "output": [said, said]})
    assert folded.choices[0].message["content"] == "Looking.\nLooking."


def test_a_stream_folds_to_its_last_response() -> None:
    folded = fold_stream(
        stream_of(
            {"type": "response.created", "response": {"id": "resp_1", "output": []}},
            item_event("output_text.delta", 2, delta="Look"),
            {"type": "response.completed", "response": RESPONSE},
        )
    )
    assert folded == fold_response(RESPONSE)


def test_a_last_response_without_output_is_filled_from_the_items() -> None:
    events = [
        item_event("output_item.done", index, item=item)
        for index, item in enumerate(RESPONSE["output"])
    ]
    last = {"type": "response.completed", "response": {**RESPONSE, "output": None}}
    assert fold_stream(stream_of(*events[::-1], last)) == fold_response(RESPONSE)


def test_a_stream_that_was_cut_keeps_what_was_said() -> None:
    message = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    folded = fold_stream(
        stream_of(
            {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
            item_event("output_item.added", 0, item=message),
            item_event("output_text.delta", 0, delta="Look"),
            item_event("output_text.delta", 0, delta="ing."),
            item_event("output_item.added", 1, item={**CALL, "arguments": ""}),
            item_event("function_call_arguments.delta", 1, delta='{"q'),
        )
        + b'event: response.output_text.delta\ndata: {"type": "respo'
    )
    assert folded.response_id == "resp_1"
    assert folded.garbage == 1
    assert not folded.is_complete
    message = folded.choices[0].message
    assert message["content"] == "Looking."
    assert message["tool_calls"][0]["function"]["arguments"] == '{"q'
    assert folded.choices[0].finish_reason is None


def test_a_custom_call_that_was_cut_keeps_its_text() -> None:
    item = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": ""}
    folded = fold_stream(
        stream_of(
            item_event("output_item.added", 0, item=item),
            item_event("custom_tool_call_input.delta", 0, delta="*** Begin"),
        )
    )
    function = folded.choices[0].message["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"input": "*** Begin"}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "x", "message": "too long", "param": None},
        {"type": "error", "error": {"code": "x", "message": "too long"}},
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"message": "too long"}},
        },
    ],
)
def test_an_error_in_a_stream_is_kept(event: dict[str, Any]) -> None:
    folded = fold_stream(stream_of(event))
    assert folded.error == "too long"
    assert not folded.is_complete


def test_what_we_write_ourselves_folds_to_the_message_it_came_from() -> None:
    answer = ResponsesAnswer({"model": "p"}, response_id="resp_x", model="p", created_at=1)
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "tool_calls": [call], "reasoning": "hm"}
    delta = {**message, "tool_calls": [{"index": 0, **call}]}
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}
    folded = fold_stream(answer.begin() + answer.chunk(chunk) + answer.finish())
    assert folded.is_complete
    assert folded.choices[0].message == message
    assert folded.choices[0].finish_reason == "tool_calls"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "item", "error", "output", "id"]),
            inner | st.sampled_from(["message", "assistant", "reasoning", "output_text"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["error", "response.completed", "response.output_text.delta", "x"])},
    optional={
        "response": JSON,
        "item": JSON,
        "output_index": st.integers(0, 1) | JSON,
        "delta": JSON,
        "error": JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=5), st.binary(max_size=20))
def test_any_stream_folds(events: list[dict[str, Any]], rest: bytes) -> None:
    assert isinstance(fold_stream(stream_of(*events) + rest), Folded)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(RESPONSE)), JSON))
def test_any_response_folds(answer: dict[str, Any]) -> None:
    assert isinstance(fold_response(answer), Folded)
