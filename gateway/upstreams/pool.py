"""HTTP/1.1 to one server over kept-alive connections: the hot path's client.

Callbacks instead of coroutines: an answer's bytes reach its listener in the
same turn of the event loop in which they arrive. One request at a time on a
connection, no redirects, no decompression, no retries but one: a connection
that went stale while it lay idle is replaced, as its server never saw the
request.
"""

import asyncio
import ssl
import time
from collections import deque
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from gateway.outbox import Outbox
from gateway.wire.headers import AnswerHead, RawHeaders
from gateway.wire.known_head import KnownAnswer, known_answer

MAX_HEAD_BYTES = 64 * 1024
# uvicorn (and so vLLM) closes idle connections after 5 s: let go of them well before.
IDLE_SECONDS = 2.0

_LONGEST_SIZE = 10  # of a chunk, as it is written
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_LEARN_EVERY = 8  # answers with another head: one that is never the same is not worth more


class Carrier(Protocol):
    """What carries one answer; a listener may stop it at any time."""

    @property
    def is_open(self) -> bool:
        """Whether the upstream was reached."""

    def cancel(self) -> None:
        """The answer is not wanted any more: hang up. The listener hears nothing more."""

    def pause(self) -> None:
        """Read no more until `resume`."""

    def resume(self) -> None:
        """Go on reading."""


class Listener(Protocol):
    """Who hears an answer: `on_head` once, `on_piece`s, then `on_end`; or `on_failure`."""

    carrier: Carrier | None

    def on_head(self, head: AnswerHead) -> None:
        """The status line and the headers."""

    def on_piece(self, piece: bytes, is_last: bool) -> None:
        """Bytes of the body; `is_last` ends the answer (and may come with none)."""

    def on_failure(self, code: str, message: str) -> None:
        """The answer will not come, or not any further."""


def only_chunk(received: bytes) -> bytes | None:
    """What is in a chunk of a chunked body, where `received` is that chunk and no more.

    None: let the parser see. The last chunk, which is empty, is for the parser too.
    """
    start = received.find(b"\r\n", 0, _LONGEST_SIZE) + 2
    size = received[: start - 2]
    if start < 3 or size.translate(None, _HEX_DIGITS) or not received.endswith(b"\r\n"):
        return None
    length = int(size, 16)
    return received[start:-2] if length and len(received) == start + length + 2 else None


