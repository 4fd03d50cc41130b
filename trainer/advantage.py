"""Advantages: how much better than expected. They exist only here, never in Redis.

Pure. Traffic has one answer per prompt, so the baseline is not a GRPO group
(arXiv 2402.03300) but the leave-one-out mean over all trajectories of the same
(tenant, agent, task), shrunk towards the leave-one-out mean of the batch:

    b_i = (sum_{j in key, j != i} r_j + k * m_{-i}) / (n_key - 1 + k)
    A_i = (r_i - b_i) / rms(A),   then A_i *= w  where A_i < 0

over the trajectories that somebody voted on. AIR is read from every trajectory,
voted on or not, and nearly all of them have nothing to object to: its baseline
is theirs, 0. Held against the votes of a biased few (say a mean of -0.4, since
people rather speak up when it went wrong) a mere fault would look like praise.

Leaving r_i out of its own baseline keeps the gradient unbiased (RLOO, arXiv
2402.14740). A trajectory counts once, however many calls it has. One scale
for the whole batch: dividing by the spread of a few labels amplifies noise.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from trainer.credit import Verdict, shuffle, step_credit, verdicts
from trainer.samples import Sample

SMALLEST_SCALE = 1e-6

Key = tuple[str, str | None, str | None]


def advantages(
    samples: Sequence[Sample],
    *,
    shrinkage: float,
    negative_weight: float,
    step_weight: float = 0.0,
    shuffle_seed: int | None = None,
) -> list[float]:
    """One advantage per sample, in the samples' order."""
    known = verdicts(samples)
    if shuffle_seed is not None:
        known = shuffle(known, shuffle_seed)
    keys = {sample.trajectory: key_of(sample) for sample in samples}
    centred = centre(known, keys, shrinkage)
    scale = root_mean_square(list(centred.values()))
    if scale < SMALLEST_SCALE:
        return [0.0] * len(samples)
    steps = step_credit(samples, step_weight)
    raw = [(centred[sample.trajectory] + steps[sample.id]) / scale for sample in samples]
    return [value * negative_weight if value < 0 else value for value in raw]


def key_of(sample: Sample) -> Key:
    """What a trajectory is compared with: others of its tenant, agent and task."""
    return sample.tenant, sample.agent, sample.task


def centre(
    known: Mapping[str, Verdict], keys: Mapping[str, Key], shrinkage: float
) -> dict[str, float]:
    """Votes minus their baseline; rewards of AIR alone as they are."""
    voted = {name: verdict.reward for name, verdict in known.items() if verdict.is_labelled}
    alone = {name: verdict.reward for name, verdict in known.items() if not verdict.is_labelled}
    return alone | subtract_baseline(voted, keys, shrinkage)


def subtract_baseline(
    rewards: Mapping[str, float], keys: Mapping[str, Key], shrinkage: float
) -> dict[str, float]:
    """Reward minus the shrunk leave-one-out mean, per trajectory; 0 where nothing compares."""
    members: dict[Key, list[str]] = defaultdict(list)
    for name in rewards:
        members[keys[name]].append(name)
    total, count = sum(rewards.values()), len(rewards)
    centred: dict[str, float] = {}
    for names in members.values():
        own_total = sum(rewards[name] for name in names)
        for name in names:
            reward = rewards[name]
            if count < 2:
                centred[name] = 0.0
                continue
            batch_mean = (total - reward) / (count - 1)
            others = len(names) - 1
            weight = shrinkage if others + shrinkage > 0 else 1.0
            baseline = (own_total - reward + weight * batch_mean) / (others + weight)
            centred[name] = reward - baseline
    return centred


def root_mean_square(values: Sequence[float]) -> float:
    """The root of the mean square; 0 for nothing."""
    return (sum(value * value for value in values) / len(values)) ** 0.5 if values else 0.0
