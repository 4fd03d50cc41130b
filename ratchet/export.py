"""Traffic as JSONL: one line a transition, with its ids and what it was worth."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from trajectories.model import Trajectory
from trajectories.store import Store


def rows_of(trajectory: Trajectory) -> Iterator[dict[str, Any]]:
    """The lines of one trajectory. `reward` is null where nothing was said: never 0."""
    for step, transition in enumerate(trajectory.transitions):
        messages = [choice.message for choice in transition.choices]
        yield {
            "agent_id": transition.agent,
            "task": transition.task,
            "input": transition.request.get("messages"),
            "output": messages[0] if len(messages) == 1 else messages,
            "reward": trajectory.reward,
            "timestamp": datetime.fromtimestamp(transition.started_at, UTC).isoformat(),
            "trajectory_id": trajectory.id,
            "session_id": trajectory.session_id,
            "transition_id": transition.id,
            "response_id": transition.response_id,
            "step": step,
            "policy_version": transition.policy_version,
            "outcome": transition.outcome.value,
            "rewards": [
                {"name": reward.name, "source": reward.source, "value": reward.value}
                for reward in trajectory.rewards
                if reward.transition_id in (None, transition.id)
            ],
        }


def export_rows(store: Store, *, is_rewarded_only: bool = False) -> Iterator[dict[str, Any]]:
    """Every transition in the hot window, trajectory by trajectory."""
    for ref in store.all_trajectories():
        trajectory = store.trajectory(ref)
        if trajectory is None or (is_rewarded_only and trajectory.reward is None):
            continue
        yield from rows_of(trajectory)
