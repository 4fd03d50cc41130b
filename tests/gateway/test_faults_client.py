"""What clients do wrong, by raw sockets and before both shells (design: rows C1 to C5)."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.wire import Message, RawServer, Wire, wire_to
from tests.gateway.conftest import Running, wait_for
from tests.gateway.test_bodies import BAD
from trajectories.model import Outcome

only_our_protocol = pytest.mark.parametrize("shell", ["protocol"])

CHAT = "/v1/chat/completions"
DIALECTS = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
MEGABYTE = 1024 * 1024
CHUNKED = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def request(content: Any = None, *headers: str, path: str = CHAT, version: str = "1.1") -> bytes:
    """A request as bytes; `content` is a body, or a text to be said to the model."""
    if not isinstance(content, bytes):
        body = {"model": "policy", "messages": [{"role": "user", "content": content}]}
        content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "host: x", f"content-length: {len(content)}", *headers]
    return b"%b\r\n\r\n%b" % ("\r\n".join(lines).encode("latin-1"), content)


def streamed(content: str, **more: Any) -> bytes:
    body = {"model": "policy", "messages": [{"role": "user", "content": content}], **more}
    return json.dumps({**body, "stream": True}).encode()


def said(answer: Message) -> str:
    """What an answer in chat says, streamed or not."""
    assert answer.status == 200, answer.body
    if answer.headers["content-type"].startswith("application/json"):
        return str(json.loads(answer.body)["choices"][0]["message"]["content"])
    assert answer.body.endswith(b"data: [DONE]\n\n")
    events = [json.loads(event[6:]) for event in answer.body.split(b"\n\n")[:-2]]
    return "".join(choice["delta"].get("content") or "" for e in events for choice in e["choices"])


@pytest.fixture(params=["protocol", "twin"])
def shell(request: pytest.FixtureRequest) -> str:
    """Both shells, but where a test says otherwise."""
    return str(request.param)


@pytest.fixture
def echo(running: Running) -> Running:
    """A gateway before an engine that says what it was told."""
    running.fake.reply = lambda model, messages: str(messages[-1]["content"])
    return running


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# -- C1: the client hangs up -------------------------------------------------------------


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_hang_up_in_a_stream_cancels_the_upstream_and_is_recorded(
    running: Running, is_reset: bool
) -> None:
    running.fake.hold()
    with wire_to(running.url) as client:
        client.send(request(streamed("hi")))
        client.read_to(b"data: ")
        wait_for(lambda: running.fake.running == 1)
        client.reset() if is_reset else client.close()
    wait_for(lambda: running.fake.cancelled == 1)
    (record,) = wait_for(running.records)
    assert (record.outcome, record.http_status) == (Outcome.DISCONNECTED, 200)
    assert record.prompt_token_ids
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})
    assert running.services.exchanges == set()


@pytest.mark.parametrize("fault", ["hang_before", "hang_after"])
def test_a_hang_up_before_the_answer_frees_the_upstream(running: Running, fault: str) -> None:
    running.fake.fault = fault
    with wire_to(running.url) as client:
        client.send(request("hi"))
        wait_for(lambda: running.fake.requests)
    (record,) = wait_for(running.records)
    assert record.outcome == Outcome.DISCONNECTED
    assert record.choices == ()
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})
    running.fake.fault = None
    assert running.chat().status_code == 200


def test_a_hang_up_in_the_middle_of_a_request_is_no_call(running: Running) -> None:
    raw = request("hi")
    for stop in (10, raw.index(b"\r\n\r\n"), len(raw) - 1):
        with wire_to(running.url) as client:
            client.send(raw[:stop])
    assert running.chat().status_code == 200
    assert len(running.fake.requests) == len(running.records()) == 1


# -- C2: too much ------------------------------------------------------------------------


def push(client: Wire, piece: bytes, total: int) -> int:
    """Send `total` bytes for as long as the other side takes them; the largest growth of memory."""
    before, largest = resident_bytes(), 0
    with suppress(ConnectionError, TimeoutError):
        for _ in range(total // len(piece)):
            client.send(piece)
            largest = max(largest, resident_bytes() - before)
    return largest


def test_a_body_that_says_it_is_too_large_is_413_and_not_held(
    start: Callable[..., Running],
) -> None:
    running = start(gateway={"max_body_mb": 1})
    for path in (CHAT, "/v1/messages"):
        with wire_to(running.url) as client:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {100 * MEGABYTE}\r\n\r\n"
            client.send(head.encode())
            answer = client.read()
            assert answer.status == 413
            assert ("type" in json.loads(answer.body)) == (path == "/v1/messages")
            assert push(client, b"x" * 65536, 100 * MEGABYTE) < 40 * MEGABYTE
    assert running.chat().status_code == 200
    assert len(running.fake.requests) == 1


def test_a_chunked_body_without_an_end_is_413_and_not_held(start: Callable[..., Running]) -> None:
    running = start(gateway={"max_body_mb": 1})
    with wire_to(running.url) as client:
        client.send(CHUNKED)
        grown = push(client, b"10000\r\n" + b"x" * 65536 + b"\r\n", 100 * MEGABYTE)
        assert grown < 40 * MEGABYTE
        with suppress(ConnectionError):  # a reset may have overtaken the answer
            assert client.read().status == 413
    assert running.chat().status_code == 200


def test_a_body_of_the_largest_size_passes_and_one_byte_more_does_not(
    start: Callable[..., Running],
) -> None:
    running = start(gateway={"max_body_mb": 0.0625})
    body = {"model": "policy", "messages": [], "x": ""}
    body["x"] = "x" * (65536 - len(json.dumps(body)))
    raw = json.dumps(body).encode()
    with wire_to(running.url) as client:
        client.send(request(raw))
        assert client.read().status == 200
        client.send(request(raw + b" "))
        assert client.read().status == 413


def test_a_compressed_body_is_not_unpacked(running: Running) -> None:
    bomb = gzip.compress(b'{"model":"policy","messages":[],"x":"' + b"0" * (8 * MEGABYTE) + b'"}')
    with wire_to(running.url) as client:
        client.send(request(bomb, "content-encoding: gzip"))
        answer = client.read()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "bad_json")


# -- C3: too slow ------------------------------------------------------------------------


@pytest.fixture
def others(start: Callable[..., Running]) -> Iterator[Callable[..., Running]]:
    """Start a gateway whose other clients are served all the while."""
    ending, failed = threading.Event(), []

    def run(**gateway: Any) -> Running:
        running = start(gateway=gateway)
        running.chat()

        def ask() -> None:
            while not ending.wait(0.02):
                if running.chat().status_code != 200:
                    failed.append(1)

        threads.append(threading.Thread(target=ask))
        threads[0].start()
        return running

    threads: list[threading.Thread] = []
    yield run
    ending.set()
    threads[0].join(10)
    assert not failed


@only_our_protocol
def test_a_dribbled_head_ends_at_its_limit(others: Callable[..., Running]) -> None:
    running = others(header_seconds=0.3)
    with wire_to(running.url) as client:
        with suppress(ConnectionError):
            for byte in request("hi", "x-slow: " + "y" * 100):
                client.send(bytes([byte]))
                time.sleep(0.02)
                if client.socket in _readable(client):
                    break
        answer = client.read()
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (408, "header_timeout")
        assert client.is_closed()


def _readable(client: Wire) -> list[socket.socket]:
    client.socket.setblocking(False)
    try:
        return [client.socket] if client.socket.recv(1, socket.MSG_PEEK) else []
    except BlockingIOError:
        return []
    finally:
        client.socket.settimeout(10)


def test_a_stalled_body_ends_at_its_limit(others: Callable[..., Running]) -> None:
    running = others(body_seconds=0.3)
    for path in (CHAT, "/v1/messages"):
        with wire_to(running.url) as client:
            client.send(request("hi", path=path)[:-5])
            answer = client.read()
            assert answer.status == 408
            assert ("type" in json.loads(answer.body)) == (path == "/v1/messages")
            assert answer.headers["x-should-retry"] == "false"
            assert client.is_closed()


@only_our_protocol
def test_a_stalled_body_of_another_route_ends_as_well(others: Callable[..., Running]) -> None:
    running = others(body_seconds=0.3)
    for path in ("/v1/feedback", "/v1/files"):
        with wire_to(running.url) as client:
            client.send(request("hi", path=path)[:-5])
            assert client.is_closed()


@only_our_protocol
def test_an_idle_connection_is_closed_at_its_limit(others: Callable[..., Running]) -> None:
    running = others(keep_alive_seconds=0.3, header_seconds=0.3)
    with wire_to(running.url) as silent, wire_to(running.url) as used:
        used.send(request("hi"))
        assert used.read().status == 200
        used.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert used.read().status == 200
        assert used.is_closed()
        assert silent.is_closed()


@only_our_protocol
def test_a_connection_too_many_is_503_until_one_leaves(start: Callable[..., Running]) -> None:
    running = start(gateway={"max_connections": 2})
    with wire_to(running.url) as first:
        first.send(request("hi"))
        assert first.read().status == 200
        with wire_to(running.url) as second:
            second.send(request("hi"))
            assert second.read().status == 200
            with wire_to(running.url) as third:
                answer = third.read()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert third.is_closed()
        wait_for(lambda: len(running.services.connections) == 1)
        assert running.chat().status_code == 200
        first.send(request("hi"))
        assert first.read().status == 200


SAYS = json.dumps(
    {
        "id": "x",
        "model": "base",
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
    }
).encode()


@contextmanager
def answering(body: bytes) -> Iterator[RawServer]:
    """A server that says the same to everybody."""

    def script(wire: Wire, number: int) -> None:
        while wire.read():
            length = b"content-length: %d\r\n\r\n" % len(body)
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + length + body)

    with RawServer(script).serve() as server:
        yield server


EVENT = b'data: {"id":"x","model":"base","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'


class Torrent:
    """An upstream whose stream never ends, and how much of it was taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.is_cut = False

    def __call__(self, wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        event = EVENT % (b"x" * 16_000)
        try:
            while True:
                wire.send(event)
                self.taken += len(event)
        except OSError:
            self.is_cut = True

    def has_settled(self) -> bool:
        before = self.taken
        time.sleep(0.1)
        return 0 < before == self.taken


def test_a_client_that_does_not_read_stops_the_upstream_and_is_let_go(
    start: Callable[..., Running], shell: str
) -> None:
    torrent = Torrent()
    with RawServer(torrent).serve() as engine:
        running = start(upstream={"url": engine.url}, gateway={"write_seconds": 1})
        with wire_to(running.url, receive_bytes=4096) as client:
            client.send(request(streamed("hi")))
            wait_for(torrent.has_settled)
            assert torrent.taken < 32 * MEGABYTE  # the buffers of two sockets
            assert running.client.get("/healthz").status_code == 200
            (record,) = wait_for(running.records)
            assert (record.outcome, record.error) == (Outcome.DISCONNECTED, "read nothing for 1 s")
            wait_for(lambda: torrent.is_cut)
            if shell == "protocol":
                wait_for(lambda: len(running.services.connections) == 1)
            with suppress(ConnectionError):
                while client.socket.recv(65536):
                    pass  # what was in the buffers, and then the end


def test_a_client_that_reads_slowly_gets_all_of_it(start: Callable[..., Running]) -> None:
    count, event = 200, EVENT % (b"x" * 16_000)

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for _ in range(count):
            wire.send(event)
        wire.send(b"data: [DONE]\n\n")

    with RawServer(script).serve() as engine:
        running = start(upstream={"url": engine.url})
        with wire_to(running.url, receive_bytes=4096) as client:
            client.send(request(streamed("hi")))
            client.read_to(b"\r\n\r\n")
            size = 0
            for number, chunk in enumerate(client.chunks()):
                size += chunk.count(b"x" * 16_000)
                if number % 20 == 0:
                    time.sleep(0.01)
    assert size == count
    (record,) = running.records()
    assert record.choices[0].message["content"] == "x" * 16_000 * count


@only_our_protocol
def test_a_whole_answer_that_is_not_read_is_let_go(start: Callable[..., Running]) -> None:
    large = SAYS.replace(b"hi", b"x" * (16 * MEGABYTE))
    with answering(large) as engine:
        limits = {"write_seconds": 0.3, "keep_alive_seconds": 30}
        running = start(upstream={"url": engine.url}, gateway=limits)
        with wire_to(running.url, receive_bytes=4096) as client:
            client.send(request("hi"))
            (record,) = wait_for(running.records)
            assert record.outcome == Outcome.COMPLETE
            wait_for(lambda: running.services.connections == set())


# -- C4: malformed -----------------------------------------------------------------------


def check_refusal(path: str, answer: Message) -> None:
    assert answer.headers["content-type"] == "application/json"
    check_shape(path, json.loads(answer.body))


def check_shape(path: str, found: dict[str, Any]) -> None:
    if path == "/v1/messages":
        assert found["type"] == "error"
        assert {"type", "message"} <= set(found["error"])
    else:
        assert set(found["error"]) == {"message", "type", "param", "code"}


def test_a_bad_body_is_400_in_its_dialects_shape(running: Running) -> None:
    with wire_to(running.url) as client:
        for path in DIALECTS:
            for name, body in BAD.items():
                client.send(request(body, path=path))
                answer = client.read()
                assert answer.status == 400, (path, name, answer)
                check_refusal(path, answer)
    assert running.fake.requests == []
    assert running.records() == []


FIELDS = """model messages input prompt role content stream n tools function name type id text
arguments tool_calls max_tokens metadata session_id system instructions image_url"""
NAMES = st.sampled_from(FIELDS.split())
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8"), max_size=6),
        st.sampled_from(["user", "policy", "message", "text", "function_call", "tool_result"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda rest, said: json.dumps({**rest, "model": "policy", **said}).encode(),
        st.dictionaries(NAMES, JSON, max_size=3),
        st.fixed_dictionaries({}, optional={"messages": JSON, "input": JSON, "prompt": JSON}),
    ),
    st.builds(
        lambda message: json.dumps(
            {"model": "policy", "messages": [message], "input": [message], "max_tokens": 5}
        ).encode(),
        st.dictionaries(NAMES, JSON, max_size=4),
    ),
)


def test_no_body_at_all_is_ever_a_500(start: Callable[..., Running]) -> None:
    with answering(SAYS) as engine:
        running = start(upstream={"url": engine.url})
        with wire_to(running.url) as client:

            @settings(
                max_examples=150,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
                database=None,
            )
            @given(BODIES)
            def every_dialect_takes(body: bytes) -> None:
                for path in DIALECTS:
                    client.send(request(body, path=path))
                    answer = client.read()
                    assert answer.status in (200, 400), (path, answer)
                    if answer.status == 400:
                        check_refusal(path, answer)

            every_dialect_takes()


# -- C5: headers, and how requests are written -------------------------------------------

BAD_REQUESTS = {
    "a line feed in a header": request("hi", "x-a: b\nx-tenant: other"),
    "a carriage return in a header": request("hi", "x-a: b\rx-tenant: other"),
    "a NUL in a header": request("hi", "x-a: b\x00c"),
    "a NUL in a name": request("hi", "x\x00a: b"),
    "a space before the colon": request("hi", "x-a : b"),
    "no colon": request("hi", "x-a"),
    "a folded header": request("hi", "x-a: b", " c"),
    "two lengths": request("hi", "content-length: 3"),
    "a length and chunks": request("hi", "transfer-encoding: chunked"),
    "a length that is none": b"POST /v1/messages HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    "a negative length": b"POST /v1/messages HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "a chunk that is none": CHUNKED + b"x\r\n",
    "an unknown method": b"POKE /v1/messages HTTP/1.1\r\n\r\n",
    "an odd version": b"POST /v1/messages HTTP/9.9\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


def test_what_is_not_http_is_400_and_closed(running: Running, shell: str) -> None:
    for name, raw in BAD_REQUESTS.items():
        with wire_to(running.url) as client:
            client.send(raw)
            answer = client.read()
            assert answer.status == 400, name
            if shell == "protocol":
                assert json.loads(answer.body)["error"]["code"] == "bad_http"
            assert client.is_closed()
    assert running.fake.requests == []


@only_our_protocol
def test_a_head_that_is_too_large_is_431(running: Running) -> None:
    many = [f"x-{number}: {'y' * 1000}" for number in range(70)]
    for path in (CHAT, "/healthz"):
        large = request("hi", "x-large: " + "y" * 70_000, path=path)
        endless = large.partition(b"\r\n\r\n")[0]
        for raw in (large, endless, request("hi", *many, path=path)):
            with wire_to(running.url) as client:
                client.send(raw)
                assert client.read().status == 431
                assert client.is_closed()
    assert running.fake.requests == []


@only_our_protocol
def test_a_large_body_is_no_large_head(running: Running) -> None:
    with wire_to(running.url) as client:
        for _ in range(2):
            client.send(request("x" * 200_000))
            assert client.read().status == 200


def test_reserved_headers_of_a_client_change_nothing(running: Running) -> None:
    plain = running.chat()
    reserved = {
        "x-tenant": "other",
        "x-trajectory-id": "tj-other",
        "x-ratchet-tenant": "other",
        "x-ratchet-trajectory-id": "tj-other",
        "x-ratchet-policy": "policy@7",
        "x-ratchet-key": "admin",
    }
    answer = running.chat(headers=reserved)
    assert answer.status_code == 200
    seen = running.fake.requests[-1].headers
    assert not [name for name in seen if name.startswith("x-ratchet") or name in reserved]
    before, after = running.records()
    assert (before.tenant, before.policy_version, before.key) == (
        after.tenant,
        after.policy_version,
        after.key,
    )
    assert "other" not in after.trajectory_id
    assert answer.headers["x-ratchet-policy"] == plain.headers["x-ratchet-policy"]


def test_headers_of_one_hop_are_not_passed_on(running: Running) -> None:
    for listed in ("x-hop", "keep-alive, x-hop", "X-Hop, close"):
        with wire_to(running.url) as client:
            own = ("x-hop: 1", "te: trailers", "x-own: 1")
            client.send(request("hi", f"connection: {listed}", *own))
            assert client.read().status == 200
        seen = running.fake.requests[-1].headers
        assert seen["x-own"] == "1"
        assert not {"x-hop", "te", "connection"} & set(seen), listed


def test_requests_in_one_packet_are_answered_in_their_order(echo: Running) -> None:
    hot = [request(f"say {number}") for number in range(5)]
    stream = request(streamed("a stream"))
    healthz = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    bad = request(b"{oops")
    orders: list[list[bytes]] = [
        hot[:2],
        hot,
        [hot[0], healthz],
        [healthz, hot[0]],
        [healthz, hot[0], healthz, hot[1], hot[2]],
        [stream, hot[0], stream],
        [bad, hot[0], bad, healthz],
        [hot[0], stream, bad, hot[1]],
    ]
    with wire_to(echo.url) as client:
        for order in orders * 2:
            client.send(b"".join(order))
            for sent in order:
                answer = client.read()
                if sent is healthz:
                    assert (answer.status, answer.headers.get("x-request-id")) == (200, None)
                elif sent is bad:
                    assert answer.status == 400
                else:
                    expected = "a stream" if sent is stream else f"say {hot.index(sent)}"
                    assert said(answer) == expected


def test_a_request_sent_during_an_answer_waits_for_it(echo: Running) -> None:
    echo.fake.hold()
    with wire_to(echo.url) as client:
        client.send(request(streamed("the first")))
        client.read_to(b"\r\n\r\n")
        second = request("the second")
        client.send(second[:20])
        client.send(second[20:])
        client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        echo.fake.let_go()
        assert b"first" in b"".join(client.chunks())
        assert said(client.read()) == "the second"
        assert client.read().status == 200


def test_a_request_may_come_in_any_two_pieces(echo: Running) -> None:
    with wire_to(echo.url) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = request("in pieces")
        for place in range(1, len(raw)):
            client.send(raw[:place])
            time.sleep(0.0005)
            client.send(raw[place:])
            assert said(client.read()) == "in pieces", place
        chunked = raw.partition(b"\r\n\r\n")[2]
        bytewise = b"".join(b"1\r\n%c\r\n" % byte for byte in chunked) + b"0\r\n\r\n"
        for byte in CHUNKED + bytewise:
            client.send(bytes([byte]))
        assert said(client.read()) == "in pieces"


def test_connections_are_kept_or_closed_as_the_client_says(echo: Running) -> None:
    with wire_to(echo.url) as client:
        for number in range(3):
            client.send(request(f"say {number}"))
            answer = client.read()
            assert said(answer) == f"say {number}"
            assert "connection" not in answer.headers
        client.send(request("the last", "Connection: close"))
        answer = client.read()
        assert (said(answer), answer.headers["connection"]) == ("the last", "close")
        assert client.is_closed()
    with wire_to(echo.url) as client:
        client.send(request(streamed("the last"), "connection: close"))
        assert said(client.read()) == "the last"
        assert client.is_closed()
    with wire_to(echo.url) as client:
        client.send(request("old", version="1.0"))
        assert said(client.read()) == "old"
        assert client.is_closed()


def test_nothing_is_answered_behind_the_last_answer(echo: Running) -> None:
    for first in (request("the last", "connection: close"), request(b"{oops", "connection: close")):
        count = len(echo.fake.requests) + (b"oops" not in first)
        with wire_to(echo.url) as client:
            client.send(first + request("never"))
            assert client.read().headers["connection"] == "close"
            assert client.is_closed()
        assert len(echo.fake.requests) == count


@only_our_protocol
def test_a_request_with_nonsense_behind_it_is_answered(echo: Running) -> None:
    with wire_to(echo.url) as client:
        client.send(request("before the nonsense") + b"\x00\x01\x02\r\n\r\n")
        assert said(client.read()) == "before the nonsense"
        assert client.is_closed()


def test_a_client_that_waits_for_100_continue_gets_it(echo: Running) -> None:
    raw = request("go on", "Expect: 100-continue")
    head, _, body = raw.partition(b"\r\n\r\n")
    with wire_to(echo.url) as client:
        for _ in range(2):
            client.send(head + b"\r\n\r\n")
            assert client.read_to(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            assert said(client.read()) == "go on"
            client.send(request("plain"))
            assert said(client.read()) == "plain"


def test_another_method_is_405_and_says_which_is_allowed(running: Running) -> None:
    for path in DIALECTS:
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = running.client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), (method, path)
            check_shape(path, answer.json())
        assert running.client.head(f"/t/s1{path}").status_code == 405
    assert running.fake.requests == []


def test_an_absolute_url_is_the_same_call(echo: Running) -> None:
    with wire_to(echo.url) as client:
        client.send(request("absolute", path=f"http://example.org/t/s1{CHAT}?session=s2"))
        assert said(client.read()) == "absolute"
    (record,) = echo.records()
    assert record.session_id == "s1"


def test_an_odd_path_is_no_500(running: Running) -> None:
    paths = ["/", "*", "//", f"/t/{CHAT}", "/%00", "/v1/%ff", f"{CHAT}%00", f"/..{CHAT}"]
    paths += ["?", "/v1/\xff", "http://", "http:///", "//v1/chat"]
    for path in paths:
        with wire_to(running.url) as client:
            client.send(request("hi", path=path))
            answer = client.read()
            assert 400 <= answer.status < 500, (path, answer)


def test_a_body_that_was_not_read_is_not_taken_for_the_next_head(
    start: Callable[..., Running],
) -> None:
    running = start(gateway={"api_key": "ours"})
    with wire_to(running.url) as client:
        for path in ("/v1/feedback", "/training/trigger", "/v1/audio/speech"):
            client.send(request("x" * 300_000, "authorization: Bearer wrong", path=path))
            assert client.read().status == 401
            client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.read().status == 200
