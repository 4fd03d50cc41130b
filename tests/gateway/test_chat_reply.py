"""The chat answer that is cut: the client's events are those that parsing every event gives."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.chat import Additions, strip_answer, upstream_body
from gateway.dialects.chat_reply import ChatReply
from gateway.dialects.cutting import cut_answer
from gateway.dialects.fold import fold, fold_answer
from gateway.dialects.sse import (
    MAX_EVENT_BYTES,
    EventSplitter,
    StreamCleaner,
    event_payload,
)
from gateway.errors import stream_error
from tests.fakes.vllm import FakeVLLM, _Answer, _compact
from tests.gateway.test_sse import ALL, cut

Body = dict[str, Any]
MARKS = [
    '"logprobs":{"content":[{"token":"a","logprob":-1.0,"bytes":[97]}]},"finish_reason":"stop"',
    '"token_ids":[1]',
    '"prompt_token_ids":[1,2],',
    "data: [DONE]\n\n",
    "[DONE]",
    '"finish_reason":"',
    '"choices":[]',
    '"delta":{}',
    '"usage":{"prompt_tokens":1}',
    '"error"',
    '"model":"base",',
    '\\"token_ids\\":[',
    "\\",
    "]}",
    "\r\n\r\n",
    "\u2028\u0085",
]
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.sampled_from([*MARKS, " a", " b "]), min_size=1, max_size=5).map(" ".join),
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("find"), "arguments": TEXTS.map(lambda text: json.dumps({"q": text}))}
    ),
    min_size=1,
    max_size=2,
)
REPLIES = st.one_of(TEXTS, CALLS)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 3),
        "logprobs": st.booleans(),
        "return_token_ids": st.booleans(),
        "max_tokens": st.integers(1, 4),
        "stream_options": st.sampled_from(
            [
                None,
                {},
                {"include_usage": True},
                {"continuous_usage_stats": True},
                {"include_usage": True, "continuous_usage_stats": True},
            ]
        ),
    },
)
ALIASES = st.sampled_from([None, "policy", "base", "a-name-with-\u00e9-\U0001f600"])
PLACES = st.lists(st.integers(0, 100_000), max_size=30)


def in_order(content: Any) -> Any:
    return content


def sorted_keys(content: Any) -> Any:
    """The keys in another order than vLLM's, in every object."""
    if isinstance(content, dict):
        return {name: sorted_keys(content[name]) for name in sorted(content)}
    return [sorted_keys(entry) for entry in content] if isinstance(content, list) else content


def reversed_keys(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: reversed_keys(content[name]) for name in reversed(content)}
    return [reversed_keys(entry) for entry in content] if isinstance(content, list) else content


