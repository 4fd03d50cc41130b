"""The pool: any split of an answer is the same answer, and no end of a connection is overlooked."""

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.outbox import Outbox
from gateway.upstreams.pool import (
    IDLE_SECONDS,
    MAX_HEAD_BYTES,
    Carrier,
    Connection,
    Pool,
    only_chunk,
)
from gateway.wire.headers import AnswerHead
from tests.fakes.wire import RawServer, Wire
from tests.gateway.test_sse import cut

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Heard:
    """A listener that writes down what it hears."""

    heads: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    body: bytes = b""
    ends: int = 0
    failures: list[str] = field(default_factory=list)
    carrier: Carrier | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    hangs_up_at: str = ""

    def on_head(self, head: AnswerHead) -> None:
        assert not self.body
        self.heads.append((head.status, head.headers))
        self._hang_up("head")

    def on_piece(self, piece: bytes, is_last: bool) -> None:
        assert self.heads
        assert not self.ends
        self.body += piece
        self.ends += is_last
        if is_last:
            assert self.carrier is None
            self.over.set()
        else:
            self._hang_up("piece")

    def on_failure(self, code: str, message: str) -> None:
        assert message
        self.failures.append(code)
        self.over.set()

    def _hang_up(self, place: str) -> None:
        if self.hangs_up_at == place:
            assert self.carrier is not None
            self.carrier.cancel()

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.over.wait()


class Counted(Heard):
    """Hears a large answer."""

    size = 0

    def on_piece(self, piece: bytes, is_last: bool) -> None:
        self.size += len(piece)
        super().on_piece(b"", is_last)


