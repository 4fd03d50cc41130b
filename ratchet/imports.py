"""JSON lines to records: our own trajectories and transitions, and chat fine-tuning rows.

Pure. What a row does not say is derived from what it does, so that the same
row gives the same ids however often it is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError

from trajectories.ids import derived_id
from trajectories.lines import LineError, row_of
from trajectories.model import Choice, Feedback, FeedbackSource, Outcome, Transition
from trajectories.privacy.redacting import redacted
from trajectories.privacy.secrets import Redactor

Row = dict[str, Any]

GATEWAY = "import"  # what stands where a recorded call names its gateway
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is taken where a row says nothing."""

    tenant: str
    agent: str | None
    task: str | None
    now: float


@dataclass(frozen=True, slots=True)
class Imported:
    """One trajectory, or a part of it, as records."""

    trajectory_id: str
    transitions: tuple[Transition, ...]
    feedback: tuple[Feedback, ...] = ()


def parse(line: bytes, defaults: Defaults) -> Imported:
    """The records of one line. Raises LineError."""
    row = row_of(line, most_bytes=MAX_LINE_BYTES)
    try:
        if isinstance(row.get("transitions"), list):
            return _trajectory(row, defaults)
        if "messages" in row:
            return _conversation(row, defaults)
        if "transition_id" in row and "input" in row:
            return _transition(row, defaults)
    except ValidationError as error:
        issue = error.errors()[0]
        where = ".".join(str(part) for part in issue["loc"])
        raise LineError(f"{where or 'row'}: {issue['msg']}") from error
    raise LineError(
        "neither a trajectory (`transitions`), nor a chat (`messages`), nor a transition"
        " (`transition_id`, `input`, `output`)"
    )


def _trajectory(row: Row, defaults: Defaults) -> Imported:
    """A line of `ratchet export --format trajectory`."""
    name = str(row.get("trajectory_id") or _derived(row, defaults))
    renamed = {"tenant": defaults.tenant, "trajectory_id": name}
    steps = []
    for number, entry in enumerate(row["transitions"]):
        if not isinstance(entry, dict):
            raise LineError(f"transitions.{number}: not an object")
        steps.append(Transition.model_validate({**entry, **renamed}))
    if not steps:
        raise LineError("transitions: there are none")
    votes = [
        Feedback.model_validate({**entry, "tenant": defaults.tenant})
        for entry in row.get("feedback") or ()
    ]
    if not votes and row.get("reward") is not None and not row.get("rewards"):
        votes = [_vote(row["reward"], name, defaults)]
    return Imported(name, tuple(steps), tuple(votes))


def _transition(row: Row, defaults: Defaults) -> Imported:
    """A line of `ratchet export --format transitions`. It says nothing of who gave a reward."""
    name = _text(row, "trajectory_id") or _derived(row, defaults)
    answers = row.get("output")
    answers = answers if isinstance(answers, list) else [answers]
    found = [answer for answer in answers if isinstance(answer, dict)]
    step = _made(
        _messages(row.get("input"), "input"),
        found,
        defaults,
        name=name,
        number=int(row.get("step") or 0),
        row=row,
        transition_id=_text(row, "transition_id"),
        response_id=_text(row, "response_id"),
    )
    step = step.model_copy(
        update={
            "outcome": Outcome(row.get("outcome") or Outcome.COMPLETE),
            "policy_version": row.get("policy_version"),
            "agent": row.get("agent_id") or step.agent,
            "rollout": _text(row, "rollout"),
        }
    )
    return Imported(name, (step,))


def _conversation(row: Row, defaults: Defaults) -> Imported:
    """A chat fine-tuning row: each answer in it that weighs something is a transition."""
    messages = _messages(row["messages"], "messages")
    name = _text(row, "trajectory_id") or _text(row, "id") or _derived(row, defaults)
    steps = [
        _made(
            [_unweighted(entry) for entry in messages[:at]],
            [_unweighted(message)],
            defaults,
            name=name,
            number=number,
            row=row,
        )
        for number, (at, message) in enumerate(
            (at, message)
            for at, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("weight", 1)
        )
    ]
    if not steps:
        raise LineError("messages: no answer of the assistant that weighs more than 0")
    votes = [_vote(row["reward"], name, defaults)] if row.get("reward") is not None else []
    return Imported(name, tuple(steps), tuple(votes))