def together(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events that carry several choices, as engines may send for n > 1."""
    found: list[dict[str, Any]] = []
    for chunk in chunks:
        last = found[-1] if found else {"choices": []}
        here = [choice["index"] for choice in last["choices"]]
        if here and chunk["choices"] and chunk["choices"][0]["index"] not in here:
            last["choices"] += chunk["choices"]
        else:
            found.append(chunk)
    return found


def asked(wishes: dict[str, Any], *, is_streamed: bool) -> tuple[Body, Additions]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **wishes}
    return upstream_body({**body, "stream": is_streamed}, "base")


def chunks_of(reply: Any, body: Body) -> list[dict[str, Any]]:
    fake = FakeVLLM(reply=lambda model, messages: reply)
    return list(_Answer(fake, body, "r1").chunks())


def written(chunks: list[Any], newline: bytes = b"\n", dump: Any = _compact) -> bytes:
    events = [b"data: " + dump(chunk) for chunk in chunks] + [b"data: [DONE]"]
    return b"".join(event + newline * 2 for event in events)


def cut_way(reply: ChatReply, pieces: list[bytes]) -> bytes:
    out = b"".join([reply.feed(piece) for piece in pieces])
    rest = reply.finish()
    assert reply.is_done
    return out + rest


def assert_folded(additions: Additions, alias: str | None, pieces: list[bytes]) -> None:
    """What is folded as it passes is what is folded after the end."""
    reply = ChatReply(additions, alias, "base")
    cut_way(reply, pieces)
    if not reply.needs_bytes:
        assert plain(reply.folded()) == plain(fold(b"".join(pieces)))


def parsed_way(additions: Additions, alias: str | None, raw: bytes) -> bytes:
    cleaner, splitter = StreamCleaner(additions, alias), EventSplitter()
    cleaned = [cleaner.clean(event) for event in splitter.feed(raw)]
    return b"".join([*cleaned, cleaner.flush(), splitter.flush()])


def events(raw: bytes) -> list[Any]:
    """What a client reads: each event's data, parsed where it is JSON."""
    splitter = EventSplitter()
    found: list[Any] = []
    for event in [*splitter.feed(raw), splitter.flush()]:
        payload = event_payload(event)
        try:
            found.append(None if payload is None else orjson.loads(payload))
        except orjson.JSONDecodeError:
            found.append(payload)
    return found


@settings(max_examples=300, deadline=None)
@given(REPLIES, WISHES, ALIASES, PLACES, st.sampled_from([in_order, sorted_keys, reversed_keys]))
@example("a b", {"n": 2}, "policy", [], sorted_keys)
@example([{"name": "f", "arguments": "{}"}] * 2, {}, "policy", [], sorted_keys)
def test_a_stream_that_is_cut_is_the_stream_that_is_parsed(
    reply: Any,
    wishes: dict[str, Any],
    alias: str | None,
    places: list[int],
    order: Callable[[Any], Any],
) -> None:
    body, additions = asked(wishes, is_streamed=True)
    chunks = chunks_of(reply, body)
    for several in (chunks, together(chunks)):
        raw = written([order(chunk) for chunk in several])
        expected = events(parsed_way(additions, alias, raw))
        pieces = cut(raw, places)
        found = cut_way(ChatReply(additions, alias, "base"), pieces)
        assert events(found) == expected
        assert_folded(additions, alias, pieces)
        assert found.endswith(b"data: [DONE]\n\n")
        at_events = [event + b"\n\n" for event in raw.split(b"\n\n")[:-1]]
        assert events(cut_way(ChatReply(additions, alias, "base"), at_events)) == expected


@settings(max_examples=40, deadline=None)
@given(REPLIES, WISHES, ALIASES, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans())
def test_any_line_end_and_any_spacing_are_read(
    reply: Any, wishes: dict[str, Any], alias: str | None, newline: bytes, is_spaced: bool
) -> None:
    body, additions = asked(wishes, is_streamed=True)
    chunks = chunks_of(reply, body)
    dump = (lambda chunk: json.dumps(chunk).encode()) if is_spaced else _compact
    raw = written(chunks, newline, dump)
    bytewise = [raw[start : start + 1] for start in range(len(raw))]
    found = cut_way(ChatReply(additions, alias, "base"), bytewise)
    assert events(found) == events(parsed_way(additions, alias, raw))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b": ping",
                    b"data: {not json",
                    b"event: odd\ndata: 1",
                    b"data: \x00\xff",
                    b"data: null",
                    b"data: []",
                    b'data: {"choices":[1,null,{"index":"x","delta":null}]}',
                    b'data: {"choices":{"logprobs":{"content":[1]},"finish_reason":null}}',
                    b'data: {"error":{"message":"x","code":500}}',
                    b'data: {"token_ids":[1],"logprobs":{"content":[',
                    b'id: 7\ndata: {"model":"base","choices":[{"token_ids":[1]}]}',
                    b"",
                    b"data: [DONE]",
                    b"data:[DONE]",
                    b"event: end\ndata: [DONE]",
                    b'data: {"model":"base"\ndata: ,"choices":[]}',
                ]
            ),
            st.integers(0, 4),
        ),
        max_size=12,
    ),
    PLACES,
    WISHES,
)
def test_odd_events_come_out_as_the_parsed_way_gives_them(
    parts: list[Any], places: list[int], wishes: dict[str, Any]
) -> None:
    body, additions = asked(wishes, is_streamed=True)
    good = [b"data: " + _compact(chunk) for chunk in chunks_of("some text to cut", body)]
    count = len(good) - 1  # in their order; nothing comes behind the last chunk but its usage
    in_turn = iter(sorted(part % count for part in parts if isinstance(part, int)))
    listed = [good[next(in_turn)] if isinstance(part, int) else part for part in parts]
    raw = b"".join(part + b"\n\n" for part in listed)
    ends = [place for place, part in enumerate(listed) if part.endswith(b"[DONE]")]
    before = b"".join(part + b"\n\n" for part in listed[: ends[0]]) if ends else raw
    reply = ChatReply(additions, "policy", "base")
    found = b"".join([reply.feed(piece) for piece in cut(raw, places)] if raw else [])
    assert reply.is_done == bool(ends)
    # The last chunk is held back until it is known what follows: an end lets it go.
    rest = reply.finish() if ends else reply.broken("c", "m")
    behind = raw[len(before) :] if ends else stream_error("c", "m")
    assert events(found + rest) == events(parsed_way(additions, "policy", before) + behind)


def test_what_stands_behind_done_passes_once() -> None:
    body, additions = asked({}, is_streamed=True)
    raw = written(chunks_of("a b c", body))
    twice = raw + b"data: [DONE]\n\n: bye\n\n"
    for size in (1, 7, len(twice)):
        pieces = [twice[start : start + size] for start in range(0, len(twice), size)]
        found = cut_way(ChatReply(additions, "policy", "base"), pieces)
        assert found.endswith(b"data: [DONE]\n\ndata: [DONE]\n\n: bye\n\n")
        assert found.count(b"[DONE]") == 2


def test_done_without_its_blank_line_is_an_end() -> None:
    body, additions = asked({}, is_streamed=True)
    raw = written(chunks_of("a b c", body)).removesuffix(b"\n\n")
    for size in (1, 7, len(raw)):
        reply = ChatReply(additions, "policy", "base")
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert cut_way(reply, pieces).endswith(b"data: [DONE]")
        assert reply.is_done


