"""Streams: any split of the bytes gives the same events, the same client bytes, the same fold."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.chat import Additions
from gateway.dialects.fold import Folded, fold
from gateway.dialects.sse import EventSplitter, StreamCleaner
from tests.fakes.vllm import FakeVLLM, _Answer

ALL = Additions(token_ids=True, logprobs=True, usage=True)
NEWLINES = st.sampled_from(["\n", "\r\n", "\r"])


def stream_of(reply: Any, newline: str = "\n", **body: Any) -> bytes:
    """What vLLM sends for our augmented request."""
    fake = FakeVLLM(reply=lambda model, messages: reply)
    asked = {
        "model": "base",
        "messages": [{"role": "user", "content": "hi"}],
        "return_token_ids": True,
        "logprobs": True,
        "stream_options": {"include_usage": True},
        **body,
    }
    lines = [f"data: {json.dumps(chunk)}" for chunk in _Answer(fake, asked, "r1").chunks()]
    return "".join(line + newline * 2 for line in [*lines, "data: [DONE]"]).encode()


def through(pieces: list[bytes], cleaner: StreamCleaner, limit: int = 1 << 20) -> bytes:
    splitter = EventSplitter(limit)
    out = [cleaner.clean(event) for piece in pieces for event in splitter.feed(piece)]
    return b"".join([*out, cleaner.flush(), splitter.flush()])


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in pairwise(edges)]


REPLIES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.lists(
        st.fixed_dictionaries({"name": st.just("find"), "arguments": st.just('{"q": "a b c d"}')}),
        min_size=1,
        max_size=2,
    ),
)


@settings(max_examples=60, deadline=None)
@given(REPLIES, NEWLINES, st.lists(st.integers(0, 100_000), max_size=30), st.integers(1, 3))
def test_any_byte_split_gives_the_same_client_bytes_and_the_same_fold(
    reply: Any, newline: str, places: list[int], n: int
) -> None:
    raw = stream_of(reply, newline, n=n)
    pieces = cut(raw, places)
    whole = through([raw], StreamCleaner(ALL, "policy"))
    assert through(pieces, StreamCleaner(ALL, "policy")) == whole
    assert through([raw[i : i + 1] for i in range(len(raw))], StreamCleaner(ALL, "policy")) == whole
    assert b"token_ids" not in whole.replace(b'"token_ids":null', b"").replace(
        b'"prompt_token_ids":null', b""
    )
    folded = fold(raw)
    assert folded.is_complete
    assert len(folded.choices) == n
    assert all(0 < len(choice.token_ids) == len(choice.logprobs) for choice in folded.choices)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=20))
def test_garbage_passes_as_it_came_and_never_raises(raw: bytes, places: list[int]) -> None:
    assert through(cut(raw, places), StreamCleaner(ALL, "policy")) == raw or b"data" in raw
    assert through(cut(raw, places), StreamCleaner(Additions(), None), limit=16) == raw
    assert isinstance(fold(raw), Folded)
    assert not fold(raw).is_complete


def test_an_event_that_needs_no_change_leaves_byte_identical() -> None:
    raw = b'data:   {"id":"x", "choices":[{"index":0,"delta":{"content":"\\u00e9"}}]}\r\n\r\n'
    assert StreamCleaner(ALL, None).clean(raw) == raw
    other = b'event: odd\nid: 7\ndata: {"model":"base",\ndata: "choices":[]}\n\n'
    assert StreamCleaner(ALL, "policy").clean(other) == (
        b'event: odd\nid: 7\ndata: {"model":"policy","choices":[]}\n\n'
    )


def test_comments_and_multi_line_events_are_understood() -> None:
    raw = b': ping\n\ndata: {"id":"x","choices":[{"index":0,\ndata: "delta":{"content":"a"}}]}\n\n'
    folded = fold(raw + b"data: [DONE]")
    assert folded.garbage == 0
    assert folded.is_done
    assert folded.choices[0].message["content"] == "a"


def test_an_overlong_event_is_bounded_and_passes() -> None:
    raw = b"data: " + b"x" * 5000 + b"\n\ndata: [DONE]\n\n"
    splitter = EventSplitter(100)
    out = b""
    for position in range(0, len(raw), 64):
        out += b"".join(splitter.feed(raw[position : position + 64]))
        assert len(splitter._pending) <= 164
    assert out + splitter.flush() == raw


def test_an_error_event_before_done_is_not_a_complete_answer() -> None:
    raw = stream_of("hello there").replace(b"data: [DONE]", b'data: {"error":{"message":"x"}}')
    folded = fold(raw + b"data: [DONE]\n\n")
    assert folded.is_done
    assert folded.error == "x"
    assert not folded.is_complete
    assert not fold(stream_of("hi").replace(b'"stop"', b'"abort"')).is_complete
