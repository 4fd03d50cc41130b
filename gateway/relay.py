"""Carries one call: engine to client, byte by byte, and its record before the last byte.

Bytes leave as they come; reading from the engine waits for the client (`await
send`), so a slow client slows the engine and not our memory. The record is one
synchronous write: nothing can be cancelled in the middle of it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from gateway.call import Call, Ending, transition_of
from gateway.dialects.chat import Additions, strip_answer, upstream_body
from gateway.dialects.fold import Folded, fold, fold_answer
from gateway.dialects.sse import EventSplitter, StreamCleaner, is_done
from gateway.errors import ApiError, Headers, Send, send_bytes, send_error, stream_error
from gateway.routing import at_version
from gateway.services import Services
from gateway.upstream import UpstreamCut, request_headers, response_headers
from trajectories.model import Outcome, Transition

_PATH = "/v1/chat/completions"
_TAIL_SECONDS = 0.2  # how long bytes behind [DONE] are waited for


class Relay:
    """One call on its way. `run` once, `leave` always."""

    def __init__(self, services: Services, call: Call, send: Send) -> None:
        self._services = services
        self._call = call
        self._send = send
        self._route = call.route
        self._additions = Additions()
        self._stream = bytearray()
        self._first_byte: float | None = None
        self._status = 200
        self._is_streamed = call.body.get("stream") is True
        self._has_started = False
        self._has_left = False
        self._is_recorded = False
        self._is_abandoned = False

    def abandon(self) -> None:
        """The client has hung up; `run` is about to be cancelled."""
        self._is_abandoned = True

    def leave(self) -> None:
        """The answer has ended, whatever way: lower the in-flight count. Safe to repeat."""
        if not self._has_left:
            self._has_left = True
            self._services.in_flight.leave(self._route.version)

    async def run(self) -> None:
        """Ask the engine, answer the client, record."""
        try:
            response = await self._ask()
            try:
                await self._answer(response)
            finally:
                response.close()  # a whole answer was released to the pool before: then a no-op
        except ApiError as error:
            self._record(Folded, Outcome.FAILED, status=error.status, error=error.code)
            await send_error(self._send, error, self._own_headers())
        except asyncio.CancelledError:
            outcome = Outcome.DISCONNECTED if self._is_abandoned else Outcome.INCOMPLETE
            self._record(self._fold, outcome)
            if not self._is_abandoned:
                await self._break_off("gateway_stopping", "the gateway is shutting down")
            raise

    async def _ask(self) -> aiohttp.ClientResponse:
        response = await self._request()
        is_adapter = self._route.alias is not None and bool(self._route.version)
        if response.status == 404 and is_adapter:
            # The engine restarted and lost the adapter: the base model answers, and says so.
            response.close()
            self._fall_back()
            response = await self._request()
        return response

    async def _request(self) -> aiohttp.ClientResponse:
        body, self._additions = upstream_body(self._call.body, self._route.model)
        try:
            encoded = orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise ApiError(400, "bad_json", f"the body cannot be forwarded: {error}") from error
        headers = request_headers(self._call.headers, self._services.upstream.api_key)
        headers["content-type"] = "application/json"
        query = f"?{self._call.query.decode('latin-1')}" if self._call.query else ""
        return await self._services.upstream.request(
            "POST", _PATH + query, headers=headers, body=encoded
        )

    def _fall_back(self) -> None:
        assert self._route.alias is not None
        services = self._services
        services.metrics.fallbacks.inc()
        services.in_flight.leave(self._route.version)
        self._route = at_version(self._route.alias, 0, services.watcher.snapshot)
        services.in_flight.enter(0)

    async def _answer(self, response: aiohttp.ClientResponse) -> None:
        self._status = response.status
        kind = response.headers.get("content-type", "")
        self._is_streamed = kind.startswith("text/event-stream")
        if response.status == 200 and self._is_streamed:
            await self._relay_stream(response)
        else:
            await self._relay_whole(response)

    # -- a whole answer ------------------------------------------------------------

    async def _relay_whole(self, response: aiohttp.ClientResponse) -> None:
        try:
            raw = await self._services.upstream.read_all(response)
        except UpstreamCut as error:
            raise ApiError(502, "upstream_broke_off", str(error), retry_after=1) from error
        self._first_byte = time.monotonic()
        answer = _object(raw)
        outcome = Outcome.FAILED if response.status >= 400 else None
        # Recorded first: what comes next takes out of the answer what learning needs.
        self._record(
            lambda: Folded(garbage=1) if answer is None else fold_answer(answer),
            outcome,
            status=response.status,
        )
        if answer is not None and strip_answer(answer, self._additions, self._route.alias):
            raw = orjson.dumps(answer)
        self._has_started = True
        self.leave()  # the engine is done with it, whatever the client's pace
        await send_bytes(self._send, response.status, self._headers(response), raw)

    # -- a stream ------------------------------------------------------------------

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> None:
        headers = self._headers(response)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._has_started = True
        try:
            tail = await self._relay_events(response)
        except UpstreamCut as error:
            self._record(self._fold, Outcome.INCOMPLETE, error=str(error))
            await self._break_off("upstream_broke_off", str(error))
            return
        self._record(self._fold)
        self.leave()
        await self._send({"type": "http.response.body", "body": tail})

    async def _relay_events(self, response: aiohttp.ClientResponse) -> bytes:
        """Forward events up to [DONE]; the bytes from there on are returned, not sent."""
        cleaner = StreamCleaner(self._additions, self._route.alias)
        try:
            return await self._relay_cleaned(response, cleaner)
        except UpstreamCut:
            if held := cleaner.flush():  # a whole event, and the client's
                await self._send({"type": "http.response.body", "body": held, "more_body": True})
            raise

    async def _relay_cleaned(
        self, response: aiohttp.ClientResponse, cleaner: StreamCleaner
    ) -> bytes:
        splitter = EventSplitter()
        while piece := await self._services.upstream.read(response):
            if self._first_byte is None:
                self._first_byte = time.monotonic()
            self._stream += piece
            events = splitter.feed(piece)
            done = next((n for n, event in enumerate(events) if is_done(event)), len(events))
            body = b"".join(map(cleaner.clean, events[:done]))
            if body:
                await self._send({"type": "http.response.body", "body": body, "more_body": True})
            if done < len(events):
                rest = [cleaner.flush(), *events[done:], splitter.flush()]
                return b"".join(rest) + await self._read_tail(response)
        rest_bytes = splitter.flush()
        if is_done(rest_bytes):
            return cleaner.flush() + rest_bytes
        raise UpstreamCut("the engine ended its answer without saying that it was whole")

    async def _read_tail(self, response: aiohttp.ClientResponse) -> bytes:
        """What follows [DONE]: normally nothing, and the end of the answer."""
        found = bytearray()
        try:
            async with asyncio.timeout(_TAIL_SECONDS):
                while piece := await self._services.upstream.read(response):
                    found += piece
        except (TimeoutError, UpstreamCut):
            pass  # the answer is whole; how its connection ends is nobody's concern
        self._stream += found
        return bytes(found)

    async def _break_off(self, code: str, message: str) -> None:
        """Tell an SDK that a stream is broken: an error event, and no [DONE]."""
        if self._has_started and self._is_streamed:
            body = stream_error(code, message)
            await self._send({"type": "http.response.body", "body": body})
        elif not self._has_started:
            error = ApiError(503, code, message, retry_after=1)
            await send_error(self._send, error, self._own_headers())

    # -- the record ----------------------------------------------------------------

    def _record(
        self,
        answered: Callable[[], Folded],
        outcome: Outcome | None = None,
        *,
        status: int | None = None,
        error: str | None = None,
    ) -> None:
        """Record once; without an `outcome`, the answer says whether it is complete.

        All of it runs inside the recorder: a bug here must not reach the client.
        """
        if self._is_recorded:
            return
        self._is_recorded = True
        services = self._services

        def transition() -> Transition:
            answer = answered()
            found = Outcome.COMPLETE if answer.is_complete else Outcome.INCOMPLETE
            ending = Ending(
                outcome=outcome or found,
                ended=time.monotonic(),
                first_byte=self._first_byte,
                http_status=status or self._status,
                error=error,
                is_streamed=self._is_streamed,
            )
            services.metrics.outcomes.labels(ending.outcome.value).inc()
            gateway = services.gateway_id
            return transition_of(self._call, self._route, answer, ending, gateway=gateway)

        services.recorder.record(self._call.id, transition)

    def _fold(self) -> Folded:
        return fold(bytes(self._stream))

    def _headers(self, response: aiohttp.ClientResponse) -> Headers:
        """The engine's headers and ours; where both name a thing, ours."""
        own = self._own_headers()
        names = {name for name, _ in own}
        return [*(entry for entry in response_headers(response) if entry[0] not in names), *own]

    def _own_headers(self) -> Headers:
        headers = [
            (b"x-request-id", self._call.id.encode()),
            (b"x-ratchet-trajectory-id", self._call.trajectory_id.encode()),
        ]
        if self._route.version is not None:
            stamp = f"{self._route.policy}@{self._route.version}"
            headers.append((b"x-ratchet-policy", stamp.encode()))
        return headers


def _object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object an answer is, or None."""
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None
