"""What a round says of itself in numbers: of its rows, and of the steps it took. Pure."""

import math
from collections.abc import Sequence
from typing import Any

from trainer.batch.samples import Sample


def summary(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the round's steps of what the trainer logged."""
    names = {
        "loss": "loss",
        "grad_norm": "grad_norm",
        "entropy": "entropy",
        "clip_ratio/region_mean": "clip_ratio",
        "kl": "kl",
        "rewards/margins": "margin",
        "rewards/accuracies": "accuracy",
        "kl_to_parent": "kl_to_parent",
        "guarded_tasks": "guarded_tasks",
        "tokens_saved_share": "tokens_saved_share",
        "free_tokens_share": "free_tokens_share",
    }
    found: dict[str, float] = {}
    for logged, name in names.items():
        values = [float(entry[logged]) for entry in history if entry.get(logged) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found


def mean_staleness(samples: Sequence[Sample], current: int) -> float:
    """Versions between a sample and the current one, on average."""
    return sum(current - sample.version for sample in samples) / len(samples)


def mean_reward(samples: Sequence[Sample]) -> float:
    """The mean over trajectories, each counted once."""
    rewards = {sample.part: sample.reward for sample in samples}
    return sum(rewards.values()) / len(rewards)


def finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