class Transport(asyncio.Transport):
    """Writes nothing, and says what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


class Line:
    """A connection on a transport that goes nowhere, of a pool to where nobody listens."""

    def __init__(self, pool: Pool | None = None) -> None:
        self.pool = pool or Pool("http://127.0.0.1:1", Outbox())
        self.connection = Connection(self.pool)
        self.transport = Transport()
        self.connection.connection_made(self.transport)

    @property
    def kept(self) -> list[Connection]:
        """What the pool was given back."""
        return list(self.pool._idle)

    def ask(self, heard: Heard) -> None:
        self.connection.send(heard, REQUEST)

    def feed(self, pieces: list[bytes]) -> None:
        """As a transport does: nothing more after an abort."""
        for piece in pieces:
            if not self.transport.is_aborted:
                self.connection.data_received(piece)


@dataclass(frozen=True)
class Written:
    """An answer, and what its listener should hear."""

    raw: bytes
    status: int
    body: bytes
    ends_by_close: bool
    is_kept: bool


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "X-Engine", "retry-after"]),
        st.text("abc/;=\t \u00e9", max_size=8),
    ),
    max_size=3,
)


@st.composite
def answers(draw: Any) -> Written:
    body: bytes = draw(st.binary(max_size=40))
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    status = draw(st.sampled_from([200, 404, 503]))
    lines = [f"{name}: {value.strip()}" for name, value in draw(HEADERS)]
    is_kept = kind != "close" and draw(st.booleans())
    if kind == "length":
        lines.append(f"Content-Length: {len(body)}")
        framed = body
    elif kind == "chunked":
        lines.append("transfer-encoding: chunked")
        chunks = [piece for piece in cut(body, draw(st.lists(st.integers(0, 40)))) if piece]
        extension = draw(st.sampled_from([b"", b"", b";x=1"]))
        framed = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in chunks)
        framed += b"0\r\n"
        framed += b"x-trailer: 1\r\n\r\n" if draw(st.booleans()) else b"\r\n"
    else:
        framed = body
    if kind != "close" and not is_kept:
        lines.append("Connection: close")
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    interim += draw(st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]))
    head = "\r\n".join([f"HTTP/1.1 {status} Some Reason", *lines]).encode("latin-1")
    raw = interim + head + b"\r\n\r\n" + framed
    return Written(raw, status, body, kind == "close", is_kept)


PLACES = st.lists(st.integers(0, 400), max_size=12)


@settings(max_examples=200, deadline=None)
@given(answers(), PLACES)
def test_any_split_of_an_answer_is_the_same_answer(answer: Written, places: list[int]) -> None:
    in_lines = [line + b"\r\n" for line in answer.raw.split(b"\r\n")]
    in_lines[-1] = in_lines[-1][:-2]
    whole_chunks = re.split(rb"(?<=\r\n)(?=[0-9A-F]+\r\n)", answer.raw)
    for pieces in (
        cut(answer.raw, places),
        [bytes([byte]) for byte in answer.raw],
        [line for line in in_lines if line],
        whole_chunks,
    ):
        line, heard = Line(), Heard()
        line.ask(heard)
        line.feed(pieces)
        if answer.ends_by_close:
            assert not heard.ends
            line.connection.connection_lost(None)
        assert (len(heard.heads), heard.ends, heard.failures) == (1, 1, [])
        assert (heard.heads[0][0], heard.body) == (answer.status, answer.body)
        names = [name for name, _ in heard.heads[0][1]]
        assert b"x-trailer" not in names
        assert b"link" not in names
        assert names == [name.lower() for name in names]
        assert bool(line.kept) == answer.is_kept
        if not answer.ends_by_close:
            assert line.transport.is_aborted != answer.is_kept


def knowing(head: bytes) -> Line:
    """A line that knows the head of an answer, as it has heard it before."""
    line = Line()
    while line.pool.known is None:
        heard = Heard()
        line.ask(heard)
        line.feed([head % 4 + b"body"])
        assert heard.body == b"body"
        line.pool._idle.clear()
    return line


HEAD = b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: %d\r\nX-Engine: y\r\n\r\n"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), PLACES)
def test_answers_with_a_known_head_are_heard_as_any_other(
    bodies: list[bytes], places: list[int]
) -> None:
    line = knowing(HEAD)
    for body in bodies:
        for head in (HEAD, HEAD.replace(b"x", b"z")):
            heard = Heard()
            line.ask(heard)
            line.feed(cut(head % len(body) + body, places))
            assert (heard.body, heard.ends, heard.failures) == (body, 1, [])
            assert heard.heads[0][0] == 200
            assert [name for name, _ in heard.heads[0][1]] == [
                b"server",
                b"content-length",
                b"x-engine",
            ]
            assert line.kept == [line.connection]
            line.pool._idle.clear()


def test_what_stands_behind_an_answer_with_a_known_head_closes_the_connection() -> None:
    line, heard = knowing(HEAD), Heard()
    line.ask(heard)
    line.feed([HEAD % 3 + b"abcd"])
    assert (heard.body, heard.ends) == (b"abc", 1)
    assert (line.kept, line.transport.is_aborted) == ([], True)


def test_an_answer_with_a_known_head_that_is_cut_off_is_a_failure() -> None:
    line, heard = knowing(HEAD), Heard()
    line.ask(heard)
    line.feed([HEAD % 9 + b"abc"])
    line.connection.connection_lost(None)
    assert (heard.body, heard.ends, heard.failures) == (b"abc", 0, ["upstream_broke_off"])


@pytest.mark.parametrize("place", ["head", "piece"])
def test_one_can_hang_up_on_an_answer_with_a_known_head(place: str) -> None:
    line, heard = knowing(HEAD), Heard(hangs_up_at=place)
    line.ask(heard)
    line.feed([HEAD % 9 + b"abc", b"def"])
    assert line.transport.is_aborted
    assert (heard.body, heard.ends, heard.failures) == (b"abc" if place == "piece" else b"", 0, [])


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"200 OK", b"404 Not Found"),
        HEAD.replace(b"server: x", b"connection: close"),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD,
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 4\r\n\r\n" + HEAD,
    ],
)
def test_a_head_is_known_only_of_an_answer_that_is_nothing_special(head: bytes) -> None:
    pool = Line().pool
    for _ in range(20):
        line, heard = Line(pool), Heard()
        line.ask(heard)
        line.feed([head % 4 + b"body"])
        assert heard.body == b"body"
    assert pool.known is None


@settings(max_examples=200, deadline=None)
@given(answers(), PLACES, st.integers(0, 400), st.booleans())
def test_an_answer_that_ends_early_is_a_failure_told_once(
    answer: Written, places: list[int], stop: int, is_reset: bool
) -> None:
    short = answer.raw[: stop % len(answer.raw)]
    line, heard = Line(), Heard()
    line.ask(heard)
    line.feed(cut(short, places) if short else [])
    line.connection.connection_lost(ConnectionResetError() if is_reset else None)
    assert len(heard.heads) <= 1
    assert answer.body.startswith(heard.body)
    if answer.ends_by_close and heard.heads and not is_reset:
        assert (heard.ends, heard.failures) == (1, [])
    else:
        assert (heard.ends, heard.failures) == (0, ["upstream_broke_off"])
    assert heard.carrier is None


@settings(max_examples=200, deadline=None)
@given(
    answers().filter(lambda answer: not answer.ends_by_close),
    st.one_of(st.binary(min_size=1, max_size=60), st.just(b"HTTP/1.1 200 OK\r\n\r\nnot asked for")),
    PLACES,
)
def test_what_stands_behind_an_answer_never_becomes_part_of_one(
    answer: Written, behind: bytes, places: list[int]
) -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    line.feed(cut(answer.raw + behind, places))
    assert (len(heard.heads), heard.ends, heard.failures) == (1, 1, [])
    assert (heard.heads[0][0], heard.body) == (answer.status, answer.body)
    is_blank = not behind.strip(b"\r\n")  # which HTTP allows
    assert is_blank or line.transport.is_aborted


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), PLACES)
def test_an_answer_that_is_not_http_is_a_failure_and_nothing_worse(
    raw: bytes, places: list[int]
) -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    line.feed(cut(raw, places) if raw else [])
    line.connection.connection_lost(None)
    assert len(heard.failures) + heard.ends == 1
    assert line.kept == []


@settings(max_examples=100, deadline=None)
@given(st.lists(answers().filter(lambda answer: answer.is_kept), min_size=2, max_size=4), PLACES)
def test_answers_follow_each_other_on_one_connection(
    several: list[Written], places: list[int]
) -> None:
    line = Line()
    for answer in several:
        heard = Heard()
        line.ask(heard)
        line.feed(cut(answer.raw, places))
        assert (len(heard.heads), heard.heads[0][0], heard.body) == (1, answer.status, answer.body)
        assert heard.ends == 1
    assert line.kept == [line.connection] * len(several)


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"


@pytest.mark.parametrize("place", ["head", "piece"])
def test_who_hangs_up_hears_nothing_more(place: str) -> None:
    for size in (1, 3, 1000):
        line, heard = Line(), Heard(hangs_up_at=place)
        line.ask(heard)
        raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n"
        line.feed([raw[start : start + size] for start in range(0, len(raw), size)])
        assert line.transport.is_aborted
        line.connection.connection_lost(None)
        assert heard.failures == []
        assert heard.body == (b"" if place == "head" else heard.body[:2])
        assert line.kept == []


def test_an_endless_head_is_a_failure() -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    line.feed([b"HTTP/1.1 200 OK\r\n", *[b"x-more: " + b"a" * 1000 + b"\r\n"] * 100])
    assert heard.failures == ["upstream_garbage"]
    assert line.connection._fed < MAX_HEAD_BYTES + 2000
    assert line.transport.is_aborted


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"content-length: four\r\n",
        b"content-length: -1\r\n",
        b"x-odd: a\x00b\r\n",
        b"no colon\r\n",
    ],
)
def test_a_head_that_says_two_things_is_a_failure(head: bytes) -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    line.feed([b"HTTP/1.1 200 OK\r\n" + head + b"\r\nbody"])
    assert heard.failures == ["upstream_garbage"]


def test_a_switch_of_protocols_is_a_failure() -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    raw = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nPRI"
    line.feed([raw])
    line.connection.connection_lost(None)
    assert len(heard.failures) == 1
    assert heard.heads == []


async def test_a_connection_that_went_stale_while_idle_is_replaced_once() -> None:
    line, heard = Line(), Heard()
    line.ask(Heard())
    line.feed([WHOLE])
    line.ask(heard)
    line.connection.connection_lost(ConnectionResetError())
    assert (heard.heads, heard.failures) == ([], [])
    await heard.ended()  # by a connection of its own, which nobody takes
    assert heard.failures == ["upstream_down"]

    line, heard = Line(), Heard()
    line.ask(Heard())
    line.feed([WHOLE])
    line.ask(heard)
    line.feed([b"HTTP/1.1 "])  # the server has seen the request: it may have acted on it
    line.connection.connection_lost(None)
    assert heard.failures == ["upstream_broke_off"]


# -- over sockets ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(script: Any) -> AsyncIterator[tuple[RawServer, Pool]]:
    with RawServer(script).serve() as server:
        async with pool_to(server.url) as pool:
            yield server, pool


@contextlib.asynccontextmanager
async def pool_to(url: str) -> AsyncIterator[Pool]:
    pool = Pool(url, Outbox())
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0.01)  # an abort takes a turn of the loop


async def ask(pool: Pool) -> Heard:
    heard = Heard()
    pool.send(heard, REQUEST)
    await heard.ended()
    return heard


async def test_a_connection_is_used_again_and_a_stale_one_replaced() -> None:
    def script(wire: Wire, number: int) -> None:
        for _ in range(2):  # then it closes
            wire.read()
            wire.send(WHOLE)

    async with serving(script) as (server, pool):
        for _ in range(5):
            heard = await ask(pool)
            assert (heard.body, heard.failures) == (b"body", [])
    assert server.connections == 3


async def test_a_server_that_closes_every_time_is_asked_twice_at_most() -> None:
    def script(wire: Wire, number: int) -> None:
        wire.read()
        if number == 0:
            wire.send(WHOLE)
            wire.read()
        wire.reset()

    async with serving(script) as (server, pool):
        await ask(pool)
        heard = await ask(pool)  # the idle connection is reset, then the fresh one
        assert heard.failures == ["upstream_broke_off"]
        await asyncio.sleep(0.05)
    assert server.connections == 2


async def test_what_was_idle_for_long_is_closed() -> None:
    left = []

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(WHOLE)
        left.append(wire.is_closed())

    async with serving(script) as (_, pool):
        await ask(pool)
        assert len(pool._idle) == 1
        pool.drop_idle(pool._idle[0].idle_since + IDLE_SECONDS - 0.1)
        assert len(pool._idle) == 1
        pool.drop_idle(pool._idle[0].idle_since + IDLE_SECONDS + 0.1)
        assert len(pool._idle) == 0
        async with asyncio.timeout(5):
            while not left:  # noqa: ASYNC110  (a thread tells)
                await asyncio.sleep(0.01)
    assert left == [True]


async def test_a_pause_stops_the_reading_and_a_resume_goes_on() -> None:
    """How much two sockets hold is the machine's business: so much is sent that they hold less."""
    sent = []
    is_enough = threading.Event()

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not is_enough.is_set():
            wire.send(b"x" * 65536)
            sent.append(65536)

    async with serving(script) as (_, pool):
        heard = Counted()
        pool.send(heard, REQUEST)
        while not heard.size:  # noqa: ASYNC110  (a thread sends)
            await asyncio.sleep(0.01)
        assert heard.carrier is not None
        heard.carrier.pause()
        heard.carrier.pause()  # saying it twice does no harm
        before, settled = heard.size, -1
        while settled != len(sent):
            settled = len(sent)
            await asyncio.sleep(0.5)
        assert heard.size == before
        assert sum(sent) > before
        heard.carrier.resume()
        heard.carrier.resume()
        is_enough.set()
        await heard.ended()
        assert heard.size == sum(sent)


