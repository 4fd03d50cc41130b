"""A call that was understood, and the transition it becomes. Pure."""

from dataclasses import dataclass
from typing import Any

from gateway.attribution import BODY_ID_FIELDS, Attribution
from gateway.auth import TENANT
from gateway.dialects.chat import sampling_of
from gateway.dialects.fold import Folded
from gateway.routing import Route
from trajectories.model import Outcome, Transition


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was understood: what is asked, by whom, and where it begins to go."""

    id: str
    started_at: float
    started: float  # monotonic
    body: dict[str, Any]
    headers: list[tuple[bytes, bytes]]
    query: bytes
    attribution: Attribution
    trajectory_id: str
    attempt: int
    is_trainable: bool
    route: Route

    @property
    def request(self) -> dict[str, Any]:
        """What the client asked of the model, without what it told us."""
        return {name: value for name, value in self.body.items() if name not in BODY_ID_FIELDS}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended, as far as the gateway saw it."""

    outcome: Outcome
    ended: float  # monotonic
    first_byte: float | None = None  # monotonic
    http_status: int = 200
    error: str | None = None
    is_streamed: bool = False


def transition_of(
    call: Call, route: Route, answer: Folded, ending: Ending, *, gateway: str
) -> Transition:
    """The record of a call: what was asked, what answered, what came back."""
    first = ending.first_byte
    return Transition(
        id=call.id,
        tenant=TENANT,
        trajectory_id=call.trajectory_id,
        session_id=call.attribution.session,
        session_source=call.attribution.session_source,
        task=call.attribution.task,
        agent=call.attribution.agent,
        gateway=gateway,
        is_streamed=ending.is_streamed,
        started_at=call.started_at,
        latency_seconds=ending.ended - call.started,
        first_byte_seconds=first - call.started if first is not None else None,
        request=call.request,
        response_id=answer.response_id,
        request_id=call.id,
        http_status=ending.http_status,
        outcome=ending.outcome,
        error=ending.error or answer.error,
        policy=route.policy,
        policy_version=route.version,
        model=route.model,
        sampling=sampling_of(call.body),
        prompt_token_ids=answer.prompt_token_ids,
        choices=answer.choices,
        usage=answer.usage,
        attempt=call.attempt,
        is_trainable=call.is_trainable,
    )
