"""Messages bodies: what a chat engine is asked, and what is refused."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.messages import chat_body, count_tokens_body, error_body, parse_messages
from gateway.errors import ApiError, bad_request

CASES = Path(__file__).parents[1] / "cases" / "messages"


def asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The chat body of a conversation."""
    body = {"model": "policy", "max_tokens": 9, "messages": list(messages), **more}
    return chat_body(parse_messages(orjson.dumps(body)))


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


HI = {"role": "user", "content": "hi"}
FIND = {"name": "find", "input_schema": {"properties": {"q": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def test_a_request_of_claude_code_becomes_a_chat_request() -> None:
    body = parse_messages((CASES / "claude_code.json").read_bytes())
    assert chat_body(body) == json.loads((CASES / "claude_code.chat.json").read_bytes())


def test_two_requests_that_differ_in_the_billing_line_are_one_prompt() -> None:
    def system(line: str) -> Any:
        return asked(HI, system=f"x-anthropic-billing-header: {line}\nBe kind.")["messages"][0]

    assert system("cch=1;") == system("cch=2;") == {"role": "system", "content": "Be kind."}
    only = [{"type": "text", "text": "x-anthropic-billing-header: cch=3;"}]
    assert asked(HI, system=only)["messages"] == [HI]
    quoted = "The line x-anthropic-billing-header: is dropped."
    assert asked(HI, system=quoted)["messages"][0]["content"] == quoted


def test_results_of_tools_stand_directly_behind_the_call() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "é"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}
    chat = asked(
        HI,
        {"role": "assistant", "content": [call]},
        user({"type": "text", "text": "before"}, result, {"type": "text", "text": "after"}),
        tools=[FIND],
    )
    function = {"name": "find", "arguments": '{"q":"é"}'}
    assert chat["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        user({"type": "text", "text": "before"}, {"type": "text", "text": "after"}),
    ]


def test_pictures_become_urls_also_those_a_tool_returned() -> None:
    inline = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA=="},
    }
    linked = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
    returned = {"type": "tool_result", "tool_use_id": "t1", "content": [inline]}
    chat = asked(user({"type": "text", "text": "look"}, linked), user(returned))
    assert chat["messages"] == [
        user(
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        ),
        {"role": "tool", "tool_call_id": "t1", "content": ""},
        user({"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AA=="}}),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "find", "disable_parallel_tool_use": True},
            {
                "tool_choice": {"type": "function", "function": {"name": "find"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"type": "tool", "name": "web_search"}, {}),  # nobody here can run it
        (None, {}),
    ],
)
def test_the_choice_of_a_tool_is_translated(choice: Any, expected: dict[str, Any]) -> None:
    chat = asked(HI, tools=[FIND, SEARCH], tool_choice=choice)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["find"]
    assert {k: chat[k] for k in ("tool_choice", "parallel_tool_calls") if k in chat} == expected


def test_without_a_tool_that_can_be_called_none_is_asked_for() -> None:
    chat = asked(HI, tools=[SEARCH], tool_choice={"type": "tool", "name": "web_search"})
    assert chat == {"model": "policy", "max_tokens": 9, "messages": [HI]}


def test_sampling_and_fields_of_the_engine_pass_and_the_rest_stays_here() -> None:
    chat = asked(
        HI,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["END"],
        min_p=0.1,
        chat_template_kwargs={"enable_thinking": False},
        metadata={"user_id": "u"},
        mcp_servers=[],
        betas=["x"],
        service_tier="auto",
        n=3,
        stream_options={"include_usage": False},
        system=None,
    )
    assert chat == {
        "model": "policy",
        "messages": [HI],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "stop": ["END"],
        "min_p": 0.1,
        "chat_template_kwargs": {"enable_thinking": False},
    }


@pytest.mark.parametrize("place", ["output_format", "output_config"])
def test_structured_output_is_asked_for(place: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wished: dict[str, Any] = {"type": "json_schema", "schema": schema}
    chat = asked(HI, **{place: {"format": wished} if place == "output_config" else wished})
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema},
    }


def test_thinking_is_turned_off_where_the_client_says_so() -> None:
    off = asked(HI, thinking={"type": "disabled"}, output_config={"effort": "high"})
    assert off["reasoning_effort"] == "none"
    on = asked(HI, thinking={"type": "enabled", "budget_tokens": 2048})
    assert on == {"model": "policy", "messages": [HI], "max_tokens": 9}


def test_an_answer_the_client_began_is_gone_on_with() -> None:
    chat = asked(HI, {"role": "assistant", "content": "The answer is ("})
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)
    call = {"type": "tool_use", "id": "t1", "name": "find", "input": {}}
    assert "continue_final_message" not in asked(HI, {"role": "assistant", "content": [call]})


