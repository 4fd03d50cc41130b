"""Legacy completions: the client sees what vLLM would have sent it, and the record sees more."""

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.chat import Additions
from gateway.dialects.completions import (
    CompletionsReply,
    chat_form,
    parse_completions,
    upstream_body,
)
from gateway.dialects.completions_fold import fold_answer, fold_stream
from gateway.dialects.fold import Folded
from gateway.errors import ApiError
from tests.fakes.vllm import FakeVLLM, _Completion, token_ids

ALL = Additions(token_ids=True, logprobs=True, usage=True)
BODIES = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a b", ["a b"], ["a", "b c"], [1, 2, 3], [[1, 2]], [[1], [2, 3]]])},
    optional={
        "n": st.integers(1, 3),
        "max_tokens": st.integers(1, 4),
        "echo": st.booleans(),
        "logprobs": st.none() | st.integers(0, 2),
        "return_token_ids": st.booleans(),
        "stream_options": st.none()
        | st.fixed_dictionaries(
            {}, optional={"include_usage": st.booleans(), "continuous_usage_stats": st.booleans()}
        ),
        "suffix": st.just("!"),
        "best_of": st.just(3),
        "session_id": st.just("s1"),
    },
)


def engine(body: dict[str, Any]) -> _Completion:
    completion = _Completion(FakeVLLM(), {"max_tokens": 3, **body}, "cmpl-1")
    completion._head["created"] = 1
    return completion


def whole_of(body: dict[str, Any]) -> bytes:
    return orjson.dumps(engine(body).whole())


def stream_of(body: dict[str, Any]) -> bytes:
    lines = [orjson.dumps(chunk) for chunk in engine(body).chunks()]
    return b"".join(b"data: %b\n\n" % line for line in [*lines, b"[DONE]"])


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(BODIES, st.lists(st.integers(0, 100_000), max_size=20))
def test_the_client_gets_the_bytes_it_would_have_got_from_vllm(
    asked: dict[str, Any], places: list[int]
) -> None:
    body = {"model": "policy", "stream": True, **asked}
    sent, additions = upstream_body(body, "base")
    direct = stream_of({**body, "model": "base"}).replace(b'"model":"base"', b'"model":"policy"')
    reply = CompletionsReply(additions, "policy")
    got = b"".join(map(reply.feed, cut(stream_of(sent), places)))
    assert reply.is_done
    assert got + reply.finish() == direct

    body = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
    sent, additions = upstream_body(body, "base")
    direct = whole_of({**body, "model": "base"}).replace(b'"model":"base"', b'"model":"policy"')
    client, _ = CompletionsReply(additions, "policy").whole(whole_of(sent))
    assert client == direct


@settings(max_examples=100, deadline=None)
@given(BODIES)
def test_whole_and_streamed_are_recorded_alike(asked: dict[str, Any]) -> None:
    body = {"model": "policy", "stream": True, **asked}
    sent, _ = upstream_body(body, "base")
    streamed = fold_stream(stream_of(sent))
    sent = {k: v for k, v in sent.items() if k not in ("stream", "stream_options")}
    whole = fold_answer(orjson.loads(whole_of(sent)))
    said = [(choice.message, choice.finish_reason) for choice in whole.choices]
    assert [(choice.message, choice.finish_reason) for choice in streamed.choices] == said
    if body.get("echo"):  # the prompt's tokens are among the answer's then
        aligned = [len(c.token_ids) == len(c.logprobs) > 0 for c in streamed.choices]
        assert not any(aligned)
    else:
        assert streamed.choices == whole.choices
        assert streamed.prompt_token_ids == whole.prompt_token_ids
    assert streamed.is_complete
    assert whole.is_complete


@pytest.mark.parametrize("prompt", ["say it", ["say it"], token_ids("say it")])
@pytest.mark.parametrize("n", [1, 2])
def test_one_prompt_is_recorded_complete_and_aligned(prompt: Any, n: int) -> None:
    sent, _ = upstream_body({"model": "policy", "prompt": prompt, "n": n, "stream": True}, "base")
    folded = fold_stream(stream_of(sent))
    assert folded.prompt_token_ids == token_ids("say it")
    assert folded.response_id == "cmpl-1"
    assert [choice.index for choice in folded.choices] == list(range(n))
    for number, choice in enumerate(folded.choices):
        text = f" ok{number or ''}" * 3
        assert choice.message == {"role": "assistant", "content": text}
        assert choice.token_ids == token_ids(text)
        assert len(choice.logprobs) == 3
        assert choice.finish_reason == "length"
    assert folded.usage is not None
    assert folded.usage["completion_tokens"] == 3 * n


