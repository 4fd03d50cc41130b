"""Records as the gateway and the workers would have left them."""

from typing import Any

from trainer.batch.samples import Sample, Selection
from trajectories.model import Choice, Feedback, Reward, Trajectory, Transition
from trajectories.store import Store, TrajectoryRef


def a_transition(trajectory_id: str, *, number: int = 0, **changes: Any) -> Transition:
    fields: dict[str, Any] = {
        "id": f"{trajectory_id}-{number}",
        "trajectory_id": trajectory_id,
        "gateway": "g1",
        "started_at": 1000.0 + number,
        "latency_seconds": 0.1,
        "request": {},
        "policy": "policy",
        "policy_version": 0,
        "model": "base",
        "task": "greet",
        "prompt_token_ids": (1, 2, 3),
        "choices": (Choice(token_ids=(4, 5), logprobs=(-0.5, -0.25), finish_reason="stop"),),
    }
    return Transition(**{**fields, **changes})


def a_trajectory(name: str = "t1", reward: float | None = 1.0, **changes: Any) -> Trajectory:
    """One transition unless `transitions` says otherwise."""
    fields: dict[str, Any] = {
        "id": name,
        "policy": "policy",
        "task": "greet",
        "started_at": 1000.0,
        "updated_at": 1000.0,
        "is_closed": True,
        "reward": reward,
        "transitions": (a_transition(name),),
    }
    return Trajectory(**{**fields, **changes})


def a_sample(trajectory: str, reward: float, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": f"{trajectory}/0",
        "trajectory": trajectory,
        "tenant": "default",
        "agent": None,
        "task": "greet",
        "version": 0,
        "prompt_token_ids": (1, 2),
        "token_ids": (3, 4),
        "logprobs": (-1.0, -1.0),
        "reward": reward,
    }
    return Sample(**{**fields, **changes})


def a_selection(**changes: Any) -> Selection:
    fields: dict[str, Any] = {
        "policy": "policy",
        "current": 0,
        "max_length": 100,
        "max_staleness": 4,
        "needs_ratio": True,
    }
    return Selection(**{**fields, **changes})


def make_trainable(store: Store, count: int, *, start: int = 0, **changes: Any) -> list[str]:
    """Put `count` closed, rewarded trajectories into the store, good and bad in turn."""
    names = []
    for number in range(start, start + count):
        ref = TrajectoryRef("default", f"t{number:04d}")
        store.add_transition(a_transition(ref.id, **changes))
        vote = Feedback(
            id=f"f{number}", identity="me", trajectory_id=ref.id, received_at=1.0, is_final=True
        )
        store.add_feedback(vote)
        found = store.scorable(ref)
        assert found is not None
        value = 1.0 if number % 2 else -1.0
        reward = Reward(
            id=f"r{number}",
            trajectory_id=ref.id,
            name="reward",
            source="feedback:human",
            value=value,
        )
        assert store.put_rewards(
            ref, rewards=[reward], final=value, is_labelled=True, revision=found.revision
        )
        names.append(str(ref))
    return names
