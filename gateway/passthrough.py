"""Everything under /v1 that is not ours: to the engine and back, untouched.

Bodies stream both ways. The engine's admin routes are not on offer: whoever can
load an adapter can run code there. Nor are routes by which an engine generates
and that we do not record: any key could ask another tenant's adapter there.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence

import aiohttp

from gateway.carry import carry
from gateway.errors import ApiError, Headers, Message, Receive, Scope, Send
from gateway.refusals import refuse
from gateway.services import Services
from gateway.upstream import Place, UpstreamCut, response_headers
from gateway.upstreams.places import place_of
from gateway.wire.bodies import check_length, header, too_large
from trajectories.settings import POLICY

logger = logging.getLogger(__name__)

_PLAIN = re.compile(r"(?:/[A-Za-z0-9._~:@!$&'()*+,;=-]+)+/?")
_ADMIN = re.compile(r"lora_adapter|collective_rpc|invocations|update_weights", re.IGNORECASE)
_GENERATES = re.compile(
    r"/v1/(?:(?:chat/completions|completions|responses|messages)/(?!input_tokens/?$).*"
    r"|audio/(?:transcriptions|translations)/?|systemone/?)"
)
_METHODS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/embeddings": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/feedback": "GET, POST",
    "/v1/feedback/batch": "POST",
    "/v1/feedback/tokens": "POST",
    "/v1/trajectories": "GET",
    "/v1/models": "GET",
    "/v1/deployments": "GET",
}
_METHODS_BELOW = (
    (re.compile(r"/v1/(?:trajectories|models|deployments)/.+"), "GET"),
    (re.compile(r"/v1/feedback/(?!batch$|tokens$).+"), "GET, DELETE"),
    (re.compile(r"/v1/responses/(?!compact$|input_tokens$)[^/]+"), "GET, DELETE"),
    (re.compile(r"/v1/responses/[^/]+/input_items"), "GET"),
    (re.compile(r"/v1/responses/[^/]+/cancel"), "POST"),
)


def check_path(path: str) -> None:
    """Refuse admin routes, and any spelling that could become one on the way."""
    segments = path.split("/")
    is_plain = _PLAIN.fullmatch(path) is not None and not {".", ".."} & set(segments)
    if not is_plain or _ADMIN.search(path):
        raise ApiError(404, "unknown_route", f"there is no route {path[:200]}")


def check_method(path: str, method: str) -> None:
    """Our own routes exist with certain methods."""
    allowed = _METHODS.get(path)
    for pattern, methods in _METHODS_BELOW:
        if pattern.fullmatch(path):
            allowed = methods
    if allowed is not None and method not in allowed.split(", "):
        message = f"{path} takes {allowed}, not {method}"
        raise ApiError(405, "method_not_allowed", message, headers={"allow": allowed})


def check_recorded(path: str, method: str) -> None:
    """Whoever generates is recorded, stamped, counted in flight and answered by its own policy."""
    if method == "POST" and _GENERATES.fullmatch(path):
        message = f"{path} is not served here: what it would answer is not recorded"
        raise ApiError(404, "unknown_route", message)


class PassThrough:
    """The route of everything else."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = scope["raw_path"].decode("latin-1")
            check_path(scope["path"])
            check_path(path)
            check_method(path, scope["method"])
            check_recorded(path, scope["method"])
            check_length(scope, self._services.max_body_bytes)
        except ApiError as error:
            await refuse(scope, send, error)
            return
        places = [place_of(self._services, POLICY)]
        await forward(self._services, places, scope, receive, send)


async def forward(
    services: Services, places: Sequence[Place], scope: Scope, receive: Receive, send: Send
) -> None:
    """Pass a request on and its answer back; the first of `places` that has it (no 404) answers.

    Several places are for requests without a body.
    """
    answer = _Forward(services, places, scope, receive, send)
    await carry(answer, answer.receive_after_body)


class _Forward:
    """One request on its way through and back; ends with its answer, or when the client leaves."""

    def __init__(
        self,
        services: Services,
        places: Sequence[Place],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._services = services
        self._places = places
        self._scope = scope
        self._path = scope["raw_path"].decode("latin-1")
        self._receive = receive
        self._send = send
        self._is_too_large = False
        self._is_sent = asyncio.Event()  # all of the body was read

    def abandon(self) -> None:
        """The client has left: there is nothing to keep."""

    async def receive_after_body(self) -> Message:
        """What the client says once it has said everything: that it leaves."""
        await self._is_sent.wait()
        return await self._receive()

    async def run(self) -> None:
        try:
            response = await self._request()
            try:
                await self._return(response)
            finally:
                response.close()
        except ApiError as error:
            await refuse(self._scope, self._send, error)
        except UpstreamCut as error:
            # Returning without the last message makes the server close the connection,
            # which is how HTTP says that an answer is not whole.
            logger.warning("an answer was cut: %s", error, extra={"path": self._path})

    async def _request(self) -> aiohttp.ClientResponse:
        declared = header(self._scope, b"transfer-encoding") or header(
            self._scope, b"content-length"
        )
        has_body = declared not in (None, "0") and len(self._places) == 1
        if not has_body:
            self._is_sent.set()
        for place in self._places[:-1]:
            response = await self._ask(place, None)
            if response.status != 404:
                return response
            response.release()
        return await self._ask(self._places[-1], self._body() if has_body else None)

    async def _ask(self, place: Place, body: AsyncIterator[bytes] | None) -> aiohttp.ClientResponse:
        query = self._scope.get("query_string", b"").decode("latin-1")
        try:
            return await self._services.upstream.request(
                self._scope["method"],
                place,
                self._path + (f"?{query}" if query else ""),
                headers=self._scope["headers"],
                body=body,
            )
        except ApiError:
            if self._is_too_large:
                raise too_large(self._services.max_body_bytes) from None
            raise

    async def _body(self) -> AsyncIterator[bytes]:
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise aiohttp.ClientError("the client left")
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._services.max_body_bytes:
                self._is_too_large = True
                raise aiohttp.ClientError("the body is too large")
            if piece:
                yield piece
            if not message.get("more_body", False):
                self._is_sent.set()
                return

    async def _return(self, response: aiohttp.ClientResponse) -> None:
        send = self._send
        headers = response_headers(response)
        if response.status >= 400 and self._scope["method"] != "HEAD":
            await self._return_error(response, headers)
            return
        length = response.headers.get("content-length")
        if length is not None:
            headers.append((b"content-length", length.encode()))
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        await send(start)
        while piece := await self._services.upstream.read(response):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _return_error(self, response: aiohttp.ClientResponse, headers: Headers) -> None:
        """An error may quote the key that the upstream was asked with."""
        content = await self._services.upstream.read_all(response)
        content = self._services.redactor.without_known(content)
        headers.append((b"content-length", str(len(content)).encode()))
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": content})