class Connection:
    """One connection, idle or with one answer on it. An `asyncio.Protocol` in all but name.

    (A class without a base is compiled to one whose attributes cost nothing.)
    """

    __slots__ = (
        "_fed",
        "_first",
        "_has_head",
        "_head",
        "_headers",
        "_is_announced",
        "_is_between_chunks",
        "_is_complete",
        "_is_delimited",
        "_is_kept",
        "_is_reused",
        "_listener",
        "_missing",
        "_parser",
        "_pieces",
        "_pool",
        "_request",
        "_status",
        "_transport",
        "idle_since",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._listener: Listener | None = None
        self._request = b""
        self._is_reused = False
        self.idle_since = 0.0

    # -- what the pool does --------------------------------------------------------

    def send(self, listener: Listener, request: bytes) -> None:
        """Write a request; `listener` hears the answer."""
        if self._transport is None:  # closed as soon as it was made
            listener.carrier = None
            listener.on_failure("upstream_broke_off", "the upstream broke off before its answer")
            return
        self._listener = listener
        listener.carrier = self
        self._request = request
        self._pieces: list[bytes] = []
        self._headers: RawHeaders = []
        self._has_head = self._is_announced = self._is_complete = self._is_delimited = False
        self._is_between_chunks = False
        self._status = self._fed = self._missing = 0
        self._pool.outbox.write(self._transport, request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- what the listener does ----------------------------------------------------

    @property
    def is_open(self) -> bool:
        return True

    def cancel(self) -> None:
        self._listener = None
        self.close()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # -- what the transport does ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        listener = self._listener
        if listener is None:  # nothing was asked: no server does that
            self.close()
            return
        if self._is_between_chunks and (piece := only_chunk(data)) is not None:
            listener.on_piece(piece, False)  # a token that came singly: the parser may rest
            return
        if self._missing:
            self._take_known(listener, data)
            return
        if not self._has_head:
            known = self._pool.known
            if not self._fed:
                if known is not None and self._begin_known(listener, known, data):
                    return
                self._first = data
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._is_complete:
                self._fail("upstream_garbage", f"the upstream's answer is not HTTP: {error}")
                return
            self._is_kept = False  # the answer is whole, and something stands behind it
        # Half of the next one's size may have followed, of which nothing is heard.
        self._is_between_chunks = self._is_between_chunks and data.endswith(b"\r\n")
        if not self._has_head:
            if self._fed > MAX_HEAD_BYTES:
                self._fail("upstream_garbage", "the upstream's headers do not end")
            return
        self._deliver(listener)

    def eof_received(self) -> None:
        return None  # closes the transport; `connection_lost` decides what it means

    def pause_writing(self) -> None:
        pass  # a request is written once, and whole

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        listener, self._listener = self._listener, None
        if listener is None:
            self._pool.forget(self)
        elif self._has_head and not self._is_delimited and exc is None:
            listener.carrier = None
            listener.on_piece(b"", True)  # an answer without a length ends with its connection
        elif self._is_reused and not self._fed:
            self._pool.send_afresh(listener, self._request)
        else:
            listener.carrier = None
            when = "in the middle of" if self._has_head else "before"
            listener.on_failure("upstream_broke_off", f"the upstream broke off {when} its answer")

    # -- what the parser does ------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("there is more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # behind the body stand trailers, which nobody asked for
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:  # an interim answer: the real one follows
            self._headers = []
            return
        self._has_head = True
        for name, _ in self._headers:
            if name in (b"content-length", b"transfer-encoding"):
                self._is_delimited = True

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_chunk_header(self) -> None:
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self._is_between_chunks = True

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            self._is_kept = self._is_delimited and self._parser.should_keep_alive()

    # -- inside --------------------------------------------------------------------

    def _begin_known(self, listener: Listener, known: KnownAnswer, data: bytes) -> bool:
        """Take an answer whose head was parsed before; False: it has another."""
        start, length = known.cut.body_at(data)
        if not length:
            return False
        self._fed = len(data)
        self._missing = length
        self._has_head = self._is_delimited = self._is_kept = True
        listener.on_head(known.head)
        if self._listener is listener:  # else it has hung up, or asked anew
            self._take_known(listener, data[start:])
        return True

    def _take_known(self, listener: Listener, piece: bytes) -> None:
        """A piece of the body that goes with a known head."""
        missing = self._missing - len(piece)
        if missing < 0:
            self._is_kept = False  # something stands behind the answer
            piece = piece[:missing]
            missing = 0
        self._missing = missing
        if not missing:
            self._listener = None
            listener.carrier = None
            self._leave()
        if piece:
            listener.on_piece(piece, not missing)

    def _deliver(self, listener: Listener) -> None:
        if not self._is_announced:
            self._is_announced = True
            self._head = AnswerHead(self._status, self._headers)
            listener.on_head(self._head)
            if self._listener is not listener:  # it has hung up, or asked anew
                return
        pieces = self._pieces
        if self._is_complete:
            self._listener = None
            listener.carrier = None
            if self._is_kept:
                self._pool.learn(self._first, self._head)
            self._leave()
        elif not pieces:
            return
        else:
            self._pieces = []
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        listener.on_piece(piece, self._is_complete)

    def _leave(self) -> None:
        """The answer is whole: the connection waits for the next, or closes."""
        self._request = self._first = b""
        if self._is_kept:
            self._is_reused = True
            self._pool.keep(self)
        else:
            self.close()

    def _fail(self, code: str, message: str) -> None:
        listener, self._listener = self._listener, None
        self.close()
        if listener is not None:
            listener.carrier = None
            listener.on_failure(code, message)


class _Opening:
    """A connection being made for a request that waits."""

    def __init__(self, pool: "Pool", listener: Listener, request: bytes) -> None:
        self._pool = pool
        self._listener: Listener | None = listener
        self._request = request
        self._is_paused = False
        listener.carrier = self
        self._task = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            connection = await self._pool.connect()
        except OSError as error:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.carrier = None
                text = error.strerror or type(error).__name__
                listener.on_failure("upstream_down", f"the upstream cannot be reached: {text}")
            return
        if self._listener is None:
            connection.close()
            return
        connection.send(self._listener, self._request)
        if self._is_paused:
            connection.pause()

    @property
    def is_open(self) -> bool:
        return False

    def cancel(self) -> None:
        self._listener = None
        self._task.cancel()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False


class Pool:
    """The connections to one server. Use it from one event loop."""

    def __init__(self, url: str, outbox: Outbox) -> None:
        self.outbox = outbox
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._idle: deque[Connection] = deque()
        self.known: KnownAnswer | None = None
        self._unknown = 0
        self.base_path = parts.path.rstrip("/").encode()
        is_usual = parts.port is None or parts.port == (443 if self._tls else 80)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.host = (host if is_usual else f"{host}:{self._port}").encode()

    def send(self, listener: Listener, request: bytes) -> None:
        """Send a whole request (head and body); sets the listener's carrier."""
        if self._idle:
            self._idle.pop().send(listener, request)
        else:
            _Opening(self, listener, request)

    def send_afresh(self, listener: Listener, request: bytes) -> None:
        """Send over a connection that never lay idle."""
        _Opening(self, listener, request)

    def keep(self, connection: Connection) -> None:
        """A connection is free for the next request."""
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def learn(self, received: bytes, head: AnswerHead) -> None:
        """An answer has begun with `received`, and was parsed: know its head again."""
        self._unknown += 1
        if self._unknown >= _LEARN_EVERY and (found := known_answer(received, head)) is not None:
            self._unknown = 0
            self.known = found

    def forget(self, connection: Connection) -> None:
        """A connection is gone; it may have lain idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self) -> Connection:
        """A new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: cast(asyncio.Protocol, Connection(self)),
            self._host,
            self._port,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return cast(Connection, connection)

    def drop_idle(self, now: float) -> None:
        """Close what has been idle for long; called every fraction of a second."""
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            self._idle.popleft().close()

    def close(self) -> None:
        while self._idle:
            self._idle.popleft().close()
