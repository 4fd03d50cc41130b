"""Responses bodies: what every client sends becomes the chat an engine of ours is asked."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.responses import (
    ResponsesAnswer,
    chat_body,
    check_responses,
    input_items,
    input_messages,
    left_out,
    parse_responses,
    recorded_body,
    referenced_responses,
    with_references,
)
from gateway.errors import ApiError

CASES = Path(__file__).parent.parent / "cases" / "responses"
PATHS = sorted(CASES.glob("*.json"))


def asked(**body: Any) -> dict[str, Any]:
    """The chat body of a valid body."""
    return chat_body(parse_responses(orjson.dumps({"model": "policy", **body})), [])


def refusal(**body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asked(**{"input": "hi", **body})
    assert caught.value.status == 400
    assert caught.value.headers["x-should-retry"] == "false"
    return caught.value


def a_call(call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_body_of_a_real_client_becomes_this_chat(path: Path) -> None:
    case = json.loads(path.read_text())
    body = parse_responses(orjson.dumps(case["body"]))
    assert chat_body(body, []) == case["chat"]
    assert body == case["body"]


def test_a_string_is_a_user_message_and_instructions_are_the_system() -> None:
    assert asked(input="hi", instructions="be kind")["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]


def test_instructions_hold_for_one_call_and_stand_before_the_history() -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    body = {"model": "policy", "input": "c", "instructions": "new"}
    messages = chat_body(body, history)["messages"]
    assert [message["content"] for message in messages] == ["new", "a", "b", "c"]
    assert input_messages(body) == [{"role": "user", "content": "c"}]
    assert len(history) == 2


def test_system_messages_at_the_beginning_are_one_and_later_ones_stay() -> None:
    messages = asked(
        instructions="one",
        input=[
            {"role": "developer", "content": "two"},
            {"role": "user", "content": "hi"},
            {"role": "developer", "content": "three"},
        ],
    )["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "one\n\ntwo"),
        ("user", "hi"),
        ("system", "three"),
    ]


def test_items_of_one_turn_are_one_message() -> None:
    assert input_messages(
        {
            "input": [
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"role": "assistant", "content": "let me see"},
                a_call("c1"),
                {"type": "message", "role": "assistant", "content": " ..."},
                a_call("c2"),
            ]
        }
    ) == [
        {
            "role": "assistant",
            "content": "let me see ...",
            "tool_calls": [
                {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                for name in ("c1", "c2")
            ],
        }
    ]


def test_two_texts_of_an_assistant_stay_two_messages() -> None:
    said = [{"role": "assistant", "content": text} for text in ("a", "b")]
    assert input_messages({"input": said}) == said


def test_a_refusal_of_an_assistant_is_what_it_said() -> None:
    parts = [{"type": "refusal", "refusal": "no"}]
    item = {"type": "message", "role": "assistant", "content": parts}
    assert input_messages({"input": [item]}) == [{"role": "assistant", "content": "no"}]


def test_a_tool_may_answer_with_parts_or_with_nothing() -> None:
    image = {"type": "input_image", "image_url": "http://x/y.png", "detail": "auto"}
    outputs: list[Any] = [None, [], [{"type": "input_text", "text": "t"}, image]]
    items = [
        {"type": "function_call_output", "call_id": "c1", "output": output} for output in outputs
    ]
    assert [message["content"] for message in input_messages({"input": items})] == [
        "",
        "",
        [
            {"type": "text", "text": "t"},
            {"type": "image_url", "image_url": {"url": image["image_url"]}},
        ],
    ]


def test_audio_passes() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    assert asked(input=[{"role": "user", "content": [audio]}])["messages"][0]["content"] == [audio]


def test_what_the_engine_does_not_see_is_named() -> None:
    body = {
        "input": [{"type": "web_search_call", "id": "w"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}, {"type": "mcp"}],
    }
    assert left_out(body) == ["web_search", "mcp", "web_search_call"]
    assert left_out({"input": "hi", "tools": None}) == []


@pytest.mark.parametrize(
    ("wanted", "chat"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {}, "strict": None},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        ),
    ],
)
def test_a_text_format_is_a_response_format(wanted: dict[str, Any], chat: Any) -> None:
    body = asked(input="hi", text={"format": wanted, "verbosity": "low"})
    assert body.get("response_format") == chat
    assert "text" not in body


def test_a_choice_of_a_hosted_tool_is_left_to_the_model() -> None:
    tools = [{"type": "function", "name": "f"}, {"type": "file_search"}]
    assert (
        asked(input="hi", tools=tools, tool_choice={"type": "file_search"})["tool_choice"] == "auto"
    )
    assert asked(input="hi", tools=tools, tool_choice="none")["tool_choice"] == "none"


def test_a_namespace_may_hold_custom_tools_and_be_chosen_from() -> None:
    inner = {"type": "custom", "name": "write"}
    tools = [{"type": "namespace", "name": "files", "description": "", "tools": [inner]}]
    choice = {"type": "custom", "name": "write", "namespace": "files"}
    body = asked(input="hi", tools=tools, tool_choice=choice)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "files__write"}}
    function = body["tools"][0]["function"]
    assert function["name"] == "files__write"
    assert function["parameters"]["required"] == ["input"]


def test_logprobs_are_asked_only_for_a_client_that_shows_them() -> None:
    include = ["message.output_text.logprobs"]
    assert "logprobs" not in asked(input="hi", top_logprobs=5)
    assert asked(input="hi", include=include)["logprobs"] is True
    assert "top_logprobs" not in asked(input="hi", include=include, top_logprobs=0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["x"]}, "input"),
        ({"input": []}, "input"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": 5}]}, "input[0]"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]},
         "input[0].content"),
        ({"input": [a_call(arguments={})]}, "input[0].arguments"),
        ({"input": [a_call(call_id=None)]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]},
         "input[0].output"),
        ({"input": [{"type": "item_reference", "id": "msg_1_0"}]}, "input[0]"),
        ({"instructions": ["x"]}, "instructions"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, "tools[0].parameters"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [
            {"type": "namespace", "name": "m"}]}]}, "tools[0].tools[0]"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "absent"}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        ({"text": []}, "text"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"reasoning": "high"}, "reasoning"),
    ],
)  # fmt: skip
def test_a_bad_body_is_refused_and_says_where(body: dict[str, Any], param: str) -> None:
    assert refusal(**body).param == param


def test_input_that_nobody_checked_is_refused_too() -> None:
    with pytest.raises(ApiError, match="input"):
        input_messages({"input": 5})


def test_a_body_that_is_no_object_is_refused() -> None:
    for raw in (b"", b"[]", b"{", b'{"model": NaN}'):
        with pytest.raises(ApiError, match="body"):
            parse_responses(raw)


NAMES = """type role content text name arguments call_id output tools mode format schema id
input refusal image_url namespace parameters effort function"""
WORDS = """message user assistant function custom namespace function_call input_text refusal
function_call_output custom_tool_call allowed_tools json_schema additional_tools input_image
item_reference auto"""
FIELDS = """input instructions tools tool_choice text include reasoning top_logprobs metadata
previous_response_id prompt service_tier max_output_tokens"""
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(WORDS.split())
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS.split()), JSON, max_size=5), JSON)
def test_any_json_is_asked_or_refused_and_always_recorded(
    fields: dict[str, Any], given_input: Any
) -> None:
    body = {"model": "policy", "input": given_input, **fields}
    try:
        check_responses(body)
    except ApiError:
        return
    left_out(body)
    assert isinstance(recorded_body(body, [])["messages"], list)
    try:
        chat = chat_body(body, [])
    except ApiError:
        return
    assert all(
        message["role"] in ("system", "user", "assistant", "tool") for message in chat["messages"]
    )
    answer = ResponsesAnswer(body, response_id="resp_1", model="policy", created_at=1.0)
    assert answer.whole({})["status"] == "failed"


def test_a_call_that_another_engine_answers_is_recorded_with_what_ours_could_not_read() -> None:
    document = {"type": "input_file", "file_id": "file-1"}
    body = {
        "model": "gpt",
        "instructions": "read",
        "temperature": 0.5,
        "input": [
            {"role": "user", "content": [document, {"type": "input_text", "text": "sum up"}]},
            {"type": "item_reference", "id": "msg_1"},
        ],
        "prompt": None,
    }
    assert recorded_body(body, []) == {
        "model": "gpt",
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "read"},
            {"role": "user", "content": [document, {"type": "text", "text": "sum up"}]},
        ],
    }


def test_an_item_that_is_kept_can_be_referred_to() -> None:
    said = {"id": "msg_a_b_0", "type": "message", "role": "assistant", "content": "hello"}
    kept = {"id": "resp_a_b", "output": [said]}
    references = [{"id": "msg_a_b_0"}, {"type": "item_reference", "id": "odd"}]
    body = {"model": "policy", "input": [{"role": "user", "content": "hi"}, *references]}
    assert referenced_responses(body) == ["resp_a_b"]
    assert with_references(body, [kept])["input"] == [body["input"][0], said, references[1]]
    assert with_references({"input": "hi"}, [kept]) == {"input": "hi"}
    assert referenced_responses({"input": "hi"}) == []


def test_input_is_kept_as_items_with_ids() -> None:
    given_input = [{"role": "assistant", "content": "a"}, a_call(id="fc_1"), a_call()]
    items = input_items({"input": given_input}, "resp_x")
    assert [item["id"] for item in items] == ["msg_x_in0", "fc_1", "msg_x_in2"]
    assert items[0]["content"] == [{"type": "output_text", "text": "a"}]
    text = input_items({"input": "hi"}, "resp_x")
    assert text[0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert text[0]["role"] == "user"
    assert input_items({}, "resp_x") == []
