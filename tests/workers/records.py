"""Records as the gateway writes them, for tests: realistic bodies, short to write."""

from typing import Any

from trajectories.model import Choice, Feedback, FeedbackSource, Outcome, Transition

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def call(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    """A tool call as the fold of a stream leaves it."""
    return {
        "id": call_id,
        "type": "function",
        "index": 0,
        "function": {"name": name, "arguments": arguments},
    }


def transition(
    number: int = 0,
    *,
    trajectory: str = "traj_a",
    content: Any = None,
    calls: list[dict[str, Any]] | None = None,
    finish_reason: str | None = "stop",
    messages: list[dict[str, Any]] | None = None,
    outcome: Outcome = Outcome.COMPLETE,
    **request: Any,
) -> Transition:
    """The `number`-th transition of a trajectory; `request` is added to the request's body."""
    answer: dict[str, Any] = {"role": "assistant", "content": content}
    if calls is not None:
        answer["tool_calls"] = calls
    return Transition(
        id=f"tr_{trajectory}_{number}",
        trajectory_id=trajectory,
        gateway="g1",
        started_at=1_000.0 + number,
        latency_seconds=0.5,
        request={
            "model": "policy",
            "messages": messages or [{"role": "user", "content": "weather in Seoul?"}],
            **request,
        },
        response_id=f"chatcmpl-{trajectory}-{number}",
        policy="policy",
        policy_version=0,
        model="base",
        outcome=outcome,
        choices=(Choice(message=answer, finish_reason=finish_reason),),
    )


def vote(
    reward: float | None,
    *,
    response: str | None = None,
    trajectory: str | None = None,
    name: str = "reward",
    source: str = "human",
    source_id: str = "default",
    at: float = 2_000.0,
    is_final: bool = False,
) -> Feedback:
    """A vote on a response or on a whole trajectory."""
    identity = f"{response or trajectory}|{name}|{source}|{source_id}"
    return Feedback(
        id=f"fb_{identity}_{at}",
        identity=identity,
        response_id=response,
        trajectory_id=trajectory,
        name=name,
        reward=reward,
        source=FeedbackSource.model_validate({"type": source, "id": source_id}),
        is_final=is_final,
        received_at=at,
    )
