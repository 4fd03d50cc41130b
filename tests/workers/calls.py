"""Calls without a session, as linking sees them: short to write, and the stored cases."""

import json
from pathlib import Path
from typing import Any

from trajectories.model import Choice, Outcome, Transition

CASES = Path(__file__).parents[1] / "cases" / "continuations"
CALL_ID = "call_Zx81kPq04LmTn7YbWc2RvAsd"
LONG = "It will be sunny in Seoul for two days."


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: Any = None, *tools: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An answer with vLLM's nulls, or what a client made of it."""
    answer = {"role": "assistant", "content": text, "refusal": None, "tool_calls": list(tools)}
    return {**answer, **more}


def tool_call(arguments: Any, call_id: str = CALL_ID, name: str = "get_weather") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def made(
    name: str,
    messages: list[dict[str, Any]],
    *answers: dict[str, Any] | str,
    at: float = 1_000.0,
    key: str | None = "key_a",
    tenant: str = "default",
    source: str = "new",
    outcome: Outcome = Outcome.COMPLETE,
    attempt: int = 0,
    trajectory: str | None = None,
) -> Transition:
    """A call; its trajectory is called after it unless one is given."""
    said = [assistant(answer) if isinstance(answer, str) else answer for answer in answers]
    return Transition(
        id=f"tr_{name}",
        tenant=tenant,
        trajectory_id=trajectory or f"traj_{name}",
        session_source=source,
        gateway="g1",
        started_at=at,
        latency_seconds=0.5,
        request={"model": "policy", "messages": messages},
        response_id=f"chatcmpl-{name}",
        policy="policy",
        policy_version=0,
        model="base",
        key=key,
        attempt=attempt,
        outcome=outcome,
        choices=tuple(
            Choice(index=index, message=message, finish_reason="stop")
            for index, message in enumerate(said)
        ),
    )


def recorded(path: Path) -> tuple[list[Transition], list[dict[str, Any]]]:
    """The calls of a stored case, and what is expected of each."""
    calls = json.loads(path.read_text())["calls"]
    transitions = [
        made(str(number), call["messages"], call["answer"], at=1_000.0 + number)
        for number, call in enumerate(calls)
    ]
    return transitions, [call["expect"] for call in calls]
