"""The tracker: what each (tenant, agent, task) was worth in earlier rounds. Pure, but for `recall`.

SPO (arXiv 2509.13232) holds one answer to a prompt against a running value of
that prompt. Ours runs for each key of a baseline, and stands in the place of the batch
mean in the leave-one-out baseline: with one trajectory of a key it is SPO's,
with many they outweigh it.

    w <- min(most, w * 2^(-versions since / half_life));   v, w <- (w v + sum r) / (w + n), w + n

SPO forgets by the KL between two policies; versions are what a round knows of
every key. The state lies beside the optimizer's moments of the version that
was trained, so that a rollback brings the old state back, too.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from trainer.advantages.baseline import Key, Prior
from trajectories.model import FiniteFloat, Record

TRACKER = "tracker.json"  # beside the optimizer's moments

MOST_KEYS = 20_000
LEAST_WEIGHT = 0.05  # what is worth less is forgotten


class Remembered(Record):
    """One key's value."""

    tenant: str
    agent: str | None
    task: str | None
    mean: FiniteFloat
    weight: float = Field(gt=0)  # in trajectories
    version: int  # which was trained when it was last seen

    @property
    def key(self) -> Key:
        return self.tenant, self.agent, self.task


class Tracker(Record):
    """All values, as they lie in tracker.json."""

    values: tuple[Remembered, ...] = ()


def recall(optimizer_path: str | None) -> Tracker:
    """What lies beside the moments of the version that a round starts from; else nothing."""
    if optimizer_path is None:
        return Tracker()
    path = Path(optimizer_path).with_name(TRACKER)
    return Tracker.from_json(path.read_bytes()) if path.is_file() else Tracker()


def priors_of(
    tracker: Tracker, version: int, *, most_weight: float, half_life: float
) -> dict[Key, Prior]:
    """What the tracker says to a round that starts from `version`."""
    found = {}
    for value in tracker.values:
        age = abs(version - value.version)
        weight = min(most_weight, value.weight * 2.0 ** (-age / half_life))
        if weight >= LEAST_WEIGHT:
            found[value.key] = Prior(value.mean, weight)
    return found


def updated(
    tracker: Tracker,
    rewards: Mapping[str, float],
    keys: Mapping[str, Key],
    version: int,
    *,
    most_weight: float,
    half_life: float,
) -> Tracker:
    """The tracker after a round from `version` with these rewards of parts."""
    priors = priors_of(tracker, version, most_weight=most_weight, half_life=half_life)
    seen: dict[Key, list[float]] = defaultdict(list)
    for part, reward in rewards.items():
        seen[keys[part]].append(reward)
    values = {value.key: value for value in tracker.values if value.key in priors}
    for key, found in seen.items():
        prior = priors.get(key, Prior(0.0, 0.0))
        weight = prior.weight + len(found)
        mean = (prior.weight * prior.mean + sum(found)) / weight
        tenant, agent, task = key
        values[key] = Remembered(
            tenant=tenant, agent=agent, task=task, mean=mean, weight=weight, version=version
        )
    # The longest unseen go first where there are too many.
    kept = sorted(values.values(), key=lambda value: (-value.version, -value.weight))[:MOST_KEYS]
    return Tracker(values=tuple(kept))