def test_what_servers_of_others_did_is_left_out_of_earlier_turns() -> None:
    turn = {
        "role": "assistant",
        "content": [
            {"type": "redacted_thinking", "data": "x"},
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
            {"type": "text", "text": "It is ", "citations": []},
            {"type": "text", "text": "42."},
        ],
    }
    assert asked(HI, turn, HI)["messages"][1] == {"role": "assistant", "content": "It is 42."}


def test_text_documents_are_read_and_others_refused_by_name() -> None:
    text = {"type": "text", "media_type": "text/plain", "data": "body"}
    chat = asked(user({"type": "document", "title": "A", "source": text}))
    assert chat["messages"][0]["content"] == "A\nbody"
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}
    with pytest.raises(ApiError, match="no documents of other kinds") as caught:
        asked(HI, user(pdf))
    assert (caught.value.status, caught.value.param) == (400, "messages.1.content")


def test_for_a_record_what_has_no_chat_form_stays_as_it_is() -> None:
    pdf = {"type": "document", "source": {"type": "file", "file_id": "f"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [pdf]}
    odd = {"type": "text", "text": None}
    body = {"model": "m", "messages": [user(pdf), user(result), user(odd)]}
    assert chat_body(body, is_strict=False)["messages"] == [
        user(pdf),
        {"role": "tool", "tool_call_id": "t1", "content": ""},
        user(pdf),
        user(odd),
    ]


def test_counting_asks_for_the_prompt_that_would_be_sent() -> None:
    body = {"model": "policy", "system": "Be kind.", "messages": [HI], "tools": [FIND]}
    chat = chat_body(parse_messages(orjson.dumps(body)))
    assert count_tokens_body(body) == {
        "model": "policy",
        "messages": chat["messages"],
        "tools": chat["tools"],
        "add_generation_prompt": True,
    }
    begun = {**body, "messages": [HI, {"role": "assistant", "content": "So"}]}
    counted = count_tokens_body(begun)
    assert (counted["add_generation_prompt"], counted["continue_final_message"]) == (False, True)


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": ""},
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": [], "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [user("text")]},
        {"messages": [user({"type": "container_upload", "file_id": "f"})]},
        {"messages": [user({"type": "image", "source": {"type": "file"}})]},
        {"messages": [user({"type": "tool_result", "content": "x"})]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]},
        {"system": 3},
        {"tools": {}},
        {"tools": [{"name": "x"}]},
        {"tools": [FIND], "tool_choice": {"type": "tool"}},
        {"tools": [FIND], "tool_choice": "auto"},
        {"tools": [FIND], "tool_choice": {"type": "all"}},
        {"output_format": {"type": "text"}},
    ],
)
def test_what_cannot_be_read_is_a_400(change: dict[str, Any]) -> None:
    body = {"model": "policy", "max_tokens": 9, "messages": [HI], **change}
    with pytest.raises(ApiError) as caught:
        chat_body(parse_messages(orjson.dumps(body)))
    assert caught.value.status == 400
    assert caught.value.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_the_shape_of_the_dialect(status: int, kind: str) -> None:
    assert json.loads(error_body(ApiError(status, "code", "why"), "req_1")) == {
        "type": "error",
        "error": {"type": kind, "message": "why"},
        "request_id": "req_1",
    }
    assert b"tools.0: why" in error_body(bad_request("why", "tools.0"), "req_1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
TYPES = st.sampled_from(
    ["text", "image", "tool_use", "tool_result", "thinking", "document", "search_result", "x"]
)
BLOCKS = st.fixed_dictionaries(
    {"type": TYPES | JSON},
    optional={
        "text": st.text(max_size=4) | JSON,
        "source": st.fixed_dictionaries({"type": st.sampled_from(["base64", "url", "text"])})
        | JSON,
        "id": JSON,
        "name": JSON,
        "input": JSON,
        "tool_use_id": st.just("t1") | JSON,
        "content": JSON | st.lists(st.fixed_dictionaries({"type": TYPES, "text": JSON})),
    },
)
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("m") | JSON,
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
                    "content": st.text(max_size=4) | st.lists(BLOCKS | JSON, max_size=3) | JSON,
                }
            ),
            max_size=3,
        )
        | JSON,
    },
    optional=dict.fromkeys(
        (
            "system",
            "tools",
            "tool_choice",
            "output_config",
            "output_format",
            "thinking",
            "stop_sequences",
            "metadata",
        ),
        JSON,
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=40) | BODIES.map(orjson.dumps), st.booleans())
def test_a_malformed_body_is_an_api_error_and_nothing_else(raw: bytes, is_strict: bool) -> None:
    with suppress(ApiError):
        body = parse_messages(raw)
        chat = chat_body(body, is_strict=is_strict)
        assert all(isinstance(message["role"], str) for message in chat["messages"])
        orjson.dumps(chat)
        count_tokens_body(body)
