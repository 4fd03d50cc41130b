"""One call on its way: from a request that is whole to an answer that is recorded.

A state machine without a task of its own. The shells in `wire/` start it and
take its bytes; an upstream's connection feeds it; the clock asks it now and
then whether it has waited too long. Each of these happens in one turn of the
event loop, so nothing can be cancelled in the middle of it, and the record is
written before the last byte is handed over.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.access import Caller
from gateway.call import Ending, record_of
from gateway.dialects.asking import NOT_ASKED, Asked, ask, chat_form_of, error_body
from gateway.dialects.fold import Folded
from gateway.dialects.responses import named_responses
from gateway.errors import ApiError
from gateway.reception import receive
from gateway.responses_store import earlier_of
from gateway.rollouts import engines_among
from gateway.routing import Route, at_replica
from gateway.services import Services
from gateway.spool.payload import FOLDS, stream_payload, usage_of, whole_payload
from gateway.tracing import CallSpan
from gateway.upstreams.balance import Replica
from gateway.upstreams.breaker import FAILURE_STATUSES
from gateway.upstreams.pool import Carrier
from gateway.wire.headers import AnswerHead, RequestHeaders
from gateway.wire.hot import HotPath
from trajectories.ids import new_id
from trajectories.model import Outcome
from trajectories.settings import Dialect

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # of a whole answer, and of what is recorded of a stream
_RECALL_SECONDS = 5.0
_TAIL_SECONDS = 0.2  # how long bytes behind the end of a stream are waited for
_ANSWERED_BY_THE_NEXT = frozenset({429, 500, 502, 503, 504})
_NEVER = float("inf")


class Client(Protocol):
    """Where an answer goes. `head` is header lines; nothing here waits."""

    def reply(self, status: int, head: bytes, body: bytes) -> None:
        """A whole answer."""

    def begin(self, status: int, head: bytes, piece: bytes) -> None:
        """The beginning of a stream."""

    def write(self, piece: bytes) -> None:
        """More of it."""

    def end(self, piece: bytes) -> None:
        """The last of it."""

    def abort(self) -> None:
        """Hang up: the client does not read."""


def refuse(dialect: Dialect, error: ApiError, client: Client, services: Services) -> None:
    """Answer a request that is no call yet."""
    request_id = new_id("tr")
    head = b"%bx-request-id: %b\r\n" % (error.head, request_id.encode())
    services.metrics.calls.add(dialect, error.status, 0.0)
    client.reply(error.status, head, error_body(dialect, error, request_id))


# The phases of a call, in their order. Plain numbers: a member of an enumeration is looked up each
# time it is named, in Python 3.11 for 0.1 µs.
_CONNECTING: Final = 0
_WAITING: Final = 1  # for the first bytes of an answer
_ANSWERING: Final = 2
_ENDING: Final = 3  # the answer is whole; the upstream has only to say so
_OVER: Final = 4


class Exchange:
    """One call. The shell calls `start`, and one of the `on_client_` methods when it has to."""

    __slots__ = (
        "_asked",
        "_call",
        "_client",
        "_deadline",
        "_ended",
        "_failed",
        "_first_byte",
        "_has_begun",
        "_head",
        "_is_paused",
        "_is_streamed",
        "_last_moment",
        "_needs_bytes",
        "_phase",
        "_pieces",
        "_recalling",
        "_replica",
        "_route",
        "_sent",
        "_server",
        "_services",
        "_size",
        "_span",
        "_stamp",
        "_status",
        "_target",
        "_targets",
        "_tries",
        "carrier",
    )

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client
        self.carrier: Carrier | None = None
        self._replica: Replica | None = None
        self._asked: Asked = NOT_ASKED
        self._deadline = _NEVER
        self._phase = _CONNECTING
        self._has_begun = self._is_paused = self._is_streamed = False
        self._pieces: list[bytes] = []
        self._size = self._tries = 0
        self._status = 200
        self._failed: Replica | None = None
        self._first_byte: float | None = None
        self._ended: float | None = None  # when the upstream's last byte came
        self._head = b""
        self._span: CallSpan | None = None

    # -- what the shell calls ------------------------------------------------------

    def start(self, path: HotPath, headers: RequestHeaders, caller: Caller, body: bytes) -> None:
        """Understand a request that is whole, of a caller that was admitted, and send it on."""
        services = self._services
        try:
            self._call = call = receive(path, headers, caller, body)
            self._targets = services.table.targets(call.model, call.dialect)
            if call.rollout is not None:
                self._targets = engines_among(self._targets)
            named = named_responses(call.body) if call.dialect == "responses" else []
        except ApiError as error:
            self._phase = _OVER
            refuse(path.dialect, error, self._client, services)
            return
        services.exchanges.add(self)
        services.retries.count(call.started)
        if services.tracer is not None:
            self._span = services.tracer.start(call)
        if named:
            self._route = Route(call.model)  # until it is known what it builds on
            self._deadline = call.started + _RECALL_SECONDS
            self._recalling = asyncio.ensure_future(self._recall(named))
        else:
            self._guarded(self._begin)

    def on_client_left(self) -> None:
        """The client has hung up."""
        self._guarded(lambda: self._give_up(None))

    def on_client_full(self) -> None:
        """The client reads more slowly than the upstream writes."""
        if self._phase != _OVER and not self._is_paused:
            self._is_paused = True
            self._deadline = time.monotonic() + self._services.settings.gateway.write_seconds
            if self.carrier is not None:
                self.carrier.pause()

    def on_client_ready(self) -> None:
        """It has caught up."""
        if self._is_paused:
            self._is_paused = False
            self._deadline = min(time.monotonic() + self._server.idle_seconds, self._last_moment)
            if self.carrier is not None:
                self.carrier.resume()

    def on_shutdown(self) -> None:
        """The server's grace is over."""
        error = ApiError(503, "gateway_stopping", "the gateway is shutting down", retry_after=1)
        self._guarded(lambda: self._break_off(error))

    def on_tick(self, now: float) -> None:
        """End the call if it has waited too long; called every fraction of a second."""
        if now >= self._deadline:
            self._guarded(lambda: self._on_deadline(now))

    # -- what the upstream calls ---------------------------------------------------

    def on_head(self, head: AnswerHead) -> None:
        """The upstream has begun to answer."""
        try:
            self._take_head(head)
        except Exception as error:  # the last handler of a call
            self._on_bug(error)

    def on_piece(self, piece: bytes, is_last: bool) -> None:
        """Bytes of the answer."""
        try:
            self._take(piece, is_last)
        except Exception as error:  # the last handler of a call
            self._on_bug(error)

    def on_failure(self, code: str, message: str) -> None:
        """The upstream does not answer, or not to the end."""
        status = {"upstream_down": 503, "upstream_timeout": 504}.get(code, 502)
        self._guarded(lambda: self._fail(ApiError(status, code, message, retry_after=1)))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # the last handler of a call
            self._on_bug(error)

    def _on_bug(self, error: Exception) -> None:
        logger.error("a call failed", exc_info=error)
        if self._phase == _OVER:  # what was to be the answer could not be handed over
            self._client.abort()
            return
        self._break_off(ApiError(500, "internal_error", "the gateway failed; see its log"))

    # -- asking --------------------------------------------------------------------

    async def _recall(self, named: list[str]) -> None:
        """Look up the responses that the call builds on, then begin."""
        store, call = self._services.responses, self._call
        known = store.recall(call.caller.tenant, named)
        if len(known) < len(named):
            known = await asyncio.to_thread(store.load, call.caller.tenant, named)
        if known:
            call.earlier = earlier_of(known, call.body.get("previous_response_id"))
            call.continue_trajectory(call.earlier.trajectory_id)
        if self._phase != _OVER:
            self._guarded(self._begin)

    def _begin(self) -> None:
        self._target = self._targets[0]
        try:
            self._ask_target()
        except ApiError as error:
            self._ask_the_next(error)

    def _ask_target(self) -> None:
        """Route the call to its target, and send it. Raises ApiError as `_ask` does."""
        try:
            self._route = self._services.route(self._target, self._call)
        except ApiError:
            self._route = Route(self._call.model)  # for its record
            raise
        self._ask()

    def _ask(self) -> None:
        """Send the call where `_route` says. Raises ApiError when that cannot be done now."""
        services, call, now = self._services, self._call, time.monotonic()
        self._server = services.servers[self._target.upstream]
        self._asked = ask(call, self._target, self._route)
        self._replica = self._server.choose(call.affinity, now, avoid=self._failed)
        self._stamp = stamp = self._replica.stamp
        if stamp is not None:
            self._route = at_replica(self._route, stamp.version)
        services.policies.enter(self._route)
        self._tries += 1
        self._sent = now
        self._phase = _CONNECTING
        self._last_moment = now + self._server.total_seconds
        self._deadline = now + self._server.connect_seconds
        if self._span is not None:
            self._span.ask(self._target, self._route, self._replica.url)
        self._server.send(self._replica, self, self._asked, call)

    def _ask_the_next(self, error: ApiError) -> None:
        """The next upstream in line answers; without one, `error` does."""
        while (position := self._targets.index(self._target) + 1) < len(self._targets):
            self._target = self._targets[position]
            self._services.metrics.fallbacks.inc()
            try:
                self._ask_target()
            except ApiError as refused:
                error = refused
            else:
                return
        self._break_off(error)

    def _fail(self, error: ApiError) -> None:
        """The upstream failed. Before its first byte another may answer, after it none."""
        if self._phase == _OVER:
            return
        if self._phase == _ENDING:
            self._finish()  # the answer is whole; how its connection ends is nobody's concern
            return
        self._failed = self._release(is_well=False)
        if self._has_begun or self._first_byte is not None:
            self._break_off(error)
        elif self._may_try_again(error):
            self._services.metrics.retries.inc()
            try:
                self._ask()
            except ApiError as refused:
                self._ask_the_next(refused)
        else:
            self._ask_the_next(error)

    def _may_try_again(self, error: ApiError) -> bool:
        """Whether another replica may be asked: never after a time-out, and within a budget."""
        if error.status == 504 or self._tries > self._server.retries:
            return False
        is_alone = len(self._server.replicas) == 1 and error.code == "upstream_down"
        return not is_alone and self._services.retries.allow(time.monotonic())

    def _release(self, *, is_well: bool | None) -> Replica | None:
        """The upstream is done with the call, whatever way; None: nobody knows. Safe to repeat."""
        replica, self._replica = self._replica, None
        if replica is not None:
            self._ended = time.monotonic()
            self._services.policies.leave(self._route)
            if replica.stamp is not self._stamp:
                self._route = at_replica(self._route, None)
            self._server.come_back(replica, is_well=is_well, now=self._ended)
        return replica

    def _cancel(self) -> None:
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.cancel()

    # -- answering -----------------------------------------------------------------

    def _take_head(self, head: AnswerHead) -> None:
        status = head.status
        is_lora = self._stamp is None  # where an engine's own weights are the version, none is lost
        is_adapter = is_lora and self._route.alias is not None and bool(self._route.version)
        if status == 404 and is_adapter:
            # The engine restarted and lost the adapter: the base model answers, and says so.
            self._cancel()
            self._release(is_well=True)
            self._services.metrics.fallbacks.inc()
            self._route = self._services.base_route(self._call, self._route)
            try:
                self._ask()
            except ApiError as refused:
                self._ask_the_next(refused)
            return
        if status in _ANSWERED_BY_THE_NEXT and self._target is not self._targets[-1]:
            self._cancel()
            self._release(is_well=status not in FAILURE_STATUSES)
            self._ask_the_next(ApiError(status, "upstream_error", f"the upstream said {status}"))
            return
        if not 200 <= status <= 599:
            self._cancel()
            message = f"the upstream answered with the status {status}"
            self._fail(ApiError(502, "upstream_garbage", message, retry_after=1))
            return
        self._status = status
        self._phase = _WAITING
        # A server may send its head at once, and then think for as long as it may.
        self._deadline = min(self._sent + self._server.first_byte_seconds, self._last_moment)
        self._is_streamed = head.is_stream
        self._needs_bytes = self._is_streamed and self._asked.reply.needs_bytes
        self._head = head.returned + self._own_head()

    def _take(self, piece: bytes, is_last: bool) -> None:
        if self._phase == _OVER:
            return
        now = time.monotonic()
        if self._first_byte is None:
            self._first_byte = now
            self._phase = _ANSWERING
        if not self._is_paused and self._phase != _ENDING:
            self._deadline = min(now + self._server.idle_seconds, self._last_moment)
        if self._is_streamed:
            self._take_events(piece, is_last)
        elif not self._keep(piece):
            self._cancel()
            message = f"the upstream's answer is larger than {MAX_ANSWER_BYTES} bytes"
            self._fail(ApiError(502, "upstream_too_large", message))
        elif is_last:
            self._finish_whole()

    def _keep(self, piece: bytes) -> bool:
        """Keep bytes of the answer, if there are not too many."""
        self._size += len(piece)
        if self._size > MAX_ANSWER_BYTES:
            return False
        self._pieces.append(piece)
        return True

    def _take_events(self, piece: bytes, is_last: bool) -> None:
        reply = self._asked.reply
        cleaned = reply.feed(piece)
        if self._needs_bytes:
            self._keep(piece)
        if is_last:
            self._finish(cleaned)
            return
        if reply.is_done and self._phase == _ANSWERING:
            self._phase = _ENDING
            self._deadline = time.monotonic() + _TAIL_SECONDS
        if not self._has_begun:
            self._has_begun = True
            self._client.begin(200, self._head, cleaned)
        elif cleaned:
            self._client.write(cleaned)

    def _finish(self, cleaned: bytes = b"") -> None:
        """The upstream has ended a stream."""
        reply = self._asked.reply
        rest = reply.finish()
        if not reply.is_done:
            message = "the upstream ended its answer without saying that it was whole"
            self._break_off(ApiError(502, "upstream_broke_off", message), cleaned)
            return
        self._release(is_well=True)
        self._record(None)
        self._services.keep_response(self._call, self._asked)
        self._over()
        if self._has_begun:
            self._client.end(cleaned + rest)
        else:
            self._client.begin(200, self._head, cleaned + rest)
            self._client.end(b"")

    def _finish_whole(self) -> None:
        raw = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._release(is_well=self._status not in FAILURE_STATUSES)
        if self._status >= 400:
            body, folded = self._asked.reply.refusal(self._status, raw)
            body = self._services.redactor.without_known(body)
            self._record(Outcome.FAILED, folded)
        else:
            try:
                body, folded = self._asked.reply.whole(raw)
            except ApiError as error:
                self._break_off(error)
                return
            self._record(None, folded)
            self._services.keep_response(self._call, self._asked)
        self._over()
        self._client.reply(self._status, self._head, body)

    # -- ends that are none --------------------------------------------------------

    def _on_deadline(self, now: float) -> None:
        if not self._tries:
            message = "the responses that this one builds on could not be read in time"
            self._break_off(ApiError(503, "responses_unavailable", message, retry_after=1))
            return
        server = self._server
        if self._is_paused:
            self._give_up(f"read nothing for {self._services.settings.gateway.write_seconds:g} s")
            self._client.abort()
        elif self._phase == _ENDING:
            self._cancel()
            self._finish()
        elif self._phase == _CONNECTING and self._is_connected:
            self._phase = _WAITING
            self._deadline = self._sent + server.first_byte_seconds
        else:
            self._cancel()
            message = self._waited_for(now)
            headers = {} if self._has_begun else {"x-should-retry": "true"}
            self._fail(ApiError(504, "upstream_timeout", message, retry_after=1, headers=headers))

    def _waited_for(self, now: float) -> str:
        server = self._server
        if now >= self._last_moment:
            return f"the upstream did not end its answer within {server.total_seconds:g} seconds"
        if self._phase == _CONNECTING:
            return f"no connection to the upstream within {server.connect_seconds:g} seconds"
        if self._phase == _WAITING:
            return f"the upstream did not answer within {server.first_byte_seconds:g} seconds"
        return f"the upstream sent nothing for {server.idle_seconds:g} seconds"

    @property
    def _is_connected(self) -> bool:
        return self.carrier is not None and self.carrier.is_open

    def _give_up(self, error: str | None) -> None:
        """The client is gone, or as good as gone."""
        if self._phase == _OVER:
            return
        self._cancel()
        self._release(is_well=None)
        self._record(Outcome.DISCONNECTED, error=error)
        self._over(status=499)

    def _break_off(self, error: ApiError, cleaned: bytes = b"") -> None:
        """Tell the client that there is no answer, or no more of it."""
        if self._phase == _OVER:
            return
        self._cancel()
        self._release(is_well=None)
        outcome = Outcome.INCOMPLETE if self._first_byte is not None else Outcome.FAILED
        status = self._status if self._has_begun else error.status
        try:
            self._record(outcome, error=error.message, status=status)
        except Exception:  # the client is told in any case
            self._services.metrics.dropped.inc()
            logger.exception("a record was lost", extra={"record": self._call.id})
        self._over(status=status)
        if self._has_begun:
            self._client.end(cleaned + self._asked.reply.broken(error.code, error.message))
            return
        body = error_body(self._call.dialect, error, self._call.id)
        body = self._services.redactor.without_known(body)
        if cleaned:
            self._client.begin(200, self._head, cleaned)
            self._client.end(self._asked.reply.broken(error.code, error.message))
        else:
            self._client.reply(error.status, error.head + self._own_head(), body)

    def _over(self, status: int | None = None) -> None:
        """Nothing more will come: count, and let go."""
        self._phase = _OVER
        services, call, now = self._services, self._call, time.monotonic()
        services.exchanges.discard(self)
        upstream_seconds = self._ended - self._sent if self._ended is not None else 0.0
        services.metrics.calls.add(
            call.dialect, status or self._status, now - call.started, upstream_seconds
        )

    # -- the record ----------------------------------------------------------------

    def _record(
        self,
        outcome: Outcome | None,
        folded: Folded | None = None,
        *,
        error: str | None = None,
        status: int | None = None,
    ) -> None:
        """Record once. Without an `outcome` the answer says whether it is complete.

        A whole answer comes folded; a stream is folded on its way to Redis.
        """
        services, call, asked = self._services, self._call, self._asked
        usage = asked.reply.usage if folded is None else folded.usage
        if usage is None and folded is None and asked.reply.needs_bytes:
            usage = usage_of(asked.stream_dialect, self._pieces)
        if usage:
            services.spend(call.caller, usage)
        if self._span is not None:
            self._span.end(status or self._status, outcome, usage, lambda: self._answer(folded))
        if not call.is_recorded:
            return
        if self._route.version is None and self._route.policy is not None:
            services.metrics.mixed.inc()
        services.metrics.outcomes.add(outcome or _outcome_of(folded))
        ending = Ending(
            outcome=outcome,
            ended=time.monotonic() if self._ended is None else self._ended,
            first_byte=self._first_byte,
            http_status=status or self._status,
            error=error,
            is_streamed=self._is_streamed,
        )

        def payload() -> bytes:
            chat_form = chat_form_of(call) if asked is NOT_ASKED else asked.chat_form
            record = record_of(
                call, self._route, ending, gateway=services.gateway_id, chat_form=chat_form
            )
            if services.survey is not None and call.rollout is None:
                record["ask"] = services.survey.share
                record["is_asked"] = services.survey.asks(call.trajectory_id)
            if folded is not None or not self._is_streamed:
                return whole_payload(record, folded or Folded(), services.redactor)
            if not asked.reply.needs_bytes:
                return whole_payload(record, asked.reply.folded(), services.redactor)
            stream = b"".join(self._pieces)
            return stream_payload(record, asked.stream_dialect, stream, services.redactor)

        services.recorder.record(call.id, payload)

    def _answer(self, folded: Folded | None) -> Folded:
        """What was answered, for a span; as slow as a stream is long."""
        reply = self._asked.reply
        if folded is not None or not self._is_streamed:
            return folded or Folded()
        if not reply.needs_bytes:
            return reply.folded()
        return FOLDS[self._asked.stream_dialect](b"".join(self._pieces))

    def _own_head(self) -> bytes:
        call, route = self._call, self._route
        head = b"x-request-id: %b\r\nx-ratchet-trajectory-id: %b\r\n" % (
            call.id.encode(),
            call.trajectory_id.encode(),
        )
        survey = self._services.survey
        if survey is not None and call.rollout is None and survey.asks(call.trajectory_id):
            head += b"x-ratchet-ask: 1\r\n"
        if route.policy is None:
            return head
        version = "mixed" if route.version is None else str(route.version)
        policy = f"{route.policy}@{version}".encode()
        return b"%bx-ratchet-policy: %b\r\n" % (head, policy)


def _outcome_of(folded: Folded | None) -> Outcome:
    """Of a call that ended well: a stream was whole, or it would not have."""
    is_complete = folded is None or folded.is_complete
    return Outcome.COMPLETE if is_complete else Outcome.INCOMPLETE
