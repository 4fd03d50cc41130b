"""A call that was understood, and the record it becomes. Pure.

What is made for each call has its `__init__` written out, here and elsewhere: one
that `dataclass` makes stays Python when the rest is compiled, at 0.3 to 0.7 µs.
"""

from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import orjson

from gateway.access import Caller
from gateway.attribution import BODY_ID_FIELDS, Attribution
from gateway.dialects.chat import sampling_of
from gateway.dialects.fold import Folded
from gateway.responses_store import Earlier
from gateway.routing import Route
from trajectories.model import Outcome
from trajectories.settings import Dialect

_BODY_IDS = frozenset(BODY_ID_FIELDS)


@dataclass(slots=True, init=False)
class Call:
    """What is asked, by whom, and as part of what. Not changed once it is sent."""

    id: str
    dialect: Dialect
    caller: Caller
    started_at: float  # unix seconds
    started: float  # monotonic seconds
    raw: bytes
    body: dict[str, Any]
    model: str  # the client's name for it
    passed_on: bytes  # header lines for the upstream
    query: bytes
    attribution: Attribution
    trajectory_id: str
    affinity: int  # the same through a conversation: what routing sticks to
    is_named: bool  # whether the client said which trajectory it is
    attempt: int
    is_trainable: bool
    is_recorded: bool
    rollout: str | None  # the house asks: the transition that this is a sibling of
    earlier: Earlier | None  # what `previous_response_id` names

    def __init__(
        self,
        *,
        id: str,
        dialect: Dialect,
        caller: Caller,
        started_at: float,
        started: float,
        raw: bytes,
        body: dict[str, Any],
        model: str,
        passed_on: bytes,
        query: bytes,
        attribution: Attribution,
        trajectory_id: str,
        affinity: int,
        is_named: bool,
        attempt: int,
        is_trainable: bool,
        is_recorded: bool,
        rollout: str | None = None,
    ) -> None:
        self.id = id
        self.dialect = dialect
        self.caller = caller
        self.started_at = started_at
        self.started = started
        self.raw = raw
        self.body = body
        self.model = model
        self.passed_on = passed_on
        self.query = query
        self.attribution = attribution
        self.trajectory_id = trajectory_id
        self.affinity = affinity
        self.is_named = is_named
        self.attempt = attempt
        self.is_trainable = is_trainable
        self.is_recorded = is_recorded
        self.rollout = rollout
        self.earlier = None

    def continue_trajectory(self, trajectory_id: str | None) -> None:
        """Take the trajectory of what it builds on, unless its client named another."""
        if trajectory_id is not None and not self.is_named:
            self.trajectory_id = trajectory_id
            self.affinity = crc32(trajectory_id.encode())
            self.is_named = True
            self.attribution = replace(self.attribution, session_source="body")


@dataclass(slots=True, init=False)
class Ending:
    """How a call ended, as far as the gateway saw it. Times are monotonic seconds."""

    outcome: Outcome | None  # None: the answer says
    ended: float
    first_byte: float | None
    http_status: int
    error: str | None
    is_streamed: bool

    def __init__(
        self,
        *,
        outcome: Outcome | None,
        ended: float,
        first_byte: float | None,
        http_status: int,
        error: str | None,
        is_streamed: bool,
    ) -> None:
        self.outcome = outcome
        self.ended = ended
        self.first_byte = first_byte
        self.http_status = http_status
        self.error = error
        self.is_streamed = is_streamed


def request_of(call: Call, chat_form: dict[str, Any] | None) -> Any:
    """What the client asked of the model, without what it told us; for `orjson.dumps`.

    `chat_form` is the body as a chat request where the client spoke another dialect.
    """
    body = call.body if chat_form is None else chat_form
    if not _BODY_IDS.isdisjoint(body):
        return {name: value for name, value in body.items() if name not in _BODY_IDS}
    # The bytes were parsed once and found good: no need to write them anew.
    return orjson.Fragment(call.raw) if chat_form is None else body


def record_of(
    call: Call, route: Route, ending: Ending, *, gateway: str, chat_form: dict[str, Any] | None
) -> dict[str, Any]:
    """The fields of a `Transition`, all but the answer's. What is not set has its default."""
    first, found = ending.first_byte, call.attribution
    record: dict[str, Any] = {
        "id": call.id,
        "tenant": call.caller.tenant,
        "trajectory_id": call.trajectory_id,
        "session_source": found.session_source,
        "key": call.caller.key_id,
        "gateway": gateway,
        "dialect": call.dialect,
        "upstream": route.upstream,
        "is_streamed": ending.is_streamed,
        "started_at": call.started_at,
        "latency_seconds": ending.ended - call.started,
        "first_byte_seconds": None if first is None else first - call.started,
        "request": request_of(call, chat_form),
        "request_id": call.id,
        "http_status": ending.http_status,
        "outcome": ending.outcome,
        "error": ending.error,
        "policy": route.policy,
        "policy_version": route.version,
        "model": route.model,
        "sampling": sampling_of(call.body if chat_form is None else chat_form),
        "attempt": call.attempt,
        "is_trainable": call.is_trainable,
    }
    if found.session is not None:
        record["session_id"] = found.session
    if found.task is not None:
        record["task"] = found.task
    if found.agent is not None:
        record["agent"] = found.agent
    if found.alternates:
        record["alternates"] = found.alternates
    if found.span is not None:
        record["span_id"] = found.span
    if call.rollout is not None:
        record["rollout"] = call.rollout
    return record


def with_answer(record: dict[str, Any], answer: Folded) -> dict[str, Any]:
    """A record with what was answered; the outcome stands if it was known before."""
    record["response_id"] = answer.response_id
    record["prompt_token_ids"] = answer.prompt_token_ids
    record["choices"] = answer.choices
    record["usage"] = answer.usage
    if record["outcome"] is None:
        record["outcome"] = Outcome.COMPLETE if answer.is_complete else Outcome.INCOMPLETE
    record["error"] = record["error"] or answer.error
    return record