def test_a_stream_that_is_cut_off_is_not_done() -> None:
    body, additions = asked({}, is_streamed=True)
    raw = written(chunks_of("a b c", body))
    for stop in range(0, len(raw) - len(b"data: [DONE]\n\n"), 11):
        reply = ChatReply(additions, "policy", "base")
        out = reply.feed(raw[:stop])
        assert (reply.finish(), reply.is_done) == (b"", False)
        told = out + reply.broken("upstream_broke_off", "it broke")
        whole = raw[: raw.rfind(b"\n\n", 0, stop) + 2] if b"\n\n" in raw[:stop] else b""
        error = stream_error("upstream_broke_off", "it broke")
        assert events(told) == events(parsed_way(ALL, "policy", whole) + error)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from([b"\n", b"\r\n", b"\r"]), PLACES)
@example("[DONE]", b"\n", [])
def test_nothing_is_touched_where_nothing_was_added(
    text: str, newline: bytes, places: list[int]
) -> None:
    raw = written(chunks_of(text, {"model": "base", "messages": [], "n": 2}), newline)
    raw += b": bye" + newline * 2
    for pieces in (cut(raw, places), [raw[start : start + 1] for start in range(len(raw))]):
        assert cut_way(ChatReply(Additions(), None, "base"), pieces) == raw


def test_an_overlong_event_is_held_only_up_to_the_limit() -> None:
    body, additions = asked({}, is_streamed=True)
    chunks = chunks_of("a b", body)
    chunks[1]["choices"][0]["delta"]["content"] = "x" * 10_000_000
    raw = written(chunks)
    reply = ChatReply(additions, "policy", "base")
    out = b""
    for start in range(0, len(raw), 65536):
        out += reply.feed(raw[start : start + 65536])
        assert start - len(out) <= MAX_EVENT_BYTES + 65536
    out += reply.finish()
    assert out.count(b"x" * 10_000_000) == 1
    assert out.endswith(b"data: [DONE]\n\n")


# -- whole answers -----------------------------------------------------------------------


def plain(value: Any) -> Any:
    """With the JSON fragments of a fold written out."""
    return orjson.loads(orjson.dumps(value))


@settings(max_examples=300, deadline=None)
@given(REPLIES, WISHES, ALIASES, st.sampled_from([in_order, sorted_keys, reversed_keys]))
def test_a_whole_answer_that_is_cut_is_the_answer_that_is_parsed(
    reply: Any, wishes: dict[str, Any], alias: str | None, order: Callable[[Any], Any]
) -> None:
    wishes.pop("stream_options", None)
    body, additions = asked(wishes, is_streamed=False)
    fake = FakeVLLM(reply=lambda model, messages: reply)
    answer = order(_Answer(fake, body, "r1").whole())
    raw = _compact(answer)
    found, folded = ChatReply(additions, alias, "base").whole(raw)
    expected = fold_answer(answer)
    assert plain(folded) == plain(expected)
    strip_answer(answer, additions, alias)
    assert orjson.loads(found) == answer


@settings(max_examples=60, deadline=None)
@given(REPLIES, st.integers(1, 3))
def test_cutting_a_whole_answer_takes_out_ids_and_logprobs_and_nothing_else(
    reply: Any, n: int
) -> None:
    body, additions = asked({"n": n}, is_streamed=False)
    fake = FakeVLLM(reply=lambda model, messages: reply)
    answer = _Answer(fake, body, "r1").whole()
    raw = _compact(answer)
    cut_out = cut_answer(raw)
    if n > 1:
        assert cut_out is None  # which is answer for which: that is parsed
        return
    assert cut_out is not None
    rest, folded = cut_out
    assert plain(folded) == plain(fold_answer(answer))
    assert folded.is_complete
    strip_answer(answer, additions, None)
    assert rest == _compact(answer)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b'{"error":{"message":"x"}}',
        b'"logprobs":{"content":[',
        b'{"choices":[{"logprobs":{"content":[]},"finish_reason":"stop","token_ids":[]}],'
        b'"prompt_token_ids":[]}',
        b'{"choices":[{"logprobs":{"content":[{"logprob":-1,"bytes":1}]},"finish_reason":"stop",'
        b'"token_ids":[1,2]}],"prompt_token_ids":[1]}',
        b'{"choices":[{"logprobs":{"content":[{"logprob":-1,"bytes":1}]},"finish_reason":"stop",'
        b'"token_ids":["a"]}],"prompt_token_ids":[1]}',
        b'{"choices":[{"logprobs":{"content":[{"logprob":-1,"bytes":1}]},"finish_reason":"stop",'
        b'"token_ids":[1]}],"prompt_token_ids":[1.5]}',
    ],
)
def test_what_does_not_look_like_the_engines_answer_is_not_cut(raw: bytes) -> None:
    assert cut_answer(raw) is None
    sent, folded = ChatReply(ALL, None, "base").whole(raw)
    assert not any(choice.token_ids == [1, 2] and choice.logprobs for choice in folded.choices[1:])
    assert (sent == raw) == (b"token_ids" not in raw)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_an_answer_are_no_error(raw: bytes) -> None:
    sent, folded = ChatReply(ALL, "policy", "base").whole(raw)
    assert sent == raw
    assert not folded.is_complete