def _made(
    sent: list[Row],
    answers: list[Row],
    defaults: Defaults,
    *,
    name: str,
    number: int,
    row: Row,
    transition_id: str | None = None,
    response_id: str | None = None,
) -> Transition:
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise LineError("tools: not a list")
    began = _when(row, defaults)
    return Transition(
        id=transition_id or derived_id("tr", defaults.tenant, name, str(number)),
        tenant=defaults.tenant,
        trajectory_id=name,
        session_id=_text(row, "session_id"),
        session_source=GATEWAY,
        task=_text(row, "task") or defaults.task,
        agent=_text(row, "agent") or defaults.agent,
        gateway=GATEWAY,
        upstream=GATEWAY,
        started_at=began + number * 1e-3,  # in their order
        latency_seconds=0.0,
        request={"messages": sent, **({"tools": tools} if tools else {})},
        response_id=response_id or derived_id("resp", defaults.tenant, name, str(number)),
        model=_text(row, "model") or GATEWAY,
        policy=_text(row, "policy"),
        choices=tuple(
            Choice(
                index=index,
                message=answer,
                finish_reason="tool_calls" if answer.get("tool_calls") else "stop",
            )
            for index, answer in enumerate(answers)
        ),
    )


def _messages(given: Any, field: str) -> list[Row]:
    if not isinstance(given, list) or not given:
        raise LineError(f"{field}: not a list of messages")
    for at, message in enumerate(given):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            roles = ", ".join(ROLES)
            raise LineError(f"{field}.{at}: not a message with one of the roles {roles}")
        weight = message.get("weight", 1)
        if weight not in (0, 1):
            raise LineError(f"{field}.{at}.weight: neither 0 nor 1")
    return given


def _unweighted(message: Row) -> Row:
    return {name: value for name, value in message.items() if name != "weight"}


def _vote(reward: Any, trajectory_id: str, defaults: Defaults) -> Feedback:
    """A reward that a row brings enters as a vote, as every other does."""
    is_number = isinstance(reward, int | float) and not isinstance(reward, bool)
    if not is_number or not math.isfinite(reward) or not -1 <= reward <= 1:
        raise LineError("reward: not a number from -1 to 1")
    name = derived_id("fb", defaults.tenant, trajectory_id, GATEWAY)
    return Feedback(
        id=name,
        identity=name,
        tenant=defaults.tenant,
        trajectory_id=trajectory_id,
        reward=float(reward),
        source=FeedbackSource(type="code", id=GATEWAY),
        received_at=defaults.now,
    )


def _derived(row: Row, defaults: Defaults) -> str:
    """The id of a row that has none: that of its content."""
    content = orjson.dumps(row, option=orjson.OPT_SORT_KEYS).decode()
    return derived_id("traj", defaults.tenant, GATEWAY, content)


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise LineError(f"{name}: not a text")
    return value or None


def _when(row: Row, defaults: Defaults) -> float:
    for name in ("started_at", "timestamp", "created_at"):
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError as error:
                raise LineError(f"{name}: neither unix seconds nor an ISO time") from error
    return defaults.now


def lines(stream: Any) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, and their numbers from 1."""
    for number, line in enumerate(stream, 1):
        if stripped := line.strip():
            yield number, stripped


def cleaned(found: Imported, redactor: Redactor) -> Imported:
    """Without secrets, as a gateway would have recorded it."""
    return replace(
        found,
        transitions=tuple(redacted(step, redactor) for step in found.transitions),
        feedback=tuple(
            Feedback.model_validate(redactor.clean(vote.model_dump(mode="json")))
            for vote in found.feedback
        ),
    )
