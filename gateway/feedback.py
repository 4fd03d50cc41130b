"""Feedback and what became of it: POST and GET /v1/feedback, GET /v1/trajectories.

A vote travels as records do: spool, stream, dispatcher. So it is never lost
because it came early, late, twice, or while Redis was away; the answer only
says what is known now. Plain functions: FastAPI runs them in threads.
"""

import re
import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from gateway.access import Caller
from gateway.attribution import clean_id
from gateway.auth import caller_of
from gateway.errors import ApiError
from gateway.feedback_body import (
    MAX_BYTES,
    FeedbackBody,
    invalid,
    named_trajectory,
    parse_feedback,
    to_feedback,
)
from gateway.services import Services
from gateway.wire.bodies import read_body
from gateway.wire.paths import path_ids
from trajectories.connection import RedisError
from trajectories.errors import SpoolError
from trajectories.ids import TRAJECTORY_PATTERN, trajectory_id
from trajectories.model import Feedback, Trajectory
from trajectories.store import TrajectoryRef

router = APIRouter()


async def raw_body(request: Request) -> bytes:
    """The body as bytes, under the limit of one item."""
    return await read_body(request.scope, request.receive, MAX_BYTES)


def services_of(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Raw = Annotated[bytes, Depends(raw_body)]
Shared = Annotated[Services, Depends(services_of)]
By = Annotated[Caller, Depends(caller_of)]


@router.post("/v1/feedback")
def post_feedback(
    request: Request,
    raw: Raw,
    services: Shared,
    caller: By,
    strict: Annotated[str, Query()] = "",
) -> JSONResponse:
    """Take one vote. It can only ever find what its caller's tenant recorded."""
    body = parse_feedback(raw)
    key = request.headers.get("idempotency-key")
    if body.id is None and key:
        body = body.model_copy(update={"id": key[:512]})
    feedback = to_feedback(
        body,
        # A UUID where we choose: some clients parse it as one.
        feedback_id=body.id or str(uuid.uuid4()),
        tenant=caller.tenant,
        path_session=path_ids(request.scope).session,
        now=time.time(),
    )
    is_strict = strict not in ("", "0", "false")
    try:
        if body.id is not None and (earlier := services.store.feedback(caller.tenant, body.id)):
            return _replay(services, earlier, feedback)
        ref = services.store.resolve(feedback)
    except RedisError as error:
        if is_strict:
            raise _no_redis() from error
        ref = None  # whether it has a target is found out later, on the way
    else:
        _check_agreement(services, body, feedback, ref)
        if ref is None and is_strict:
            raise _unknown_target(feedback)
    if body.dry_run:
        return _reply(200, feedback, ref)
    _keep(services, feedback, "attached" if ref else "pending")
    return _reply(202, feedback, ref)


def _keep(services: Services, feedback: Feedback, status: str) -> None:
    try:
        services.recorder.keep(feedback)
    except SpoolError as error:
        message = "the feedback could not be stored; send it again"
        raise ApiError(503, "not_stored", message, retry_after=5) from error
    services.metrics.feedback.labels(feedback.source.type, status).inc()


def _replay(services: Services, earlier: Feedback, again: Feedback) -> JSONResponse:
    """The same id again: the first reply if it is the same vote, else an error."""
    same_time = {"received_at": 0.0}
    if earlier.model_copy(update=same_time) != again.model_copy(update=same_time):
        raise invalid("id", f"the id {again.id} was used for other feedback", "id_reused")
    return _reply(200, earlier, services.store.resolve(earlier))


def _check_agreement(
    services: Services, body: FeedbackBody, feedback: Feedback, ref: TrajectoryRef | None
) -> None:
    # A task may have gone through several sessions: it is not held against the response.
    named = named_trajectory(body, feedback.tenant) if body.task_id is None else None
    if feedback.response_id is None or ref is None or named in (None, ref.id):
        return
    # A call that was linked to an earlier one has two names: the one its client was told, too.
    if services.store.locate(TrajectoryRef(feedback.tenant, named)) != ref:
        message = "the response and the session or trajectory do not belong together"
        raise invalid("response_id", message, "target_conflict")


def _unknown_target(feedback: Feedback) -> ApiError:
    message = (
        f"nothing was recorded under {feedback.target} yet. A record needs a moment to arrive:"
        " leave out strict=1, and the feedback waits for it"
    )
    return ApiError(404, "unknown_target", message)


def _no_redis() -> ApiError:
    return ApiError(503, "not_stored", "Redis cannot be reached now", retry_after=2)


def _reply(status: int, feedback: Feedback, ref: TrajectoryRef | None) -> JSONResponse:
    content: dict[str, Any] = {
        "feedback_id": feedback.id,
        "status": "attached" if ref else "pending",
        "trajectory_id": ref.id if ref else feedback.trajectory_id,
        "reward": feedback.reward,
    }
    if feedback.reward is None and isinstance(feedback.value, float | int):
        content.update(training="ignored", reason="no_range")
    return JSONResponse(content, status)


@router.get("/v1/feedback/{feedback_id}")
def get_feedback(feedback_id: str, services: Shared, caller: By) -> JSONResponse:
    """One vote as it was posted, and whether it has found its target."""
    try:
        feedback = services.store.feedback(caller.tenant, feedback_id)
        ref = services.store.resolve(feedback) if feedback else None
    except RedisError as error:
        raise _no_redis() from error
    if feedback is None:
        message = f"there is no feedback {feedback_id}, or it has not arrived yet"
        raise ApiError(404, "unknown_feedback", message)
    content = feedback.model_dump(mode="json")
    content["feedback_id"] = feedback.id
    content["status"] = "attached" if ref else "pending"
    content["trajectory_id"] = ref.id if ref else feedback.trajectory_id
    return JSONResponse(content)


@router.get("/v1/trajectories")
def find_trajectory(
    request: Request,
    services: Shared,
    caller: By,
    session_id: Annotated[str | None, Query()] = None,
    task_id: Annotated[str | None, Query()] = None,
) -> JSONResponse:
    """The trajectory of a session or a task."""
    session = clean_id(session_id) or path_ids(request.scope).session
    task = clean_id(task_id)
    if session is None and task is None:
        raise invalid("session_id", "say which one: ?session_id= or ?task_id=", "no_target")
    wanted = trajectory_id(caller.tenant, session=session, task=task)
    return _trajectory(services, TrajectoryRef(caller.tenant, wanted))


@router.get("/v1/trajectories/{wanted}")
def get_trajectory(wanted: str, services: Shared, caller: By) -> JSONResponse:
    """A trajectory: its transitions' ids, and what its reward is made of."""
    return _trajectory(services, TrajectoryRef(caller.tenant, wanted))


def _trajectory(services: Services, wanted: TrajectoryRef) -> JSONResponse:
    try:
        ref = services.store.locate(wanted) if _is_id(wanted.id) else None
        found = services.store.trajectory(ref) if ref else None
    except RedisError as error:
        raise _no_redis() from error
    if found is None:
        message = f"there is no trajectory {wanted.id}, or it has not arrived yet"
        raise ApiError(404, "unknown_trajectory", message)
    return JSONResponse(_view(found))


def _is_id(wanted: str) -> bool:
    return re.fullmatch(TRAJECTORY_PATTERN, wanted) is not None


def _view(trajectory: Trajectory) -> dict[str, Any]:
    content = trajectory.model_dump(mode="json", exclude={"transitions", "tenant"})
    content["transitions"] = [
        {
            "id": transition.id,
            "response_id": transition.response_id,
            "model": transition.model,
            "policy_version": transition.policy_version,
            "outcome": transition.outcome.value,
            "started_at": transition.started_at,
        }
        for transition in trajectory.transitions
    ]
    return content