def test_answers_to_different_prompts_are_never_taken_for_aligned() -> None:
    asked = {"model": "base", "prompt": ["a", "b c"], "return_token_ids": True, "logprobs": 0}
    folded = fold_answer(orjson.loads(whole_of(asked)))
    assert folded.prompt_token_ids == ()
    assert [choice.token_ids for choice in folded.choices] == [[], []]
    assert len(folded.choices) == 2


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt": "a"}, Additions(token_ids=True, logprobs=True)),
        ({"prompt": "a", "stream": True}, ALL),
        ({"prompt": "a", "stream": True, "n": 2}, Additions(token_ids=True, logprobs=True)),
        ({"prompt": "a", "logprobs": 0}, Additions(token_ids=True)),
        ({"prompt": "a", "return_token_ids": True}, Additions(logprobs=True)),
        ({"prompt": "a", "echo": True}, Additions()),
        ({"prompt": "a", "echo": True, "stream": True}, Additions(usage=True)),
        ({"prompt": ["a", "b"], "stream": True}, Additions()),
        ({"prompt": [[1], [2]]}, Additions()),
        ({"prompt_embeds": "AA=="}, Additions()),
        ({"prompt": "a", "use_beam_search": True}, Additions(token_ids=True)),
        ({"prompt": "a", "logprob_token_ids": [1]}, Additions(token_ids=True)),
        (
            {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}},
            Additions(token_ids=True, logprobs=True),
        ),
    ],
)
def test_only_what_changes_nothing_else_is_added(asked: dict[str, Any], expected: Any) -> None:
    body = {"model": "policy", **asked}
    before = json.dumps(body)
    sent, additions = upstream_body(body, "base")
    assert additions == expected
    assert json.dumps(body) == before
    added = {k: v for k, v in sent.items() if k not in body}
    assert added == {
        **({"return_token_ids": True} if expected.token_ids else {}),
        **({"logprobs": 0} if expected.logprobs else {}),
        **({"stream_options": {"include_usage": True}} if expected.usage else {}),
    }
    assert sent["model"] == "base"


def test_the_record_holds_the_request_as_chat() -> None:
    body = {"model": "m", "prompt": "hi", "max_tokens": 5, "logprobs": 2, "session_id": "s"}
    assert chat_form(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
    }
    several = chat_form({"model": "m", "prompt": [[1, 2], [3]], "echo": True})
    assert [message["content"] for message in several["messages"]] == ["[1,2]", "[3]"]
    assert chat_form({"model": "m", "prompt": [1, 2]})["messages"][0]["content"] == "[1,2]"
    assert chat_form({"model": "m", "prompt_embeds": "AA=="})["messages"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"},
        {"model": "", "prompt": "x"},
        {"model": "m"},
        {"model": "m", "prompt": 3},
        {"model": "m", "prompt": {"a": 1}},
        {"model": "m", "prompt": ["a", 1]},
        {"model": "m", "prompt": [True]},
        {"model": "m", "prompt": [["a"]]},
    ],
)
def test_what_cannot_be_read_is_a_400(body: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completions(orjson.dumps(body))
    assert caught.value.status == 400


def test_a_deployment_is_the_model_where_the_body_names_none() -> None:
    assert parse_completions(b'{"prompt":"x","model":null}', "d1")["model"] == "d1"
    assert parse_completions(b'{"prompt":"x","model":"m"}', "d1")["model"] == "m"


def test_a_stream_without_its_end_is_not_closed_by_us() -> None:
    sent, additions = upstream_body({"model": "p", "prompt": "a", "stream": True}, "base")
    raw = stream_of(sent)
    reply = CompletionsReply(additions, "p")
    reply.feed(raw[: raw.index(b"data: [DONE]")])
    assert (reply.finish(), reply.is_done) == (b"", False)
    assert not fold_stream(raw[: raw.index(b"data: [DONE]")]).is_complete
    reply = CompletionsReply(additions, "p")
    reply.feed(raw[:-2])  # some engines leave out the last blank line
    assert reply.finish() == b"data: [DONE]"


def test_a_held_event_comes_before_the_error() -> None:
    reply = CompletionsReply(ALL, "p")
    choice = {"index": 0, "text": "a", "finish_reason": "stop"}
    chunk = orjson.dumps({"id": "c", "model": "base", "choices": [choice]})
    assert reply.feed(b"data: %b\n\n" % chunk) == b""
    said = reply.broken("upstream_cut", "it broke").split(b"\n\n")
    assert b'"text":"a"' in said[0]
    assert b"it broke" in said[1]


def test_errors_and_garbage_leave_as_they_came() -> None:
    raw = b'{ "error": {"message": "no", "code": 400} }'
    client, folded = CompletionsReply(ALL, "p").refusal(400, raw)
    assert (client, folded.error) == (raw, "no")
    assert CompletionsReply(ALL, "p").whole(b"<html>") == (b"<html>", Folded(garbage=1))
    assert CompletionsReply(ALL, "p").whole(b"[1]") == (b"[1]", Folded(garbage=1))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_odd_bytes_raise_nothing(raw: bytes, places: list[int]) -> None:
    reply = CompletionsReply(ALL, "p")
    for part in cut(raw, places):
        reply.feed(part)
    reply.finish()
    assert not fold_stream(raw).is_complete
    CompletionsReply(ALL, "p").whole(raw)
