"""What upstreams do wrong (design: rows U1 to U5): clear answers, few retries, honest records."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.vllm import FakeVLLM
from tests.fakes.wire import RawServer, Wire
from tests.gateway.conftest import Running, free_port, wait_for
from tests.gateway.test_chat import events
from tests.gateway.test_chat_reply import chunks_of, written
from trajectories.model import Outcome


@pytest.fixture(params=["protocol", "twin"])
def shell(request: pytest.FixtureRequest) -> str:
    """Both shells; one where only the way to the upstream is looked at."""
    return str(request.param)


in_one_shell = pytest.mark.parametrize("shell", ["protocol"])
EAGER = {"failures": 1000, "minimum_calls": 1000}  # a breaker that never opens
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "/v1/embeddings": {"input": "hi"},
}
RECORDED = [path for path in BODIES if path != "/v1/embeddings"]
BRISK = {"connect_seconds": 0.1, "first_byte_seconds": 0.1}
STREAMED = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def is_free(running: Running) -> bool:
    """Whether nothing counts as being under way."""
    servers = running.services.servers.values()
    return (
        running.services.policies.default.in_flight.by_version() == {}
        and running.services.exchanges == set()
        and all(replica.in_flight == 0 for server in servers for replica in server.replicas)
    )


def asks(fake: FakeVLLM) -> int:
    return len(fake.requests)


# -- U1: gone ----------------------------------------------------------------------------


def test_a_dead_upstream_is_503_in_every_dialect(start: Callable[..., Running]) -> None:
    running = start(upstream={"url": f"http://127.0.0.1:{free_port()}"}, breaker=EAGER)
    for path, body in BODIES.items():
        answer = running.client.post(path, json={"model": "policy", **body})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
        assert ("type" in answer.json()) == (path == "/v1/messages")
        assert "cannot be reached" in answer.json()["error"]["message"]
    ends = [(record.outcome, record.http_status) for record in running.records()]
    assert ends == [(Outcome.FAILED, 503)] * len(RECORDED)
    wait_for(lambda: is_free(running))


@in_one_shell
def test_after_enough_failures_an_upstream_is_left_alone_and_tried_again_later(
    start: Callable[..., Running],
) -> None:
    breaker = {"failures": 3, "open_seconds": 0.5}
    running = start(upstream={"retries": 0}, breaker=breaker)
    running.fake.fault = "crash_before"
    assert [running.chat().status_code for _ in range(3)] == [502] * 3
    refused = running.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "upstream_down"
    assert asks(running.fake) == 3
    running.fake.fault = None
    wait_for(lambda: running.chat().status_code == 200)
    assert asks(running.fake) == 4
    assert running.records()[-1].outcome == Outcome.COMPLETE
    wait_for(lambda: is_free(running))


@in_one_shell
def test_a_request_is_tried_again_before_the_first_byte_and_only_then(
    start: Callable[..., Running],
) -> None:
    running = start(breaker=EAGER)
    running.fake.fault, running.fake.fault_count = "crash_before", 1
    assert running.chat(stream=True).status_code == 200
    assert asks(running.fake) == 2
    running.fake.fault, running.fake.fault_count = "crash_after", 1
    assert "error" in events(running.chat(stream=True).content)[-1]
    assert asks(running.fake) == 3
    assert [r.outcome for r in running.records()] == [Outcome.COMPLETE, Outcome.INCOMPLETE]


@in_one_shell
def test_another_replica_answers_for_one_that_is_gone(start: Callable[..., Running]) -> None:
    with FakeVLLM().serve() as alive:
        dead = f"http://127.0.0.1:{free_port()}"
        running = start(upstream={"replicas": (dead, alive.url)}, breaker={"failures": 2})
        answers = [running.chat(headers={"x-session-id": f"s{n}"}) for n in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 12
    assert asks(alive) == 12


@in_one_shell
def test_retries_stay_within_a_fifth_of_the_requests(start: Callable[..., Running]) -> None:
    running = start(breaker=EAGER)
    running.fake.fault = "crash_before"
    for _ in range(40):
        assert running.chat().status_code == 502
    assert 40 <= asks(running.fake) <= 40 + 8
    text = running.client.get("/metrics").text
    assert f"ratchet_retries_total {asks(running.fake) - 40}.0" in text


@in_one_shell
def test_a_fallback_answers_and_is_recorded(start: Callable[..., Running]) -> None:
    with FakeVLLM(base_model="other-model").serve() as other:
        running = start(
            upstream={"url": f"http://127.0.0.1:{free_port()}"},
            upstreams={"second": {"kind": "vllm", "url": other.url}},
            routes={
                "first": {"upstream": "policy", "fallbacks": ["spare"]},
                "spare": {"upstream": "second", "model": "other-model"},
            },
        )
        for is_streamed in (False, True):
            answer = running.chat(model="first", stream=is_streamed)
            assert answer.status_code == 200
            assert "x-ratchet-policy" not in answer.headers
            record = running.records()[-1]
            assert (record.upstream, record.model, record.policy_version) == (
                "second",
                "other-model",
                None,
            )
            assert record.outcome == Outcome.COMPLETE
            assert b'"model":"first"' in answer.content.replace(b": ", b":")
    assert "ratchet_fallbacks_total 2.0" in running.client.get("/metrics").text


@in_one_shell
def test_an_error_of_the_first_upstream_is_answered_by_its_fallback(
    start: Callable[..., Running],
) -> None:
    with FakeVLLM(base_model="other-model").serve() as other:
        running = start(
            upstreams={"second": {"kind": "vllm", "url": other.url}},
            routes={
                "first": {"upstream": "policy", "fallbacks": ["spare"]},
                "spare": {"upstream": "second", "model": "other-model"},
            },
        )
        for fault in ("429", "500", "503"):
            running.fake.fault = fault
            assert running.chat(model="first").status_code == 200
            other.fault = fault  # the last in line: its error is the answer
            assert running.chat(model="first").status_code == int(fault)
            other.fault = None
    assert {record.upstream for record in running.records()} == {"second"}
    wait_for(lambda: is_free(running))


# -- U2: hangs ---------------------------------------------------------------------------


def test_silence_before_the_answer_is_504_and_frees_the_slot(
    start: Callable[..., Running],
) -> None:
    with silent() as (engine, left):
        running = start(upstream={"url": engine.url, **BRISK}, breaker=EAGER)
        for number, (path, body) in enumerate(BODIES.items()):
            answer = running.client.post(path, json={"model": "policy", **body})
            assert answer.status_code == 504, path
            assert answer.headers["x-should-retry"] == "true"
            wait_for(lambda: is_free(running))
            wait_for(lambda: left == [True] * engine.connections)  # the upstream was told
            assert engine.connections == number + 1
    assert [r.outcome for r in running.records()] == [Outcome.FAILED] * len(RECORDED)


@contextmanager
def silent(said: bytes = b"") -> Iterator[tuple[RawServer, list[bool]]]:
    """A server that says `said` and no more, and notes who left."""
    left: list[bool] = []

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(said)
        left.append(wire.is_closed())

    with RawServer(script).serve() as server:
        yield server, left


def test_silence_in_a_stream_is_an_error_event_and_frees_the_slot(
    start: Callable[..., Running],
) -> None:
    running = start(upstream={"idle_seconds": 0.2})
    running.fake.fault = "hang_after"
    for path in STREAMED:
        sent = {"model": "policy", "stream": True, **BODIES[path]}
        answer = running.client.post(path, json=sent)
        assert answer.status_code == 200
        assert b"error" in answer.content.split(b"\n\n")[-2]
        assert b"[DONE]" not in answer.content
        assert running.records()[-1].outcome == Outcome.INCOMPLETE
        wait_for(lambda: is_free(running))


@in_one_shell
def test_a_head_that_comes_at_once_leaves_time_for_the_first_token(
    start: Callable[..., Running],
) -> None:
    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(STREAM_HEAD + b"\r\n")
        time.sleep(0.6)  # longer than a connection may take, shorter than a first byte may
        wire.send(written(chunks_of("thought for long", {"model": "base", "messages": []})))

    with RawServer(script).serve() as engine:
        limits = {"connect_seconds": 0.2, "first_byte_seconds": 5}
        running = start(upstream={"url": engine.url, **limits})
        assert running.chat(stream=True).content.endswith(b"data: [DONE]\n\n")
    with silent(STREAM_HEAD + b"\r\n") as (engine, left):
        limits = {"connect_seconds": 5, "first_byte_seconds": 0.2}
        running = start(upstream={"url": engine.url, **limits})
        assert running.chat(stream=True).status_code == 504
        wait_for(lambda: left == [True])


@in_one_shell
def test_an_answer_has_a_limit_as_a_whole(start: Callable[..., Running]) -> None:
    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(STREAM_HEAD + b"\r\n")
        while True:
            wire.send(b": still there\n\n")
            time.sleep(0.05)

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url, "total_seconds": 0.4})
        answer = running.chat(stream=True)
    assert "did not end its answer" in events(answer.content)[-1]["error"]["message"]


@in_one_shell
def test_a_connection_that_is_not_taken_is_504(start: Callable[..., Running]) -> None:
    # An address of the documentation's network: nobody answers there, or says so at once.
    running = start(upstream={"url": "http://192.0.2.1:9", "connect_seconds": 0.2})
    assert running.chat().status_code in (503, 504)
    wait_for(lambda: is_free(running))


@in_one_shell
def test_stored_responses_that_cannot_be_read_in_time_are_503(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.exchange._RECALL_SECONDS", 0.2)
    running = start(upstream=BRISK)
    hung = threading.Event()
    monkeypatch.setattr(running.services.responses, "load", lambda *_: hung.wait(5) and None)
    body = {"model": "policy", "input": "hi", "previous_response_id": "resp_1"}
    try:
        answer = running.client.post("/v1/responses", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        monkeypatch.setattr("gateway.exchange._RECALL_SECONDS", 5)
        with pytest.raises(Exception, match="timed out"):
            running.client.post("/v1/responses", json=body, timeout=0.1)
    finally:
        hung.set()
    wait_for(lambda: len(running.records()) == 2)
    assert running.records()[0].outcome == Outcome.FAILED
    assert running.records()[1].outcome == Outcome.DISCONNECTED
    for record in running.records():  # in chat form, though it was never translated for anybody
        assert record.request["messages"] == [{"role": "user", "content": "hi"}]
    assert running.fake.requests == []
    running.fake.fault = "hang_before"
    assert running.chat().status_code == 504  # the clock still goes
    wait_for(lambda: is_free(running))


# -- U3: cut -----------------------------------------------------------------------------


def cut_by(wire: Wire, how: str) -> None:
    wire.reset() if how == "reset" else wire.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_cut_anywhere_ends_with_an_error_and_is_incomplete(
    start: Callable[..., Running], how: str
) -> None:
    whole = written(chunks_of("a few words", {"model": "base", "messages": []}))
    first = whole.index(b"\n\n") + 2
    stops = [first, first + 20, len(whole) // 2, len(whole) - 25, len(whole) - 14]

    def script(wire: Wire, number: int) -> None:
        wire.read()
        body = whole[: stops[number % len(stops)]]
        wire.send(STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\n")
        wire.send(b"%x\r\n%b\r\n" % (len(body), body))
        time.sleep(0.02)  # so that a reset does not overtake the bytes
        cut_by(wire, how)

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url, "retries": 0}, breaker=EAGER)
        for number in range(len(stops) * len(STREAMED)):
            path = STREAMED[number // len(stops)]
            sent = {"model": "policy", "stream": True, **BODIES[path]}
            answer = running.client.post(path, json=sent)
            assert answer.status_code == 200
            assert b"error" in answer.content.split(b"\n\n")[-2]
            assert b"[DONE]" not in answer.content
            assert b"message_stop" not in answer.content
            record = running.records()[-1]
            assert (record.outcome, len(running.records())) == (Outcome.INCOMPLETE, number + 1)
            assert "broke off" in record.error
    wait_for(lambda: is_free(running))


@in_one_shell
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_whole_answer_that_is_cut_is_502(start: Callable[..., Running], how: str) -> None:
    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        wire.send(b'content-length: 100\r\n\r\n{"id":"x"')
        time.sleep(0.02)
        cut_by(wire, how)

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url}, breaker=EAGER)
        answer = running.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_broke_off")
        assert engine.connections == 1  # some of the answer was there: it is not asked again
    assert running.records()[0].outcome == Outcome.INCOMPLETE


@in_one_shell
def test_a_stream_that_ends_without_done_is_incomplete(running: Running) -> None:
    running.fake.fault = "no_done"
    for path in STREAMED:
        sent = {"model": "policy", "stream": True, **BODIES[path]}
        answer = running.client.post(path, json=sent)
        assert b"error" in answer.content.split(b"\n\n")[-2]
        assert running.records()[-1].outcome == Outcome.INCOMPLETE


@in_one_shell
def test_an_answer_that_is_not_http_is_502(start: Callable[..., Running]) -> None:
    with silent(b"SSH-2.0-OpenSSH_9.9\r\n") as (engine, left):
        running = start(upstream={"url": engine.url}, breaker=EAGER)
        assert running.chat().json()["error"]["code"] == "upstream_garbage"
        wait_for(lambda: left)
    assert running.records()[0].outcome == Outcome.FAILED


# -- U4: refusals ------------------------------------------------------------------------


def test_a_refusal_passes_and_is_asked_for_once(start: Callable[..., Running]) -> None:
    running = start(breaker=EAGER)
    for status in ("429", "500", "503"):
        running.fake.fault = status
        for path in RECORDED:
            answer = running.client.post(path, json={"model": "policy", **BODIES[path]})
            assert answer.status_code == int(status), path
            assert answer.headers.get("retry-after") == (None if status == "500" else "7")
            assert answer.json()["error"]["message"] == f"fault {status}"
            assert ("type" in answer.json()) == (path == "/v1/messages")
    assert asks(running.fake) == len(running.records()) == 3 * len(RECORDED)
    assert {record.outcome for record in running.records()} == {Outcome.FAILED}
    assert "ratchet_retries_total 0.0" in running.client.get("/metrics").text


@in_one_shell
def test_a_crowd_of_refusals_is_no_crowd_of_retries(start: Callable[..., Running]) -> None:
    running = start(breaker=EAGER)
    running.fake.fault = "503"
    statuses: list[int] = []

    def ask() -> None:
        statuses.extend(running.chat().status_code for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert statuses == [503] * 40
    assert asks(running.fake) == 40


# -- U5: garbage -------------------------------------------------------------------------

GOOD = b'data: {"id":"x","model":"base","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
LAST = (
    b'data: {"id":"x","model":"base","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
GARBAGE: dict[str, tuple[bytes, bool]] = {  # the stream, and whether it can be trusted
    "split utf-8": (GOOD % "é€😀".encode() + LAST + b"data: [DONE]\n\n", True),
    "crlf": ((GOOD % b"a" + LAST + b"data: [DONE]\n\n").replace(b"\n", b"\r\n"), True),
    "cr": ((GOOD % b"a" + LAST + b"data: [DONE]\n\n").replace(b"\n", b"\r"), True),
    "mixed ends": (GOOD % b"a" + LAST.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n", True),
    "comments": (b": ping\n\n" + GOOD % b"a" + b":\n\n" + LAST + b"data: [DONE]\n\n", True),
    "a long comment": (b":" + b" " * 10_000_000 + b"\n\n" + LAST + b"data: [DONE]\n\n", True),
    "bad json": (GOOD % b"a" + b"data: {oops\n\n" + LAST + b"data: [DONE]\n\n", False),
    "a NUL": (GOOD % b"a" + b"data: \x00\n\n" + LAST + b"data: [DONE]\n\n", False),
    "not utf-8": (GOOD % b"\xff\xfe" + LAST + b"data: [DONE]\n\n", False),
    "a line of 10 MB": (GOOD % (b"x" * 10_000_000) + LAST + b"data: [DONE]\n\n", False),
    "done twice": (GOOD % b"a" + LAST + b"data: [DONE]\n\ndata: [DONE]\n\n", True),
    "more after done": (GOOD % b"a" + LAST + b"data: [DONE]\n\n" + GOOD % b"b", True),
    "no blank line": (GOOD % b"a" + LAST + b"data: [DONE]", True),
    "only done": (b"data: [DONE]\n\n", False),
    "no choice": (GOOD % b"a" + b"data: []\n\n" + LAST + b"data: [DONE]\n\n", False),
}


@in_one_shell
@pytest.mark.parametrize("size", [1, 7, 60_000])
def test_an_odd_stream_passes_as_it_came_and_is_judged(
    start: Callable[..., Running], size: int
) -> None:
    cases = [name for name in GARBAGE if size > 1000 or len(GARBAGE[name][0]) < 10_000]

    def script(wire: Wire, number: int) -> None:
        body = GARBAGE[cases[number]][0]
        wire.read()
        wire.send(STREAM_HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        for start_ in range(0, len(body), size):
            piece = body[start_ : start_ + size]
            wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        wire.send(b"0\r\n\r\n")

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url})
        for name in cases:
            body, is_good = GARBAGE[name]
            answer = running.chat(model="base", stream=True)
            assert answer.content == body, name
            record = running.records()[-1]
            expected = Outcome.COMPLETE if is_good else Outcome.INCOMPLETE
            assert record.outcome == expected, name
    assert running.records()[0].choices[0].message["content"] == "é€😀"


@in_one_shell
def test_a_whole_answer_that_is_no_answer_passes_and_is_not_trained_on(
    start: Callable[..., Running],
) -> None:
    answers = [b"", b"null", b"[1]", b"{oops", b'{"choices":null}', b'{"choices":[1]}', b"\xff\x00"]

    def script(wire: Wire, number: int) -> None:
        for body in answers:
            wire.read()
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url})
        for body in answers:
            answer = running.chat()
            assert (answer.status_code, answer.content) == (200, body)
            assert running.records()[-1].outcome == Outcome.INCOMPLETE


@in_one_shell
def test_headers_of_an_upstream_cannot_pose_as_ours(start: Callable[..., Running]) -> None:
    extra = (
        b"x-ratchet-policy: policy@9\r\nx-ratchet-trajectory-id: other\r\nset-cookie: a=b\r\n"
        b"x-request-id: theirs\r\nconnection: x-hop\r\nx-engine: real\r\n"
    )

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + extra + b"\r\n{}")

    with RawServer(script).serve() as engine:
        headers = start(upstream={"url": engine.url}).chat().headers
    assert headers.get_list("x-ratchet-policy") == ["policy@0"]
    assert "other" not in headers.get_list("x-ratchet-trajectory-id")
    assert (headers["x-engine"], headers.get("set-cookie")) == ("real", None)
    assert json.dumps(headers.get_list("x-request-id")).startswith('["tr_')
