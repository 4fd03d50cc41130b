"""What a review found: odd upstreams, odd clients, and what they may not do to the others."""

import contextlib
import re
import time
from collections.abc import Callable

import pytest

from gateway.attribution import PathIds
from gateway.dialects.fold import fold
from gateway.dialects.responses import MOST_NAMED
from gateway.reception import _conversation
from gateway.responses_store import KeptResponse, ResponsesStore
from gateway.spool.payload import shipped, stream_payload
from gateway.spool.recent import Recent
from gateway.spool.segments import Frame
from gateway.wire.hot import HotPaths
from tests.fakes.wire import RawServer, Wire, wire_to
from tests.gateway.conftest import Running, wait_for
from trajectories.model import Outcome, Transition, unpack_record

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNK = (
    b'data: {"id":"r1","object":"chat.completion.chunk","created":1,"model":"base","choices":'
    b'[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":%b,'
    b'"bytes":[97],"top_logprobs":[]}]},"finish_reason":null,"token_ids":[%b]}]}\n\n'
)


def streaming(*pieces: bytes, then: float = 0.0) -> RawServer:
    def answer(wire: Wire, _: int) -> None:
        wire.read()
        wire.send(HEAD)
        for piece in pieces:
            wire.send(piece)
        time.sleep(then)

    return RawServer(answer)


def test_a_stream_too_deep_to_be_written_is_shipped_as_unreadable() -> None:
    deep = b"[" * 300 + b"]" * 300
    stream = b'data: {"choices":[{"index":0,"delta":{"odd":%b}}]}\n\ndata: [DONE]\n\n' % deep
    assert fold(stream).is_done
    record = {"id": "tr_1", "trajectory_id": "t", "gateway": "g", "started_at": 1.0}
    record |= {"latency_seconds": 1.0, "request": {}, "model": "m", "outcome": None, "error": None}
    found = unpack_record(shipped(stream_payload(record, "chat", stream)))
    assert isinstance(found, Transition)
    assert found.outcome is Outcome.INCOMPLETE
    assert "could not be read" in (found.error or "")


@pytest.mark.parametrize(("logprob", "token_id"), [(b"-.5", b"7"), (b"-0.5", b"007")])
def test_numbers_that_are_no_json_do_not_hang_the_client(
    start: Callable[..., Running], logprob: bytes, token_id: bytes
) -> None:
    good = CHUNK % (b"-0.1", b"5")
    odd = CHUNK % (logprob, token_id)
    with streaming(good, odd, b"data: [DONE]\n\n").serve() as upstream:
        running = start(upstream={"url": upstream.url})
        answer = running.chat(stream=True)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    (record,) = running.records()
    assert record.outcome is Outcome.INCOMPLETE
    assert not running.services.exchanges


def test_bytes_behind_the_end_do_not_keep_the_client_waiting(start: Callable[..., Running]) -> None:
    end = CHUNK % (b"-0.1", b"5") + b"data: [DONE]\n\n"
    with streaming(end, b": ping\n\n", then=3).serve() as upstream:
        running = start(upstream={"url": upstream.url, "idle_seconds": 30})
        with running.client.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "policy", "stream": True, "messages": [{"role": "user"}]},
            timeout=2.5,
        ) as answer:
            assert b"[DONE]" in answer.read()


def test_a_status_that_is_none_is_a_502(start: Callable[..., Running]) -> None:
    def answer(wire: Wire, _: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n")

    with RawServer(answer).serve() as upstream:
        running = start(upstream={"url": upstream.url})
        assert running.chat().status_code == 502


def test_a_body_that_names_very_many_responses_is_refused(running: Running) -> None:
    items = [
        {"type": "item_reference", "id": f"msg_{number}_0"} for number in range(MOST_NAMED + 1)
    ]
    answer = running.client.post("/v1/responses", json={"model": "policy", "input": items})
    assert answer.status_code == 400
    assert "more than" in answer.json()["error"]["message"]


def test_recent_says_so_when_a_record_falls_out_while_it_is_read() -> None:
    recent = Recent(9, limit_bytes=10)
    recent.add(10, b"x" * 6)

    class Watching(list[Frame]):
        pass

    seen: list[object] = []
    frames = recent._frames

    class Spy(type(frames)):  # type: ignore[misc]
        def popleft(self) -> Frame:
            seen.append(recent.after(9, 10, 1000))  # a reader in the middle of it
            return super().popleft()

    recent._frames = Spy(frames)
    recent.add(11, b"x" * 6)
    assert seen == [None]


def test_very_long_addresses_are_not_remembered() -> None:
    paths = HotPaths()
    long = b"/v1/chat/completions?x=" + b"y" * 5000
    found = paths.find(long)
    assert found is not None
    assert found.dialect == "chat"
    assert long not in paths._found
    assert paths.find(b"/t/s/v1/chat/completions").path_ids == PathIds(session="s")  # type: ignore[union-attr]


def test_a_head_behind_a_waiting_request_is_bounded(running: Running) -> None:
    with wire_to(running.url) as wire:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"
        wire.send(head + b"expect: 100-continue\r\ncontent-length: 4000\r\n\r\n")
        wire.send(b" " * 4000 + b"GET /healthz HTTP/1.1\r\nx: ")
        with contextlib.suppress(OSError):
            for _ in range(200):
                wire.send(b"y" * 65536)
        wait_for(lambda: not running.services.connections or wire.is_closed())


def test_a_known_head_is_not_looked_for_in_the_middle_of_another(running: Running) -> None:
    body = b'{"model":"policy","messages":[{"role":"user","content":"hi"}]}'
    call = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    with wire_to(running.url) as wire:
        wire.send(call)
        assert wire.read().status == 200
        wire.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nPOST /v1/x HTTP/1.1\r\nx-note: ")
        assert wire.read().status == 200
        wire.send(call)  # the rest of a header, and what follows it
        assert b'"path": "/v1/x"' in wire.read().body
    assert len(running.records()) == 1


def test_a_conversation_is_told_by_its_first_words_however_they_are_written() -> None:
    plain = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    assert _conversation("k", plain) == _conversation("k", parts) != _conversation("l", plain)
    assert isinstance(_conversation(None, {"messages": [{"content": [[1] * 1000]}]}), int)


def test_stored_responses_that_redis_does_not_take_are_bounded() -> None:
    class Stuck:
        def set(self, *_: object, **__: object) -> None:
            time.sleep(0.05)

    store = ResponsesStore(Stuck())  # type: ignore[arg-type]
    for number in range(40):
        kept = KeptResponse({"id": f"resp_{number}"}, [{"content": "x" * 1_000_000}], [], "t")
        store.keep("t", kept)
    assert store._waiting <= 16 * 1024 * 1024
    assert store.recall("t", ["resp_39"])
    assert len(store.recall("t", [f"resp_{number}" for number in range(40)])) <= 16
    store.close()


@pytest.mark.parametrize("wish", [{}, {"logprobs": True}, {"n": 2}])
def test_a_client_that_leaves_early_has_used_its_tokens(
    running: Running, wish: dict[str, object]
) -> None:
    running.fake.chunk_seconds = 0.03
    running.fake.reply = lambda model, messages: "word " * 500
    body = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with running.client.stream("POST", "/v1/chat/completions", json={**body, **wish}) as answer:
        parts = answer.iter_raw()
        for _ in range(4):
            next(parts)

    def used() -> int:
        text = running.client.get("/metrics").text
        return sum(map(int, re.findall(r"^ratchet_tokens_total\{.*\} (\d+)", text, re.MULTILINE)))

    wait_for(used)
    assert used() > 2
