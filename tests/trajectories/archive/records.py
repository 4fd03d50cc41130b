"""Trajectories as they are archived: long, repeated, with ids; short to write."""

from typing import Any

from tests.workers.records import WEATHER, transition, vote
from trajectories.archive import Archived
from trajectories.model import Choice, Feedback, Reward, Trajectory, Transition


def conversation(name: str, turns: int, *, at: float = 1_700_000_000.0) -> list[Transition]:
    """Each call sends what came before; each prompt's ids go on from the last call's."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You help. " * 20}]
    prompt: tuple[int, ...] = tuple(range(100))
    steps = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Frage {turn} an {name}: schön? 天気 🌧"})
        answer = {"role": "assistant", "content": f"Antwort {turn}"}
        ids = tuple(range(1000 * turn, 1000 * turn + 20))
        prompt += (7, turn)
        base = transition(turn, trajectory=name, messages=list(messages), tools=[WEATHER])
        steps.append(
            base.model_copy(
                update={
                    "started_at": at + turn,
                    "prompt_token_ids": prompt,
                    "choices": (
                        Choice(
                            message=answer,
                            finish_reason="stop",
                            token_ids=ids,
                            logprobs=tuple(-0.1 * number for number in range(20)),
                        ),
                    ),
                }
            )
        )
        messages.append(answer)
        prompt += ids
    return steps


def archived(
    name: str = "traj_a",
    turns: int = 3,
    *,
    at: float = 1_700_000_000.0,
    edition: int = 1,
    reward: float | None = 0.5,
    tenant: str = "default",
    votes: tuple[Feedback, ...] | None = None,
    **fields: Any,
) -> Archived:
    """A whole trajectory."""
    steps = [
        step.model_copy(update={"tenant": tenant}) for step in conversation(name, turns, at=at)
    ]
    rewards = (
        ()
        if reward is None
        else (
            Reward(
                id=f"rw_{name}",
                trajectory_id=name,
                name="reward",
                source="feedback:human",
                value=reward,
            ),
        )
    )
    trajectory = Trajectory(
        id=name,
        tenant=tenant,
        policy="policy",
        started_at=at,
        updated_at=at + turns,
        is_closed=True,
        reward=reward,
        transitions=tuple(steps),
        rewards=rewards,
        **fields,
    )
    if votes is None:
        votes = () if reward is None else (vote(reward, trajectory=name),)
    return Archived(trajectory, votes, (), edition, reward is not None)
