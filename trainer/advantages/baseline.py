"""Baselines: what a reward is held against. Pure.

Traffic has one answer per prompt, so the default is not a GRPO group (arXiv
2402.03300) but the leave-one-out mean over all trajectories of the same
(tenant, agent, task), shrunk towards the leave-one-out mean of the batch:

    leave_one_out  b_i = (sum_{j in key, j != i} r_j + k * m_{-i}) / (n_key - 1 + k)
    tracker        the same, shrunk towards what earlier rounds saw of the key:
                   (v, w) in the place of (m_{-i}, k); SPO, arXiv 2509.13232
    group          the mean of the others that were asked the same prompt under one
                   version (RLOO, arXiv 2402.14740); leave_one_out where none was. A call
                   whose siblings were asked for is held against them, and they against it,
                   whichever call of its trajectory it is
    batch          the mean of the batch: for comparison, it mixes up what tasks are worth
    none           nothing: the raw reward

Leaving r_i out of its own baseline keeps the gradient unbiased. Nothing is divided
by a group's spread (Dr. GRPO, arXiv 2503.20783). A trajectory counts once, however
many calls it has.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from trainer.batch.samples import Sample

Baseline = Literal["leave_one_out", "tracker", "group", "batch", "none"]
Key = tuple[str, str | None, str | None]
Group = tuple[str, str | None, str, int]
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Prior:
    """What earlier rounds say of a key: a mean reward, worth so many trajectories."""

    mean: float
    weight: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the parts of a batch are held against; names are those of `Sample.part`."""

    way: Baseline
    keys: Mapping[str, Key]
    shrinkage: float = 4.0  # in trajectories
    groups: Mapping[str, Group] = field(default_factory=dict)  # of parts that asked for one
    priors: Mapping[Key, Prior] = field(default_factory=dict)
    joined: Mapping[str, tuple[str, Group]] = field(default_factory=dict)
    """Samples that are compared apart from their part: id -> the part, and its siblings' group."""


def key_of(sample: Sample) -> Key:
    """What a trajectory is compared with: others of its tenant, agent and task."""
    return sample.tenant, sample.agent, sample.task


def comparison(
    samples: Sequence[Sample],
    way: Baseline = "leave_one_out",
    *,
    shrinkage: float = 4.0,
    priors: Mapping[Key, Prior] | None = None,
) -> Comparison:
    """How the parts of these samples are compared."""
    keys = {sample.part: key_of(sample) for sample in samples}
    groups = groups_of(samples) if way == "group" else {}
    joined = joined_calls(samples, groups) if way == "group" else {}
    return Comparison(way, keys, shrinkage, groups, priors or {}, joined)


def joined_calls(
    samples: Sequence[Sample], groups: Mapping[str, Group]
) -> dict[str, tuple[str, Group]]:
    """Recorded calls with siblings of the same version, where their part is in another group.

    That is so where a later call of a trajectory was answered anew: up to there
    nothing was chosen otherwise, so only what it said is held against them.
    """
    rolled = {
        (sample.rollout, group[-1], group[-2]): group
        for sample in samples
        if sample.rollout is not None
        for group in (groups[sample.part],)
    }
    calls = {call for call, _, _ in rolled}
    found: dict[str, tuple[str, Group]] = {}
    if not calls:
        return found
    for sample in samples:  # read once more: a round may be larger than memory
        if sample.transition in calls:
            # A sibling whose own first call was left out begins with another prompt.
            group = rolled.get((sample.transition, sample.version, _tokens_of(sample)))
            if group is not None and groups[sample.part] != group:
                found[sample.id] = sample.part, group
    return found


def groups_of(samples: Sequence[Sample]) -> dict[str, Group]:
    """Part -> the group it is in: the same first prompt under one version.

    Choices of one call that were judged by themselves are parts of it. Siblings
    that were rolled out on purpose are trajectories of their own, and meet here
    because their prompt is the same: token for token, or it was written anew by
    another chat template.
    """
    rolled = {sample.anchor for sample in samples if sample.rollout is not None}
    steps: dict[str, int] = {}
    found: dict[str, Group] = {}
    for sample in samples:
        if sample.step < steps.get(sample.part, sample.step + 1):
            steps[sample.part] = sample.step
            is_plain = sample.anchor and sample.anchor not in rolled
            prompt = sample.anchor if is_plain else _tokens_of(sample)
            found[sample.part] = sample.tenant, sample.agent, prompt, sample.version
    return found


def _tokens_of(sample: Sample) -> str:
    """A digest of the prompt's token ids."""
    tokens = repr(sample.prompt_token_ids).encode()
    return blake2b(tokens, digest_size=_DIGEST_BYTES).hexdigest()


def baselines(rewards: Mapping[str, float], against: Comparison) -> dict[str, float]:
    """What each reward is held against; the reward itself where nothing compares."""
    return _WAYS[against.way](rewards, against)


def subtract_baseline(rewards: Mapping[str, float], against: Comparison) -> dict[str, float]:
    """Reward minus its baseline; 0 where nothing compares.

    By part; and by id for samples that are compared apart from theirs.
    """
    held_against = baselines(rewards, against)
    found = {name: reward - held_against[name] for name, reward in rewards.items()}
    for name, (part, _) in against.joined.items():
        if name in held_against:
            found[name] = rewards[part] - held_against[name]
    return found


def _leave_one_out(rewards: Mapping[str, float], against: Comparison) -> dict[str, float]:
    totals: dict[Key, float] = defaultdict(float)
    counts: dict[Key, int] = defaultdict(int)
    for name, reward in rewards.items():
        totals[against.keys[name]] += reward
        counts[against.keys[name]] += 1
    total, count = sum(rewards.values()), len(rewards)
    found: dict[str, float] = {}
    for name, reward in rewards.items():
        key = against.keys[name]
        prior = against.priors.get(key) if against.way == "tracker" else None
        if prior is None or prior.weight <= 0:
            if count < 2:
                found[name] = reward
                continue
            prior = Prior((total - reward) / (count - 1), against.shrinkage)
        others = counts[key] - 1
        weight = prior.weight if others + prior.weight > 0 else 1.0
        found[name] = (totals[key] - reward + weight * prior.mean) / (others + weight)
    return found


def _group(rewards: Mapping[str, float], against: Comparison) -> dict[str, float]:
    members: dict[Group, dict[str, float]] = defaultdict(dict)
    for name, reward in rewards.items():
        members[against.groups[name]][name] = reward
    for name, (part, group) in against.joined.items():
        if part in rewards and group in members:
            members[group][name] = rewards[part]
    found = _leave_one_out(rewards, against)
    for owned in members.values():
        if len(owned) > 1:
            total = sum(owned.values())
            found |= {name: (total - reward) / (len(owned) - 1) for name, reward in owned.items()}
    return found


def _batch(rewards: Mapping[str, float], _: Comparison) -> dict[str, float]:
    return dict.fromkeys(rewards, sum(rewards.values()) / len(rewards)) if rewards else {}


def _none(rewards: Mapping[str, float], _: Comparison) -> dict[str, float]:
    return dict.fromkeys(rewards, 0.0)


_WAYS: Mapping[Baseline, Callable[[Mapping[str, float], Comparison], dict[str, float]]] = {
    "leave_one_out": _leave_one_out,
    "tracker": _leave_one_out,  # its priors are what is different
    "group": _group,
    "batch": _batch,
    "none": _none,
}


def root_mean_square(values: Iterable[float]) -> float:
    """The root of the mean square; 0 for nothing."""
    squares = [value * value for value in values]
    return (sum(squares) / len(squares)) ** 0.5 if squares else 0.0