async def test_a_cancelled_answer_closes_its_connection() -> None:
    left = []

    def script(wire: Wire, number: int) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
        left.append(wire.is_closed())

    async with serving(script) as (_, pool):
        heard = Heard()
        pool.send(heard, REQUEST)
        while not heard.body:  # noqa: ASYNC110  (a thread sends)
            await asyncio.sleep(0.01)
        assert heard.carrier is not None
        heard.carrier.cancel()
        async with asyncio.timeout(5):
            while not left:  # noqa: ASYNC110  (a thread tells)
                await asyncio.sleep(0.01)
    assert left == [True]
    assert heard.failures == []


async def test_a_request_that_is_cancelled_while_it_connects_is_never_sent() -> None:
    seen = []

    def script(wire: Wire, number: int) -> None:
        seen.append(wire.read())

    async with serving(script) as (_, pool):
        heard = Heard()
        pool.send(heard, REQUEST)
        carrier = cast(Carrier, heard.carrier)
        assert not carrier.is_open
        carrier.cancel()
        await asyncio.sleep(0.05)
    assert seen == []
    assert heard.failures == []


async def test_a_refused_connection_is_a_failure_with_its_reason() -> None:
    async with pool_to("http://127.0.0.1:9") as pool:
        heard = await ask(pool)
    assert heard.failures == ["upstream_down"]
    assert heard.carrier is None


