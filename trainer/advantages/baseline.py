"""Baselines: what a reward is held against. Pure.

Traffic has one answer per prompt, so the baseline is not a GRPO group (arXiv
2402.03300) but the leave-one-out mean over all trajectories of the same
(tenant, agent, task), shrunk towards the leave-one-out mean of the batch:

    b_i = (sum_{j in key, j != i} r_j + k * m_{-i}) / (n_key - 1 + k)

Leaving r_i out of its own baseline keeps the gradient unbiased (RLOO, arXiv
2402.14740). A trajectory counts once, however many calls it has.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from trainer.batch.samples import Sample

Key = tuple[str, str | None, str | None]


def key_of(sample: Sample) -> Key:
    """What a trajectory is compared with: others of its tenant, agent and task."""
    return sample.tenant, sample.agent, sample.task


def baselines(
    rewards: Mapping[str, float], keys: Mapping[str, Key], shrinkage: float
) -> dict[str, float]:
    """The shrunk leave-one-out mean for each; its own reward where nothing compares."""
    members: dict[Key, list[str]] = defaultdict(list)
    for name in rewards:
        members[keys[name]].append(name)
    total, count = sum(rewards.values()), len(rewards)
    found: dict[str, float] = {}
    for names in members.values():
        own_total = sum(rewards[name] for name in names)
        for name in names:
            reward = rewards[name]
            if count < 2:
                found[name] = reward
                continue
            batch_mean = (total - reward) / (count - 1)
            others = len(names) - 1
            weight = shrinkage if others + shrinkage > 0 else 1.0
            found[name] = (own_total - reward + weight * batch_mean) / (others + weight)
    return found


def subtract_baseline(
    rewards: Mapping[str, float], keys: Mapping[str, Key], shrinkage: float
) -> dict[str, float]:
    """Reward minus its baseline; 0 where nothing compares."""
    held_against = baselines(rewards, keys, shrinkage)
    return {name: reward - held_against[name] for name, reward in rewards.items()}


def root_mean_square(values: Iterable[float]) -> float:
    """The root of the mean square; 0 for nothing."""
    squares = [value * value for value in values]
    return (sum(squares) / len(squares)) ** 0.5 if squares else 0.0
