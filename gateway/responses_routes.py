"""Responses that are asked for again: GET, DELETE, their input, and what can be cancelled.

A response of ours comes from our own store, and only to its tenant. Another one
may be known to an upstream that speaks the dialect itself: the request passes
through to those. Bare ASGI, as what passes through may be a stream.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs

import orjson

from gateway.access import Caller
from gateway.auth import STATE as CALLER
from gateway.errors import ApiError, Receive, Scope, Send, bad_request, send_bytes
from gateway.passthrough import check_path, forward
from gateway.refusals import refuse
from gateway.responses_store import KeptResponse
from gateway.services import Services
from gateway.upstreams.places import native_places
from trajectories.connection import RedisError

_MOST_ITEMS = 100
_USUAL_ITEMS = 20


class StoredResponses:
    """/v1/responses/{id}, /v1/responses/{id}/input_items and /v1/responses/{id}/cancel."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_path(scope["path"])
            check_path(scope["raw_path"].decode("latin-1"))
            response_id, _, part = scope["path"].removeprefix("/v1/responses/").partition("/")
            answer = await self._answer(scope, response_id, part)
            if answer is not None:
                headers = [(b"content-type", b"application/json")]
                await send_bytes(send, 200, headers, orjson.dumps(answer))
                return
            caller: Caller = scope["state"][CALLER]
            if scope["method"] not in ("GET", "HEAD"):
                caller.check_model(None)
            places = native_places(self._services, "responses")
            if not places and not self._services.watcher.is_connected:
                raise unavailable("looked up")
            if not places:
                raise no_response(response_id)
        except ApiError as error:
            await refuse(scope, send, error)
        else:
            await forward(self._services, places, scope, receive, send)

    async def _answer(self, scope: Scope, response_id: str, part: str) -> dict[str, Any] | None:
        """What our store answers; None when it does not know the response."""
        caller: Caller = scope["state"][CALLER]
        store = self._services.responses
        found = await asyncio.to_thread(store.load, caller.tenant, [response_id])
        if not found:
            return None
        kept = found[0]
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if part == "cancel":
            message = "only a response in the background can be cancelled; this one has ended"
            raise bad_request(message, code="not_cancellable")
        if part == "input_items":
            return listed_items(kept, query)
        if scope["method"] == "DELETE":
            try:
                await asyncio.to_thread(store.forget, caller.tenant, response_id)
            except RedisError as error:
                raise unavailable("deleted") from error
            return {"id": response_id, "object": "response", "deleted": True}
        if query.get("stream", [""])[0].lower() in ("true", "1"):
            raise bad_request("a response that has ended is not streamed again", "stream")
        return kept.response


def listed_items(kept: KeptResponse, query: dict[str, list[str]]) -> dict[str, Any]:
    """A page of a response's input. Raises ApiError 400 for what is no page."""
    order, after = (query.get(name, [None])[0] for name in ("order", "after"))
    if order not in (None, "asc", "desc"):
        raise bad_request("`order` must be asc or desc", "order")
    limit = query.get("limit", [str(_USUAL_ITEMS)])[0]
    is_number = limit.isascii() and limit.isdigit() and len(limit) <= 3
    if not is_number or not 1 <= int(limit) <= _MOST_ITEMS:
        raise bad_request(f"`limit` must be a number from 1 to {_MOST_ITEMS}", "limit")
    items = kept.items if order == "asc" else kept.items[::-1]
    if after is not None:
        ids = [item.get("id") for item in items]
        if after not in ids:
            raise bad_request(f"there is no input item {after[:200]} to go on from", "after")
        items = items[ids.index(after) + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": len(page) < len(items),
    }


def no_response(response_id: str) -> ApiError:
    """A 404 as OpenAI says it; it may have expired, or belong to another tenant."""
    message = f"there is no response {response_id[:200]}"
    return ApiError(404, "response_not_found", message, param="response_id")


def unavailable(done: str) -> ApiError:
    """Redis is away: nobody knows."""
    message = f"the response cannot be {done} now: the store does not answer"
    return ApiError(503, "store_unavailable", message, retry_after=2)
