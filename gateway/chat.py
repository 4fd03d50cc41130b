"""POST /v1/chat/completions, over bare ASGI: plan a call, carry it, record it.

The shell around pure parts: `dialects.chat` reads and rewrites bodies, `sse`
cuts and cleans streams, `attribution` and `routing` decide. Here is what takes
time: the engine, the client, and a client that leaves.
"""

import time
from typing import Any

from gateway.attribution import Attribution, attribute
from gateway.auth import TENANT
from gateway.call import Call
from gateway.carry import carry
from gateway.dialects.chat import parse_chat
from gateway.errors import ApiError, Receive, Scope, Send, send_error
from gateway.relay import Relay
from gateway.routing import Route, choose
from gateway.services import Services
from gateway.wire.bodies import ClientLeft, header, read_body, whole_number
from gateway.wire.paths import path_ids
from trajectories.ids import new_id, trajectory_id


class ChatCompletions:
    """The hot route."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        try:
            services.recorder.check_room()
            raw = await read_body(scope, receive, services.max_body_bytes)
            call = self._plan(scope, parse_chat(raw))
        except ApiError as error:
            await send_error(send, error)
            return
        except ClientLeft:
            return
        # From the choice of the route to here nothing has awaited: the count was raised with it.
        relay = Relay(services, call, send)
        try:
            await carry(relay, receive)
        finally:
            relay.leave()

    def _plan(self, scope: Scope, body: dict[str, Any]) -> Call:
        headers = scope["headers"]
        found = attribute(path_ids(scope), scope.get("query_string", b""), headers, body)
        trajectory = trajectory_id(TENANT, session=found.session, task=found.task)
        return Call(
            id=new_id("tr"),
            started_at=time.time(),
            started=time.monotonic(),
            body=body,
            headers=headers,
            query=scope.get("query_string", b""),
            attribution=found,
            trajectory_id=trajectory,
            attempt=_attempt(header(scope, b"x-stainless-retry-count")),
            # Any value but an explicit no opts out: better to learn too little.
            is_trainable=(header(scope, b"x-ratchet-no-train") or "0").lower() in ("0", "false"),
            route=self._route(body["model"], trajectory, found),
        )

    def _route(self, name: str, trajectory: str, found: Attribution) -> Route:
        services, now = self._services, time.monotonic()
        route = choose(
            name,
            aliases=services.settings.gateway.aliases,
            snapshot=services.watcher.snapshot,
            bound=services.stickiness.version_of(trajectory, now),
        )
        is_continued = found.session is not None or found.task is not None
        if route.alias is not None and route.version is not None and is_continued:
            services.stickiness.bind(trajectory, route.version, now)
        services.in_flight.enter(route.version)
        return route


def _attempt(count: str | None) -> int:
    number = whole_number(count)
    return number if number is not None and number < 1000 else 0
