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
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.reception import Incoming
from gateway.services import STATE, Services
from gateway.wire.bodies import too_large, whole_number
from gateway.wire.hot import HotPath

MAX_HEAD_BYTES = 64 * 1024
_PIPELINED_BYTES = 64 * 1024
_LINGER_SECONDS = 2.0
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_NEVER = float("inf")


def reply_bytes(error: ApiError) -> bytes:
    """An error as the last answer on a connection."""
    body = error.body
    line = STATUS_LINE[error.status]
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (line, error.head, len(body), _CLOSE, body)


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
        "_found",
        "_protocol",
        "_size",
        "body",
        "disconnected",
        "exchange",
        "keep_alive",
        "pieces",
        "response_complete",
    )

    message_event = _Deaf()

    def __init__(self, protocol: "HotProtocol", found: HotPath, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._found = found
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
        else:
            self.pieces.append(piece)

    def start(self, services: Services, headers: list[tuple[bytes, bytes]]) -> None:
        """The request is whole."""
        pieces, self.pieces = self.pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        found = self._found
        self.exchange = exchange = Exchange(services, self)
        exchange.start(Incoming(found.dialect, found.path_ids, found.query, headers, body))

    def refuse(self, error: ApiError) -> None:
        """Answer before the request is whole; what still comes of it is thrown away."""
        self.keep_alive = False
        self.response_complete = True
        self._write(reply_bytes(error))
        self._protocol.linger()

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
        self._protocol.transport.abort()

    def _write(self, content: bytes) -> None:
        if not self.disconnected:
            self._protocol.transport.write(content)

    def _end(self) -> None:
        self.response_complete = True
        self._protocol.hot_done(self)


class HotProtocol(HttpToolsProtocol):
    """One connection of a client. Without our services in the lifespan's state: plain uvicorn."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._services: Services | None = self.app_state.get(STATE)
        self._receiving: HotCycle | None = None  # a call whose body is coming in
        self._hot: HotCycle | None = None  # a call that is being answered
        self._fed = 0  # bytes of a head that has not ended
        self._pending: list[bytes] = []
        self.deadline = _NEVER

    # -- the connection ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        services = self._services
        if services is None:
            return
        limits = services.settings.gateway
        if len(self.connections) > limits.max_connections:
            error = ApiError(503, "too_many_connections", "too many connections", retry_after=1)
            self._refuse_connection(error)
            return
        self.deadline = time.monotonic() + limits.header_seconds
        services.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._services is not None:
            self._services.connections.discard(self)
        hot, self._hot, self._receiving = self._hot, None, None
        if hot is not None:
            hot.disconnected = True
        super().connection_lost(exc)
        if hot is not None and hot.exchange is not None:
            hot.exchange.on_client_left()

    def on_tick(self, now: float) -> None:
        """Close a connection that has kept us waiting; called every fraction of a second."""
        if now < self.deadline or self.transport.is_closing():
            return
        self.deadline = _NEVER
        receiving = self._receiving
        if receiving is not None and not receiving.response_complete:
            receiving.refuse(ApiError(408, "body_timeout", "the body did not arrive in time"))
            self.transport.close()
        elif self._fed:
            error = ApiError(408, "header_timeout", "the headers did not arrive in time")
            self._refuse_connection(error)
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._hot is not None or self._pending:
            # The next request, sent before this one was answered: it waits.
            self._pending.append(data)
            if sum(map(len, self._pending)) > _PIPELINED_BYTES:
                self.flow.pause_reading()
            return
        is_head = self.cycle is None or self.cycle.response_complete
        if is_head and self._receiving is None and self._services is not None:
            self._count_head(self._services, len(data))
        super().data_received(data)
        if self._fed > MAX_HEAD_BYTES:
            text = f"the headers are larger than {MAX_HEAD_BYTES} bytes"
            self._refuse_connection(ApiError(431, "headers_too_large", text))

    def _count_head(self, services: Services, size: int) -> None:
        if not self._fed:
            self.deadline = time.monotonic() + services.settings.gateway.header_seconds
        self._fed += size

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in the shape that SDKs read."""
        self._refuse_connection(ApiError(400, "bad_http", msg))

    def _refuse_connection(self, error: ApiError) -> None:
        self._fed = 0
        if not self.transport.is_closing():
            self.transport.write(reply_bytes(error))
            self.transport.close()

    def linger(self) -> None:
        """Read on for a moment: closing at once could reset what the client has not read yet."""
        self.deadline = time.monotonic() + _LINGER_SECONDS

    # -- the parser ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        # uvicorn makes the ASGI scope here; a call needs none.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        services = self._services
        self._fed = 0
        self.deadline = _NEVER
        if services is not None:
            found = self._find_call(services)
            if found is not None:
                self._begin_call(services, found)
                return
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _find_call(self, services: Services) -> HotPath | None:
        parser = self.parser
        is_free = self.cycle is None or self.cycle.response_complete
        if not is_free or self.expect_100_continue or parser.get_method() != b"POST":
            return None
        if parser.should_upgrade() or parser.get_http_version() != "1.1":
            return None
        return services.hot_paths.find(self.url)

    def _begin_call(self, services: Services, found: HotPath) -> None:
        limits = services.settings.gateway
        self.deadline = time.monotonic() + limits.body_seconds
        keep_alive = self.parser.should_keep_alive()
        self._receiving = self.cycle = HotCycle(self, found, keep_alive=keep_alive)  # type: ignore[assignment]
        for name, value in self.headers:
            if name == b"content-length":
                length = whole_number(value.decode("latin-1"))
                if length is not None and length > services.max_body_bytes:
                    self._receiving.refuse(too_large(services.max_body_bytes))

    def on_body(self, body: bytes) -> None:
        receiving = self._receiving
        if receiving is None:
            super().on_body(body)
        elif not receiving.response_complete:
            assert self._services is not None
            receiving.add(body, self._services.max_body_bytes)

    def on_message_complete(self) -> None:
        receiving, self._receiving = self._receiving, None
        if receiving is None:
            super().on_message_complete()
        elif receiving.response_complete:  # it was refused
            self.transport.close()
        else:
            assert self._services is not None
            self.deadline = _NEVER
            self._hot = receiving
            receiving.start(self._services, self.headers)

    # -- the answer ----------------------------------------------------------------

    def hot_done(self, cycle: HotCycle) -> None:
        """A call was answered."""
        self._hot = None
        if not cycle.keep_alive:
            self.server_state.total_requests += 1
            self.transport.close()
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
            self.deadline = time.monotonic() + self._services.settings.gateway.keep_alive_seconds
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._hot is not None and self._hot.exchange is not None:
            self._hot.exchange.on_client_full()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._hot is not None and self._hot.exchange is not None:
            self._hot.exchange.on_client_ready()
