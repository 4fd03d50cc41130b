"""uvicorn's HTTP protocol with the calls of models answered inside it.

No ASGI task, no message dictionaries, one write an answer: that is most of
what a request costs. Everything else runs through to the ASGI app untouched,
and so do pipelined, upgraded and `Expect`ing requests; `twin.py` answers the
same calls there. It leans on uvicorn's internals: its version is pinned, and
`tests/gateway/test_protocol.py` holds the methods that are overridden.

It also holds the limits that uvicorn lacks: the size of a head and of a body,
how long each may take, how long a connection may be idle, and how many there
may be. Use it as `uvicorn --http gateway.wire.protocol:HotProtocol`.
"""

import asyncio
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.access import Caller
from gateway.dialects.asking import error_body
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.outbox import Outbox
from gateway.reception import admit
from gateway.services import STATE, Services
from gateway.wire.bodies import too_large, whole_number
from gateway.wire.headers import RequestHeaders, read_headers
from gateway.wire.hot import HotPath
from gateway.wire.known_head import KnownHead, known_head
from trajectories.settings import Dialect

MAX_HEAD_BYTES = 64 * 1024
_PIPELINED_BYTES = 64 * 1024
_LINGER_SECONDS = 2.0
_MANY_PIECES = 1000
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_NEVER = float("inf")


def reply_bytes(error: ApiError, body: bytes) -> bytes:
    """An error as the last answer on a connection."""
    line = STATUS_LINE[error.status]
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (line, error.head, len(body), _CLOSE, body)


def _headers_too_large() -> ApiError:
    text = f"the headers are larger than {MAX_HEAD_BYTES} bytes"
    return ApiError(431, "headers_too_large", text)


class _Deaf:
    """Stands where uvicorn keeps an event that nobody waits for."""

    def set(self) -> None:
        pass


