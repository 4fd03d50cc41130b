"""The calls of models over raw ASGI: for other servers, and for what `protocol.py` leaves alone.

The outermost layer of the app. It knows the same paths and starts the same
exchange; only the way of the bytes differs.
"""

import asyncio
from collections import deque
from typing import Any

from gateway.errors import ApiError, Application, Message, Receive, Scope, Send
from gateway.exchange import Exchange, refuse
from gateway.outbox import Outbox
from gateway.reception import admit
from gateway.services import Services
from gateway.wire.bodies import ClientLeft, disconnected, read_body
from gateway.wire.headers import read_headers
from gateway.wire.hot import HotPath

_FULL_BYTES = 256 * 1024  # beyond it the upstream waits for the client


class Twin:
    """Answers calls of models; passes everything else on."""

    def __init__(self, app: Application, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "POST":
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            query: bytes = scope.get("query_string", b"")
            found = self._services.hot_paths.find(raw + b"?" + query if query else raw)
        if found is None:
            await self._app(scope, receive, send)
        else:
            await self._answer(found, scope, receive, send)

    async def _answer(self, found: HotPath, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        client = _Client(services.outbox)
        seconds = services.settings.gateway.body_seconds
        try:
            headers = read_headers(scope["headers"])
            caller = admit(headers, services)
            body = await read_body(scope, receive, services.max_body_bytes, seconds)
        except ClientLeft:
            return
        except ApiError as error:
            if error.status == 408:  # what was not read would be taken for the next request
                error.headers["connection"] = "close"
            refuse(found.dialect, error, client, services)
            await client.send_all(send)
            return
        exchange = client.exchange = Exchange(services, client)
        left = asyncio.ensure_future(disconnected(receive))
        left.add_done_callback(lambda _: client.wake())
        try:
            exchange.start(found, headers, caller, body)
            await client.send_all(send)  # a refusal is there at once
            while not client.is_over:
                await client.wait()
                if left.done() and not client.is_over:
                    exchange.on_client_left()
                    return
                await client.send_all(send)
                exchange.on_client_ready()
        except asyncio.CancelledError:
            if client.is_aborted:
                return
            # The server's grace is over: say so to the client, record what there is.
            exchange.on_shutdown()
            await client.send_all(send)
            raise
        finally:
            left.cancel()
            client.exchange = None


class _Client:
    """The client of an exchange: what is written waits here until ASGI takes it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._messages: deque[Message] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._task = asyncio.current_task()
        self.exchange: Exchange | None = None
        self.is_over = self.is_aborted = False

    # -- what the exchange does ----------------------------------------------------

    def reply(self, status: int, head: bytes, body: bytes) -> None:
        headers = [*_headers(head), (b"content-length", str(len(body)).encode())]
        self._put({"type": "http.response.start", "status": status, "headers": headers})
        self.end(body)

    def begin(self, status: int, head: bytes, piece: bytes) -> None:
        self._put({"type": "http.response.start", "status": status, "headers": _headers(head)})
        self.write(piece)

    def write(self, piece: bytes) -> None:
        self._size += len(piece)
        self._put({"type": "http.response.body", "body": piece, "more_body": True})
        if self._size > _FULL_BYTES and self.exchange is not None:
            self.exchange.on_client_full()

    def end(self, piece: bytes) -> None:
        self.is_over = True
        self._put({"type": "http.response.body", "body": piece})

    def abort(self) -> None:
        # Without a last message the server closes the connection; whoever sends waits in vain.
        self.is_over = self.is_aborted = True
        if self._task is not None:
            self._task.cancel()

    def _put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self.wake()

    # -- what the shell does -------------------------------------------------------

    def wake(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        """Until something was written, or `wake` was called."""
        await self._news.wait()
        self._news.clear()

    async def send_all(self, send: Send) -> None:
        """Hand over what was written, behind its record."""
        while self._messages:
            self._outbox.flush()
            message = self._messages.popleft()
            await send(message)
            self._size -= len(message.get("body", b"")) if message.get("more_body") else 0


def _headers(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = head.split(b"\r\n")[:-1]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
