"""From a body to the records that are kept: targets, worth, identity. Pure."""

from collections.abc import Iterator
from typing import Any

from gateway.attribution import clean_id
from gateway.feedback_body import FeedbackBody, form_of, invalid
from gateway.feedback_styles import BESIDES
from trajectories import names
from trajectories.ids import derived_id, trajectory_id
from trajectories.model import Feedback, FeedbackSource
from trajectories.names import text_digest
from trajectories.settings import RewardSettings
from trajectories.worth import worth

_TRANSITIONS = ("response_id", "request_id", "span_id", "tool_call_id", "output_text")
_TRAJECTORIES = ("session_id", "task_id", "trajectory_id")
_KINDS = {
    "request_id": names.REQUEST,
    "span_id": names.SPAN,
    "tool_call_id": names.TOOL_CALL,
    "output_text": names.TEXT,
}


def to_records(
    body: FeedbackBody,
    settings: RewardSettings,
    *,
    feedback_id: str,
    tenant: str,
    key: str | None,
    path_session: str | None,
    now: float,
) -> list[Feedback]:
    """The vote, and behind it what was said besides under names of its own.

    Raises ApiError 422 when the target is missing or there are several.
    """
    target = _target(body, tenant, path_session)
    source = body.source or FeedbackSource(id=key or "default")
    form = form_of(body)
    value = getattr(body, form) if form is not None else None
    reward = worth(form, value, settings.metrics.get(body.name))
    shared: dict[str, Any] = {
        "tenant": tenant,
        "key": key,
        "source": source,
        "received_at": now,
        **target,
    }
    vote = Feedback(
        id=feedback_id,
        identity=_identity(body, target, body.name, source),
        name=body.name,
        form=form,
        reward=_with_bonuses(reward, body, settings),
        value=value,
        comment=body.comment,
        correction=body.correction,
        metadata=_metadata(body),
        is_final=body.final,
        has_own_id=body.id is not None,
        **shared,
    )
    return [vote, *_besides(body, vote, settings)]


def said_with(feedback_id: str) -> tuple[str, ...]:
    """Ids of all that may have been said besides a vote: they are taken back with it."""
    return tuple(derived_id("fb", feedback_id, name) for name in BESIDES)


def _besides(body: FeedbackBody, vote: Feedback, settings: RewardSettings) -> Iterator[Feedback]:
    """Kept under their own names; a reward only where settings say what such a value is worth."""
    for name, value in body.also.items():
        if name == vote.name:
            continue
        metric = settings.metrics.get(name)
        update: dict[str, Any] = {
            "id": derived_id("fb", vote.id, name),
            "identity": derived_id("vote", vote.identity, name),
            "name": name,
            "form": "value",
            "reward": worth("value", value, metric) if metric is not None else None,
            "value": value,
            "comment": None,
            "correction": None,
            "is_final": False,
            "metadata": {"said_with": vote.id},
        }
        yield vote.model_copy(update=update)


def _with_bonuses(
    reward: float | None, body: FeedbackBody, settings: RewardSettings
) -> float | None:
    added = 0.0
    if body.bonuses.get("satisfied"):
        added += settings.satisfied_bonus
    if body.bonuses.get("used_result"):
        added += settings.used_result_bonus
    if reward is None:
        return None
    return min(1.0, max(-1.0, reward + added))


def _identity(body: FeedbackBody, target: dict[str, Any], name: str, source: FeedbackSource) -> str:
    if body.id is not None:
        return derived_id("vote", "id", body.id)
    about = target["response_id"] or target["named"] or target["trajectory_id"]
    choice = () if body.choice is None else (str(body.choice),)
    return derived_id("vote", about, str(target["step"]), name, source.type, source.id, *choice)


def _target(body: FeedbackBody, tenant: str, path_session: str | None) -> dict[str, Any]:
    """The target's fields of `Feedback`."""
    transitions = [name for name in _TRANSITIONS if getattr(body, name) is not None]
    trajectories = [name for name in _TRAJECTORIES if getattr(body, name) is not None]
    for named in (transitions, trajectories):
        if len(named) > 1:
            raise invalid(named[1], f"name one target, not {' and '.join(named)}", "many_targets")
    target: dict[str, Any] = dict.fromkeys(
        ("response_id", "named", "trajectory_id", "step", "choice", "within")
    )
    trajectory = _trajectory(body, tenant)
    if transitions:
        (field,) = transitions
        if body.step is not None:
            message = f"`step` counts in a session or task: leave it out, or `{field}`"
            raise invalid("step", message, "many_targets")
        value = getattr(body, field)
        if field == "response_id":
            target["response_id"] = value
        else:
            value = text_digest(value) if field == "output_text" else value
            target["named"] = f"{_KINDS[field]}:{value}"
        target["choice"] = body.choice
        # A task may have gone through several sessions: it is looked at when it is known.
        target["within"] = trajectory if body.task_id is None else None
        return target
    if trajectory is None and path_session is not None:
        trajectory = trajectory_id(tenant, session=path_session, task=None)
    if trajectory is None:
        raise invalid(
            "response_id",
            f"say what this is about: {', '.join(_TRANSITIONS)}, session_id, task_id or"
            " trajectory_id (or post under /t/{session})",
            "no_target",
        )
    if body.choice is not None and body.step is None:
        message = "`choice` is one of the answers of a response: name the response, or a `step`"
        raise invalid("choice", message, "no_target")
    target["trajectory_id"], target["step"] = trajectory, body.step
    target["choice"] = body.choice
    return target


def _trajectory(body: FeedbackBody, tenant: str) -> str | None:
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


def _metadata(body: FeedbackBody) -> dict[str, Any]:
    kept = dict(body.metadata or {})
    for name, added in (("tags", body.tags), ("extra", body.model_extra)):
        if added:
            own = kept.get(name)
            # What the client put there itself stays, where both are maps; else under another name.
            if own is not None and not isinstance(own, dict):
                kept[f"own_{name}"] = own
            kept[name] = {**own, **added} if isinstance(own, dict) else added
    return kept