class HotCycle:
    """One call on a connection: its request as it comes in, and the client of its exchange.

    It stands where uvicorn keeps its own `RequestResponseCycle`, with the
    attributes that the protocol looks at.
    """

    __slots__ = (
        "_caller",
        "_headers",
        "_outbox",
        "_path",
        "_protocol",
        "_size",
        "body",  # uvicorn's own cycle has one
        "disconnected",
        "exchange",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    message_event: ClassVar[_Deaf] = _Deaf()
    body: bytes

    def __init__(
        self,
        protocol: "HotProtocol",
        outbox: Outbox,
        path: HotPath,
        headers: RequestHeaders,
        *,
        keep_alive: bool,
    ) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._path = path
        self._headers = headers
        self._caller: Caller | None = None
        self._size = 0
        self.pieces: list[bytes] = []
        self.response_complete = self.disconnected = False
        self.keep_alive = keep_alive
        self.exchange: Exchange | None = None

    # -- the request ---------------------------------------------------------------

    def add(self, piece: bytes, limit_bytes: int) -> None:
        """A piece of the body."""
        self._size += len(piece)
        if self._size > limit_bytes:
            self.refuse(too_large(limit_bytes))
            return
        self.pieces.append(piece)
        if len(self.pieces) >= _MANY_PIECES:  # a body in crumbs: each costs more than it holds
            self.pieces = [b"".join(self.pieces)]

    def admit(self, services: Services) -> bool:
        """Whether its caller may ask; if not, it was told."""
        try:
            self._caller = admit(self._headers, services)
        except ApiError as error:
            self.refuse(error)
            return False
        return True

    def start(self, services: Services, body: bytes) -> None:
        """The request is whole."""
        assert self._caller is not None, "a call is admitted before its body is taken in"
        self.exchange = exchange = Exchange(services, self)
        exchange.start(self._path, self._headers, self._caller, body)

    def seen(self) -> tuple[HotPath, RequestHeaders]:
        """What its head meant."""
        return self._path, self._headers

    def refuse(self, error: ApiError) -> None:
        """Answer before the request is whole; what still comes of it is thrown away."""
        self.keep_alive = False
        self.response_complete = True
        self._write(reply_bytes(error, error_body(self._path.dialect, error, "")))
        self._protocol.linger(self._path.dialect, error.status)

    # -- the client of the exchange ------------------------------------------------

    def reply(self, status: int, head: bytes, body: bytes) -> None:
        closing = b"" if self.keep_alive else _CLOSE
        self._write(
            b"%b%bcontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINE[status], head, len(body), closing, body)
        )
        self._end()

    def begin(self, status: int, head: bytes, piece: bytes) -> None:
        closing = b"" if self.keep_alive else _CLOSE
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        self._write(b"%b%b%b%b%b" % (STATUS_LINE[status], head, closing, _CHUNKED, chunk))

    def write(self, piece: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self, piece: bytes) -> None:
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n")
        self._end()

    def abort(self) -> None:
        self.response_complete = True
        self.exchange = None
        self._protocol.transport.abort()

    def _write(self, content: bytes) -> None:
        if not self.disconnected:
            self._outbox.write(self._protocol.transport, content)

    def _end(self) -> None:
        self.response_complete = True
        # The two know each other: left so, all that a call held would wait for the collector.
        self.exchange = None
        self._protocol.hot_done(self)


class HotProtocol(HttpToolsProtocol):
    """One connection of a client. Without our services in the lifespan's state: plain uvicorn."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._services: Services | None = self.app_state.get(STATE)
        self._receiving: HotCycle | None = None  # a call whose body is coming in
        self._hot: HotCycle | None = None  # a call that is being answered
        self._is_in_head = False  # the parser stands in the middle of one
        self._is_in_body = False  # the parser has read a head and waits for the message's end
        self._fed = 0  # bytes of a head that has not ended
        self._pending: list[bytes] = []
        self._chunk = b""  # what is being parsed, where a request begins with it
        self._known: KnownHead | None = None
        self._deadline = _NEVER
        self._write_deadline = _NEVER  # while the client does not read

    # -- the connection ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        services = self._services
        if services is None:
            return
        limits = services.settings.gateway
        services.connections.add(self)
        if len(self.connections) > limits.max_connections:
            error = ApiError(503, "too_many_connections", "too many connections", retry_after=1)
            self._refuse_connection(error)
        else:
            self._deadline = time.monotonic() + limits.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        if self._services is not None:
            self._services.connections.discard(self)
        hot, self._hot, self._receiving = self._hot, None, None
        if hot is not None:
            hot.disconnected = True
        super().connection_lost(exc)
        if hot is not None and hot.exchange is not None:
            hot.exchange.on_client_left()

    def eof_received(self) -> None:
        self._flush()  # then the transport closes

    def shutdown(self) -> None:
        """As uvicorn's: the server stops."""
        self._flush()
        super().shutdown()

    def on_tick(self, now: float) -> None:
        """Close a connection that has kept us waiting; called every fraction of a second."""
        if now < self._deadline and now < self._write_deadline:
            return
        receiving = self._receiving
        if now >= self._write_deadline or self.transport.is_closing():
            self.transport.abort()  # it does not read what it was sent
        elif receiving is not None and not receiving.response_complete:
            receiving.refuse(ApiError(408, "body_timeout", "the body did not arrive in time"))
            self._close()
        elif self._fed:
            error = ApiError(408, "header_timeout", "the headers did not arrive in time")
            self._refuse_connection(error)
        else:
            self._close()

    def data_received(self, data: bytes) -> None:
        if self._hot is not None or self._pending:
            # The next request, sent before this one was answered: it waits.
            self._pending.append(data)
            if sum(map(len, self._pending)) > _PIPELINED_BYTES:
                self.flow.pause_reading()
            return
        is_free = self.cycle is None or self.cycle.response_complete
        is_head = self._is_in_head or (is_free and not self._is_in_body)
        if is_head and self._services is not None:
            if is_free and not self._is_in_head and not self._fed:
                known = self._known
                if known is not None and (body := known.body_of(data)) is not None:
                    self._start_known(known, body, self._services)
                    return
                self._chunk = data  # a request that begins here
            self._count_head(self._services, len(data))
        super().data_received(data)
        self._chunk = b""
        if self._fed > MAX_HEAD_BYTES:
            if is_free:
                self._refuse_connection(_headers_too_large())
            else:
                self.transport.abort()  # another answer is on its way: there is no room to refuse

    def _start_known(self, known: KnownHead, body: bytes, services: Services) -> None:
        """A whole request whose head was parsed before."""
        self._deadline = _NEVER
        cycle = HotCycle(self, services.outbox, known.path, known.headers, keep_alive=True)
        self.cycle = cycle  # type: ignore[assignment]
        if len(body) > services.max_body_bytes:
            cycle.refuse(too_large(services.max_body_bytes))
        elif cycle.admit(services):
            self._hot = cycle
            cycle.start(services, body)
            self._hold_back(cycle)
        if not cycle.keep_alive and cycle.exchange is None:
            self._close()  # it was refused, and nothing of it is left to read

    def _hold_back(self, cycle: HotCycle) -> None:
        """The client may still not have read the answer before: asyncio does not say it again."""
        if self.flow.write_paused and cycle.exchange is not None:
            cycle.exchange.on_client_full()

    def _count_head(self, services: Services, size: int) -> None:
        if not self._fed:
            self._deadline = time.monotonic() + services.settings.gateway.header_seconds
        self._fed += size

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in the shape that SDKs read."""
        if self._hot is not None:
            self._hot.keep_alive = False  # what came before the nonsense is answered first
            return
        self._refuse_connection(ApiError(400, "bad_http", msg))

    def _refuse_connection(self, error: ApiError) -> None:
        self._fed = 0
        self._flush()
        if not self.transport.is_closing():
            self.transport.write(reply_bytes(error, error.body))
            self._close()

    def _close(self) -> None:
        """Close once the client has read what was written, and that within its limit."""
        if self._services is not None:
            self._deadline = time.monotonic() + self._services.settings.gateway.write_seconds
        self._flush()
        self.transport.close()

    def _flush(self) -> None:
        """What was answered goes before what is done to the connection."""
        if self._services is not None:
            self._services.outbox.flush()

    def linger(self, dialect: Dialect, status: int) -> None:
        """Read on for a moment: closing at once could reset what the client has not read yet."""
        if self._services is not None:
            self._services.metrics.calls.add(dialect, status, 0.0)
        self._deadline = time.monotonic() + _LINGER_SECONDS

    # -- the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_in_head = True
        # uvicorn makes the ASGI scope here; a call needs none.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        services = self._services
        self._is_in_head, self._is_in_body = False, True
        fed, self._fed = self._fed, 0
        if services is not None:
            if fed > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
                self._refuse_connection(_headers_too_large())
            if self.transport.is_closing():
                raise ValueError("nothing is answered behind the last answer")
            if self.cycle is None or self.cycle.response_complete:
                self._deadline = time.monotonic() + services.settings.gateway.body_seconds
                found = self._find_call(services)
                if found is not None:
                    self._begin_call(services, found)
                    return
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _find_call(self, services: Services) -> HotPath | None:
        parser = self.parser
        if self.expect_100_continue or parser.get_method() != b"POST":
            return None
        if parser.should_upgrade() or parser.get_http_version() != "1.1":
            return None
        return services.hot_paths.find(self.url)

    def _begin_call(self, services: Services, found: HotPath) -> None:
        keep_alive = self.parser.should_keep_alive()
        cycle = HotCycle(
            self, services.outbox, found, read_headers(self.headers), keep_alive=keep_alive
        )
        self._receiving = self.cycle = cycle  # type: ignore[assignment]
        if not cycle.admit(services):
            return
        for name, value in self.headers:
            if name == b"content-length":
                length = whole_number(value.decode("latin-1"))
                if length is not None and length > services.max_body_bytes:
                    cycle.refuse(too_large(services.max_body_bytes))

    def on_body(self, body: bytes) -> None:
        receiving = self._receiving
        if receiving is None:
            super().on_body(body)
        elif not receiving.response_complete:
            assert self._services is not None
            receiving.add(body, self._services.max_body_bytes)

    def on_message_complete(self) -> None:
        receiving, self._receiving = self._receiving, None
        self._is_in_body = False
        if self.cycle is None or not self.cycle.response_complete:
            self._deadline = _NEVER
        if receiving is None:
            super().on_message_complete()
        elif receiving.response_complete:  # it was refused
            self._close()
        else:
            assert self._services is not None
            self._hot = receiving
            pieces, receiving.pieces = receiving.pieces, []
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if receiving.keep_alive:
                self._known = known_head(self._chunk, body, *receiving.seen())
            receiving.start(self._services, body)
            self._hold_back(receiving)

    # -- the answer ----------------------------------------------------------------

    def hot_done(self, cycle: HotCycle) -> None:
        """A call was answered."""
        self._hot = None
        if not cycle.keep_alive:
            self.server_state.total_requests += 1
            self._close()
            return
        self.on_response_complete()
        if self._pending:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        pending, self._pending = b"".join(self._pending), []
        if pending and not self.transport.is_closing():
            self.data_received(pending)

    def on_response_complete(self) -> None:
        """As uvicorn's, with the idle time held by our clock instead of a timer a request."""
        if self._services is None or self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._deadline = time.monotonic() + self._services.settings.gateway.keep_alive_seconds
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        services = self._services
        if self._hot is not None and self._hot.exchange is not None:
            self._hot.exchange.on_client_full()
        if services is not None:
            self._write_deadline = time.monotonic() + services.settings.gateway.write_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = _NEVER
        if self._hot is not None and self._hot.exchange is not None:
            self._hot.exchange.on_client_ready()
