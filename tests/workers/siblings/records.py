"""A conversation with tools as it was recorded, and somebody who answers it anew."""

from collections.abc import Callable, Sequence
from typing import Any

from tests.workers.records import call, transition
from trajectories.model import Choice, Sampling, Transition
from trajectories.rollouts import Rollout
from trajectories.store import Store
from workers.siblings.asking import Answer, NoAnswer

ASKED = [{"role": "user", "content": "weather in Seoul?"}]
SEOUL = '{"city": "Seoul", "days": 2}'


def recorded(number: int = 0, **fields: Any) -> Transition:
    """A call that a round can learn from."""
    made = transition(number, **fields)
    choices = tuple(
        choice.model_copy(update={"token_ids": (7, 8), "logprobs": (-0.1, -0.2)})
        for choice in made.choices
    )
    update = {
        "choices": choices,
        "prompt_token_ids": (1, 2, 3),
        "sampling": Sampling(temperature=1.0),
    }
    return made.model_copy(update=update)


def with_tools(trajectory: str = "traj_a") -> tuple[Transition, Transition]:
    """A call that asks a tool, and one that tells its result."""
    asks = recorded(0, trajectory=trajectory, calls=[call("get_weather", SEOUL)])
    echo = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", SEOUL)]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    told = recorded(
        1, trajectory=trajectory, content="It will rain.", messages=[*ASKED, echo, result]
    )
    return asks, told


def said(content: str | None = None, *calls: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return {**message, "tool_calls": list(calls)} if calls else message


class Answering:
    """Answers as it is told, and stores what it answered as the gateway and dispatcher would."""

    def __init__(self, store: Store, reply: Callable[[int], Any] = lambda _: said("Sun.")) -> None:
        self._store = store
        self.reply = reply
        self.asked: list[tuple[Rollout, Sequence[dict[str, Any]], int]] = []

    def ask(
        self, rollout: Rollout, like: Transition, messages: Sequence[Any], most_tokens: int
    ) -> Answer:
        self.asked.append((rollout, messages, most_tokens))
        message = self.reply(len(self.asked) - 1)
        if isinstance(message, NoAnswer):
            raise message
        number = len(self.asked)
        choice = Choice(message=message, finish_reason="stop", token_ids=(7,), logprobs=(-0.5,))
        made = like.model_copy(
            update={
                "id": f"tr_rollout_{number}",
                "trajectory_id": rollout.trajectory_id,
                "session_id": None,
                "session_source": "rollout",
                "response_id": f"chatcmpl-rollout-{number}",
                "request": {**like.request, "messages": list(messages)},
                "rollout": rollout.transition,
                "choices": (choice,),
                "started_at": 2_000.0 + number,
            }
        )
        self._store.add_transition(made)
        return Answer(message, prompt_tokens=3, answer_tokens=1)
