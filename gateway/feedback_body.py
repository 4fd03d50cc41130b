"""What a client may post as feedback, and the value it means. Pure.

One flat body serves a curl one-liner, a thumb in a browser, a judge job, and
bodies written for other products. Errors name the field; a bool is a value and
never a number; what is not understood is kept, not refused.
"""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.attribution import clean_id
from gateway.dialects.chat import parse_object
from gateway.errors import ApiError
from trajectories.ids import TRAJECTORY_PATTERN, derived_id, trajectory_id
from trajectories.model import Feedback, FeedbackSource

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
_COMMENT_BYTES = 16 * 1024
_CORRECTION_BYTES = 64 * 1024
_ALIASES = {
    "inference_id": "response_id",
    "span_id": "response_id",
    "episode_id": "trajectory_id",
    "key": "name",
    "metric_name": "name",
    "score": "value",
    "feedback_text": "comment",
    "demonstration": "correction",
    "dryrun": "dry_run",
}
_THUMBS = {"up": 1.0, "down": -1.0}
_FORMS = ("value", "reward", "thumb", "rating")
_TARGETS = ("session_id", "task_id", "trajectory_id")

Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# The engine makes a response id out of what the client sent; so it may hold any visible character.
ResponseId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,512}$")]
# No colon: under the key of a trajectory lie its votes and its rewards.
TrajectoryId = Annotated[str, StringConstraints(pattern=TRAJECTORY_PATTERN)]


class FeedbackBody(BaseModel):
    """The body after aliases were renamed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    response_id: ResponseId | None = None
    session_id: Id | None = None
    task_id: Id | None = None
    trajectory_id: TrajectoryId | None = None
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "reward"
    value: bool | float | Annotated[str, StringConstraints(max_length=256)] | None = None
    reward: Annotated[float, Field(ge=-1, le=1)] | None = None
    thumb: str | None = None
    rating: Annotated[float, Field(ge=1, le=5)] | None = None
    comment: str | None = None
    correction: str | list[dict[str, Any]] | None = None
    source: FeedbackSource | None = None
    tags: dict[str, str] | None = None
    metadata: dict[str, Any] | None = None
    id: Id | None = None
    final: bool = False
    dry_run: bool = False


def parse_feedback(raw: bytes) -> FeedbackBody:
    """The body, or an ApiError: 400 for what is not JSON, 422 for what is not feedback."""
    body = parse_object(raw, MAX_DEPTH)
    for alias, name in _ALIASES.items():
        if alias in body:
            given = body.pop(alias)
            if body.get(name) not in (None, given):
                raise invalid(name, f"`{alias}` and `{name}` say different things")
            body[name] = given
    try:
        parsed = FeedbackBody.model_validate(body)
    except ValidationError as error:
        issue = error.errors()[0]
        field = str(issue["loc"][0]) if issue["loc"] else None
        raise invalid(field, f"`{field}`: {issue['msg']}") from error
    _check_sizes(parsed)
    _check_forms(parsed)
    return parsed


def invalid(param: str | None, message: str, code: str = "bad_value") -> ApiError:
    return ApiError(422, code, message, param=param)


def _check_sizes(body: FeedbackBody) -> None:
    if body.comment is not None and len(body.comment.encode()) > _COMMENT_BYTES:
        raise invalid("comment", "`comment` is longer than 16 KB")
    if len(orjson.dumps(body.correction)) > _CORRECTION_BYTES:
        raise invalid("correction", "`correction` is longer than 64 KB")
    if len(orjson.dumps(body.metadata)) > _COMMENT_BYTES:
        raise invalid("metadata", "`metadata` is longer than 16 KB")
    if len(body.tags or {}) > 32:
        raise invalid("tags", "there are more than 32 tags")


def _check_forms(body: FeedbackBody) -> None:
    forms = [name for name in _FORMS if getattr(body, name) is not None]
    if len(forms) > 1:
        raise invalid(forms[1], f"give one of {', '.join(_FORMS)}, not {' and '.join(forms)}")
    if not forms and body.comment is None and body.correction is None:
        raise invalid(
            "value", "give a value, reward, thumb, rating, comment or correction: there is none"
        )
    if body.thumb is not None and body.thumb not in _THUMBS:
        raise invalid("thumb", "`thumb` is up or down")


def reward_of(body: FeedbackBody) -> float | None:
    """The reward a vote stands for, in [-1, 1]; None when it names no worth."""
    if body.reward is not None:
        return float(body.reward)
    if body.thumb is not None:
        return _THUMBS[body.thumb]
    if body.rating is not None:
        return (body.rating - 1) / 4 * 2 - 1
    if isinstance(body.value, bool):
        return 1.0 if body.value else -1.0
    if isinstance(body.value, float | int) and -1 <= body.value <= 1:
        return float(body.value)
    return None


def to_feedback(
    body: FeedbackBody, *, feedback_id: str, tenant: str, path_session: str | None, now: float
) -> Feedback:
    """The record of a vote. Raises ApiError 422 when its target is missing or ambiguous."""
    response, trajectory = _target(body, tenant, path_session)
    source = body.source or FeedbackSource()
    target = response or trajectory or ""
    if body.id is not None:
        identity = derived_id("vote", "id", body.id)
    else:
        identity = derived_id("vote", target, body.name, source.type, source.id)
    return Feedback(
        id=feedback_id,
        identity=identity,
        tenant=tenant,
        response_id=response,
        trajectory_id=None if response else trajectory,
        name=body.name,
        reward=reward_of(body),
        value=_stated(body),
        comment=body.comment,
        correction=body.correction,
        source=source,
        metadata=_metadata(body),
        is_final=body.final,
        received_at=now,
    )


def named_trajectory(body: FeedbackBody, tenant: str) -> str | None:
    """The trajectory the body names, directly or by session or task."""
    if body.trajectory_id is not None:
        return body.trajectory_id
    if body.session_id is None and body.task_id is None:
        return None
    session, task = clean_id(body.session_id), clean_id(body.task_id)
    if session is None and task is None:
        name = "session_id" if body.session_id is not None else "task_id"
        raise invalid(name, f"`{name}` is blank", "no_target")
    return trajectory_id(tenant, session=session, task=task)


def _target(
    body: FeedbackBody, tenant: str, path_session: str | None
) -> tuple[str | None, str | None]:
    named = [name for name in _TARGETS if getattr(body, name) is not None]
    if len(named) > 1:
        raise invalid(named[1], f"name one target, not {' and '.join(named)}", "many_targets")
    trajectory = named_trajectory(body, tenant)
    if trajectory is None and body.response_id is None and path_session is not None:
        trajectory = trajectory_id(tenant, session=path_session, task=None)
    if trajectory is None and body.response_id is None:
        raise invalid(
            "response_id",
            "say what this is about: response_id, session_id, task_id or trajectory_id"
            " (or post under /t/{session})",
            "no_target",
        )
    return body.response_id, trajectory


def _stated(body: FeedbackBody) -> bool | float | str | None:
    for value in (body.value, body.reward, body.thumb, body.rating):
        if value is not None:
            return value
    return None


def _metadata(body: FeedbackBody) -> dict[str, Any]:
    kept = dict(body.metadata or {})
    if body.tags:
        kept["tags"] = body.tags
    if body.model_extra:
        kept["extra"] = body.model_extra
    return kept
