"""What a client may post as feedback: one flat body, its aliases, and its refusals. Pure.

It serves a curl one-liner, a thumb in a browser, a judge job, and bodies written
for other products (`feedback_styles`). Errors name the field; a bool is a value
and never a number; what is not understood is kept, not refused.
"""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.dialects.chat import parse_object
from gateway.errors import ApiError
from gateway.feedback_styles import unfold_styles
from trajectories.ids import TRAJECTORY_PATTERN
from trajectories.model import FeedbackSource
from trajectories.worth import THUMBS

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
FORMS = ("value", "reward", "thumb", "rating")
_COMMENT_BYTES = 16 * 1024
_CORRECTION_BYTES = 64 * 1024
_ALIASES = {
    "inference_id": "response_id",
    "episode_id": "trajectory_id",
    "key": "name",
    "metric_name": "name",
    "score": "value",
    "feedback_text": "comment",
    "demonstration": "correction",
    "dryrun": "dry_run",
}

Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# The engine makes a response id out of what the client sent; so it may hold any visible character.
VisibleId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,512}$")]
# No colon: under the key of a trajectory lie its votes and its rewards.
TrajectoryId = Annotated[str, StringConstraints(pattern=TRAJECTORY_PATTERN)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FeedbackBody(BaseModel):
    """The body after aliases were renamed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    response_id: VisibleId | None = None
    request_id: VisibleId | None = None
    span_id: VisibleId | None = None
    tool_call_id: VisibleId | None = None
    output_text: Annotated[str, StringConstraints(min_length=1)] | None = None
    step: Annotated[int, Field(ge=-100_000, le=100_000)] | None = None
    choice: Annotated[int, Field(ge=0, le=1000)] | None = None
    session_id: Id | None = None
    task_id: Id | None = None
    trajectory_id: TrajectoryId | None = None
    name: Name = "reward"
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
    # Set by a style: what is added to the reward, and what else was said under names of its own.
    bonuses: dict[str, bool] = Field(default_factory=dict, exclude=True)
    also: dict[str, bool | float] = Field(default_factory=dict, exclude=True)
    is_plain_200: bool = Field(False, exclude=True)  # whether an accepted vote is a 200


_INNER = ("bonuses", "also", "is_plain_200")


def parse_feedback(raw: bytes) -> FeedbackBody:
    """The body, or an ApiError: 400 for what is not JSON, 422 for what is not feedback."""
    return read_feedback(parse_object(raw, MAX_DEPTH))


def read_feedback(body: dict[str, Any]) -> FeedbackBody:
    """One item that was parsed; raises ApiError 422."""
    for name in _INNER:
        body.pop(name, None)
    style = unfold_styles(body)
    for alias, name in _ALIASES.items():
        if alias in body:
            given = body.pop(alias)
            if body.get(name) not in (None, given):
                raise invalid(name, f"`{alias}` and `{name}` say different things")
            body[name] = given
    try:
        parsed = FeedbackBody.model_validate({**body, **style})
    except ValidationError as error:
        issue = error.errors()[0]
        field = str(issue["loc"][0]) if issue["loc"] else None
        raise invalid(field, f"`{field}`: {issue['msg']}") from error
    _check_sizes(parsed)
    _check_forms(parsed)
    return parsed


def invalid(param: str | None, message: str, code: str = "bad_value") -> ApiError:
    return ApiError(422, code, message, param=param)


def form_of(body: FeedbackBody) -> str | None:
    """The field in which the worth was said."""
    return next((name for name in FORMS if getattr(body, name) is not None), None)


def _check_sizes(body: FeedbackBody) -> None:
    if body.comment is not None and len(body.comment.encode()) > _COMMENT_BYTES:
        raise invalid("comment", "`comment` is longer than 16 KB")
    if len(_encoded(body.correction, "correction")) > _CORRECTION_BYTES:
        raise invalid("correction", "`correction` is longer than 64 KB")
    kept = {**(body.metadata or {}), **(body.model_extra or {})}
    if len(_encoded(kept, "metadata")) > _COMMENT_BYTES:
        raise invalid("metadata", "`metadata`, with all unknown fields, is longer than 16 KB")
    if len(body.tags or {}) > 32:
        raise invalid("tags", "there are more than 32 tags")
    if body.source is not None and not 0 < len(body.source.id) <= 256:
        raise invalid("source", "`source.id` has 1 to 256 characters")


def _encoded(value: Any, name: str) -> bytes:
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, ValueError) as error:
        raise invalid(name, f"`{name}` cannot be written as JSON") from error


def _check_forms(body: FeedbackBody) -> None:
    forms = [name for name in FORMS if getattr(body, name) is not None]
    if len(forms) > 1:
        raise invalid(forms[1], f"give one of {', '.join(FORMS)}, not {' and '.join(forms)}")
    if not forms and body.comment is None and body.correction is None and not body.also:
        raise invalid(
            "value", "give a value, reward, thumb, rating, comment or correction: there is none"
        )
    if body.thumb is not None and body.thumb not in THUMBS:
        raise invalid("thumb", "`thumb` is up or down")