async def test_a_connection_that_is_closed_as_soon_as_it_is_made_is_a_failure() -> None:
    async with serving(lambda wire, number: wire.reset()) as (_, pool):
        for _ in range(20):
            heard = await ask(pool)
            assert heard.failures in (["upstream_broke_off"], ["upstream_down"])
    line, heard = Line(), Heard()
    line.connection.connection_lost(None)
    line.ask(heard)
    assert (heard.failures, heard.carrier) == (["upstream_broke_off"], None)


async def test_an_upstream_with_tls_must_show_a_certificate_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        writer.write(WHOLE)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with pool_to(url) as pool:
            assert (await ask(pool)).failures == ["upstream_down"]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        async with pool_to(url) as pool:
            heard = await ask(pool)
    assert (heard.body, heard.failures) == (b"body", [])


def _certificate(directory: Path) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    path = directory / "server.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    place = ["-keyout", str(path), "-out", str(directory / "certificate.pem")]
    subprocess.run([openssl, "req", "-x509", *kind, *name, *place], check=True, capture_output=True)
    path.write_text(path.read_text() + (directory / "certificate.pem").read_text())
    return path


CHUNK = b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("received", "held"),
    [
        (CHUNK, b"hello"),
        (b'009\r\n{"a":\r\n}x\r\n', b'{"a":\r\n}x'),
        (b"0\r\n\r\n", None),  # the last
        (b"0\r\n", None),
        (CHUNK + CHUNK, None),
        (CHUNK[:-1], None),
        (CHUNK[1:], None),
        (b"6\r\nhello\r\n", None),
        (b"4\r\nhello\r\n", None),
        (b"+5\r\nhello\r\n", None),
        (b"5;x=1\r\nhello\r\n", None),
        (b"00000000005\r\nhello\r\n", None),
        (b"", None),
    ],
)
def test_a_chunk_that_came_alone_is_told_from_everything_else(
    received: bytes, held: bytes | None
) -> None:
    assert only_chunk(received) == held


def test_a_chunk_behind_half_a_size_is_no_chunk() -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    # The second begins with the 1 of "12": what follows looks like a chunk of two bytes.
    line.feed([head + CHUNK + b"1", b"2\r\nab\r\n", b"c" * 14 + b"\r\n", b"0\r\n\r\n"])
    assert (heard.body, heard.ends) == (b"helloab\r\n" + b"c" * 14, 1)


def test_chunks_that_come_singly_are_heard_one_by_one_and_leave_the_parser_in_step() -> None:
    line, heard = Line(), Heard()
    line.ask(heard)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    odd = b"5;x=1\r\nthere\r\n"
    line.feed([head, CHUNK, CHUNK, odd, CHUNK, odd[:4], odd[4:], CHUNK, b"0\r\n\r\n"])
    assert heard.body == b"hellohellotherehellotherehello"
    assert heard.ends == 1
    assert line.kept
