"""GET /v1/trajectories: what was recorded of a session, a task or an id, and what it was worth."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from gateway.attribution import clean_id
from gateway.errors import ApiError
from gateway.feedback import By, Shared
from gateway.feedback_body import invalid
from gateway.feedback_desk import no_redis
from gateway.services import Services
from gateway.wire.paths import path_ids
from trajectories.connection import RedisError
from trajectories.errors import ArchiveError
from trajectories.ids import TRAJECTORY_PATTERN, trajectory_id
from trajectories.model import Trajectory
from trajectories.store import TrajectoryRef

router = APIRouter()


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
        if found is None and _is_id(wanted.id):
            found = services.cold.read(ref or wanted)
    except RedisError as error:
        raise no_redis() from error
    except ArchiveError as error:
        message = "the trajectory may be in the archive, which cannot be read now"
        raise ApiError(503, "no_archive", message, retry_after=30) from error
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
