"""Sessions of the demo's world without its servers: questions, the agent's loop, the calculator."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.air_bench.sampling import MAX_TOKENS, Sampler
from ratchet.demo.agent import MAX_CALLS
from ratchet.demo.questions import (
    CALCULATOR,
    Question,
    ToolError,
    is_right,
    parse_calculation,
    run_tool,
)
from trajectories.model import Sampling, Trajectory, Transition

POLICY = "policy"


@dataclass(slots=True)
class Session:
    """One question and all that came of it."""

    name: str
    question: Question
    messages: list[dict[str, Any]]
    transitions: list[Transition] = field(default_factory=list)
    text: str = ""

    @property
    def is_right(self) -> bool:
        return is_right(self.question, self.text)

    @property
    def first_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the first answer."""
        found: list[dict[str, Any]] = self.transitions[0].choices[0].message.get("tool_calls", [])
        return found

    @property
    def has_valid_first_call(self) -> bool:
        """Whether the first answer calls the calculator with arguments that it takes."""
        return bool(self.first_calls) and all(_is_valid(call) for call in self.first_calls)

    def trajectory(self) -> Trajectory:
        """The session as the store would hold it, closed and without rewards."""
        return Trajectory(
            id=self.name,
            policy=POLICY,
            started_at=0.0,
            updated_at=1.0,
            is_closed=True,
            transitions=tuple(self.transitions),
        )


def hold(
    sampler: Sampler, questions: Iterator[Question], count: int, *, version: int, prefix: str
) -> list[Session]:
    """`count` sessions side by side, each as `ratchet.demo.agent.answer` would hold it."""
    sessions = [
        Session(f"{prefix}-{number}", question, [{"role": "user", "content": question.text}])
        for number, question in zip(range(count), questions, strict=False)
    ]
    waiting = sessions
    for turn in range(MAX_CALLS + 1):
        answers = sampler.answer([session.messages for session in waiting])
        going_on = []
        for session, sampled in zip(waiting, answers, strict=True):
            message = sampled.choice.message
            session.transitions.append(
                Transition(
                    id=f"{session.name}/{turn}",
                    trajectory_id=session.name,
                    gateway="bench",
                    started_at=float(turn),
                    latency_seconds=0.5,
                    request={
                        "messages": list(session.messages),
                        "tools": [CALCULATOR],
                        "max_tokens": MAX_TOKENS,
                    },
                    policy=POLICY,
                    policy_version=version,
                    model=POLICY,
                    sampling=Sampling(temperature=1.0),
                    prompt_token_ids=sampled.prompt_token_ids,
                    choices=(sampled.choice,),
                )
            )
            calls = message.get("tool_calls", [])
            session.text = "" if calls else str(message["content"])
            if calls:
                session.messages.append(message)
                session.messages += [_run(call) for call in calls]
                going_on.append(session)
        waiting = going_on
        if not waiting:
            break
    return sessions


def _run(call: dict[str, Any]) -> dict[str, Any]:
    """What the calculator says to a call, as a message."""
    result = run_tool(call["function"]["name"], call["function"]["arguments"])
    return {"role": "tool", "tool_call_id": call["id"], "content": result}


def _is_valid(call: dict[str, Any]) -> bool:
    if call["function"]["name"] != CALCULATOR["function"]["name"]:
        return False
    try:
        operation = parse_calculation(call["function"]["arguments"]).operation
    except ToolError:
        return False
    known = CALCULATOR["function"]["parameters"]["properties"]["operation"]["enum"]
    return operation in known
