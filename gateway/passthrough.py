"""Everything under /v1 that is not ours: to the engine and back, untouched.

Bodies stream both ways. The engine's admin routes are not on offer: whoever can
load an adapter can run code there. Model lists are the one answer we compose.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from gateway.carry import carry
from gateway.errors import ApiError, Message, Receive, Scope, Send, send_bytes, send_error
from gateway.routing import ANY
from gateway.services import Services
from gateway.upstream import UpstreamCut, request_headers, response_headers
from gateway.wire.bodies import check_length, header, too_large
from trajectories.registry import Snapshot

logger = logging.getLogger(__name__)

_PLAIN = re.compile(r"(?:/[A-Za-z0-9._~:@!$&'()*+,;=-]+)+/?")
_ADMIN = re.compile(r"lora_adapter|collective_rpc|invocations|update_weights", re.IGNORECASE)
_METHODS = {
    "/v1/chat/completions": "POST",
    "/v1/feedback": "POST",
    "/v1/trajectories": "GET",
    "/v1/models": "GET",
}


def check_path(path: str) -> None:
    """Refuse admin routes, and any spelling that could become one on the way."""
    segments = path.split("/")
    is_plain = _PLAIN.fullmatch(path) is not None and not {".", ".."} & set(segments)
    if not is_plain or _ADMIN.search(path):
        raise ApiError(404, "unknown_route", f"there is no route {path[:200]}")


def check_method(path: str, method: str) -> None:
    """Our own routes exist with one method."""
    allowed = _METHODS.get(path)
    if path.startswith(("/v1/feedback/", "/v1/trajectories/")):
        allowed = "GET"
    if allowed is not None and method != allowed:
        raise method_not_allowed(path, method, allowed)


def method_not_allowed(path: str, method: str, allowed: str) -> ApiError:
    message = f"{path} takes {allowed}, not {method}"
    return ApiError(405, "method_not_allowed", message, headers={"allow": allowed})


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
            check_length(scope, self._services.max_body_bytes)
        except ApiError as error:
            await send_error(send, error)
            return
        forward = _Forward(self._services, scope, path, receive, send)
        await carry(forward, forward.receive_after_body)


class _Forward:
    """One request on its way through and back; ends with its answer, or when the client leaves."""

    def __init__(
        self, services: Services, scope: Scope, path: str, receive: Receive, send: Send
    ) -> None:
        self._services = services
        self._scope = scope
        self._path = path
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
            await send_error(self._send, error)
        except UpstreamCut as error:
            # Returning without the last message makes the server close the connection,
            # which is how HTTP says that an answer is not whole.
            logger.warning("an answer was cut: %s", error, extra={"path": self._path})

    async def _request(self) -> aiohttp.ClientResponse:
        scope = self._scope
        query = scope.get("query_string", b"").decode("latin-1")
        headers = request_headers(scope["headers"], self._services.upstream.api_key)
        declared = header(scope, b"transfer-encoding") or header(scope, b"content-length")
        has_body = declared not in (None, "0")
        if not has_body:
            self._is_sent.set()
        try:
            return await self._services.upstream.request(
                scope["method"],
                self._path + (f"?{query}" if query else ""),
                headers=headers,
                body=self._body() if has_body else None,
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
        length = response.headers.get("content-length")
        if length is not None:
            headers.append((b"content-length", length.encode()))
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        await send(start)
        while piece := await self._services.upstream.read(response):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def list_models(services: Services) -> dict[str, Any]:
    """The engine's list without our internal adapter names, and our aliases."""
    listed: list[dict[str, Any]] = []
    try:
        headers = request_headers([], services.upstream.api_key)
        response = await services.upstream.request(
            "GET", "/v1/models", headers=headers, first_byte_seconds=5
        )
        raw = await services.upstream.read_all(response)
        found = orjson.loads(raw) if response.status == 200 else {}
        entries = found.get("data") if isinstance(found, dict) else None
        listed = [entry for entry in entries or [] if isinstance(entry, dict)]
    except (ApiError, UpstreamCut, orjson.JSONDecodeError):
        pass  # the aliases alone, then
    snapshot = services.watcher.snapshot
    aliases = [
        alias_entry(name, snapshot) for name in services.settings.gateway.aliases if name != ANY
    ]
    hidden = {entry.model for entry in snapshot.versions.values() if entry.version > 0}
    hidden |= {entry["id"] for entry in aliases}
    return {"object": "list", "data": [*aliases, *(e for e in listed if e.get("id") not in hidden)]}


def alias_entry(name: str, snapshot: Snapshot) -> dict[str, Any]:
    """An alias as a model: it says which version it means now."""
    current = snapshot.versions[snapshot.current]
    return {
        "id": name,
        "object": "model",
        "created": int(current.promoted_at or current.created_at or 0) or int(time.time()),
        "owned_by": "ratchet",
        "root": snapshot.versions[0].model,
        "policy": snapshot.policy,
        "policy_version": snapshot.current,
    }


class Models:
    """GET /v1/models and GET /v1/models/{id}; an id that is no alias is the engine's to answer."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pass_through = PassThrough(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix("/v1/models").strip("/")
        if scope["method"] not in ("GET", "HEAD"):
            await send_error(send, method_not_allowed(scope["path"], scope["method"], "GET"))
        elif not name:
            await _send_json(send, await list_models(self._services))
        elif name in self._services.settings.gateway.aliases and name != ANY:
            await _send_json(send, alias_entry(name, self._services.watcher.snapshot))
        else:
            await self._pass_through(scope, receive, send)


async def _send_json(send: Send, content: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send_bytes(send, 200, headers, orjson.dumps(content))
