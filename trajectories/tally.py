"""What a scored trajectory counts for in the tenant's totals: averages and coverage. Pure.

The store adds the difference to what the same trajectory counted for before, so
totals are right whatever is recomputed, and need no scan. A field is written
`scope|count`; scopes are `all`, `agent:NAME`, `reward:NAME`
and `version:POLICY@N`. Names come from
clients, so the store admits only so many of them and counts the rest as `other`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trajectories.composition import AIR, FEEDBACK
from trajectories.model import Feedback, Reward, Trajectory
from trajectories.survey import is_surveyed

JUDGED = f"{FEEDBACK}judge"
ALL = "all"
OTHER = "other"
MAX_CHARACTERS = 64  # of a name
MAX_NAMES = {
    "agent": 64,
    "reward": 128,
    "version": 256,
}  # of one tenant; more are counted as `other`


def tally_of(
    trajectory: Trajectory,
    votes: Iterable[Feedback],
    rewards: Iterable[Reward],
    *,
    final: float | None,
    is_labelled: bool,
) -> dict[str, float]:
    """Field -> what the trajectory adds to it; fields of 0 are left out."""
    if trajectory.rollout is not None:
        return {f"{ALL}|rollouts": 1}  # what users got is not averaged with what they did not
    rewards = list(rewards)
    shared: Counter[str] = Counter()
    shared["trajectories"] = 1
    shared["labelled"] = int(is_labelled)
    shared["air"] = int(any(reward.source.startswith(AIR) for reward in rewards))
    shared["judged"] = int(any(reward.source.startswith(JUDGED) for reward in rewards))
    if any(transition.ask is not None for transition in trajectory.transitions):
        group = "asked" if is_surveyed(trajectory.transitions) else "unasked"
        shared[group] = 1
        shared[f"{group}_labelled"] = int(is_labelled)
    found: dict[str, float] = dict(shared)
    found["rewarded"] = float(final is not None)
    found["reward"] = final or 0.0
    agents = {(transition.agent or "")[:MAX_CHARACTERS] for transition in trajectory.transitions}
    fields = {f"{ALL}|{name}": value for name, value in found.items()}
    fields[f"{ALL}|transitions"] = len(trajectory.transitions)
    fields[f"{ALL}|feedback"] = sum(1 for _ in votes)
    for agent in agents:
        fields |= {f"agent:{agent}|{name}": value for name, value in found.items()}
    if final is not None:
        for version in _versions(trajectory):
            fields |= {f"version:{version}|count": 1, f"version:{version}|sum": final}
    for reward in rewards:
        scope = f"reward:{reward.name}"
        fields[f"{scope}|count"] = fields.get(f"{scope}|count", 0) + 1
        fields[f"{scope}|sum"] = fields.get(f"{scope}|sum", 0.0) + reward.value
    return {name: value for name, value in fields.items() if value}


def _versions(trajectory: Trajectory) -> set[str]:
    """The policy versions that answered in it, as `policy@version`."""
    return {
        f"{transition.policy}@{transition.policy_version}"
        for transition in trajectory.transitions
        if transition.policy is not None and transition.policy_version is not None
    }


def admit(tally: Mapping[str, float], name_for: Callable[[str, str], str]) -> dict[str, float]:
    """The tally with each name replaced by `name_for(kind, name)`: itself, or `other`."""
    fields: Counter[str] = Counter()
    for field, value in tally.items():
        scope, _, count = field.rpartition("|")
        kind, is_named, name = scope.partition(":")
        if is_named:
            scope = f"{kind}:{name_for(kind, name)}"
        fields[f"{scope}|{count}"] += value  # type: ignore[assignment]  # floats add up as well
    return dict(fields)


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What has to be added to the totals; nothing for what stays the same."""
    names = after.keys() | before.keys()
    deltas = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}
    return {name: value for name, value in deltas.items() if value}


def by_scope(totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Totals as they are kept -> scope -> count -> value."""
    found: dict[str, dict[str, float]] = {}
    for field, value in totals.items():
        scope, _, count = field.rpartition("|")
        found.setdefault(scope, {})[count] = value
    return found


def overview(totals: Mapping[str, float]) -> dict[str, Any]:
    """Totals as they are shown: averages by reward name, version and agent, and coverage."""
    scopes = by_scope(totals)
    return {
        "coverage": coverage(scopes.get(ALL, {})),
        "rewards": _means(scopes, "reward:"),
        "versions": _means(scopes, "version:"),
        "agents": {
            scope.removeprefix("agent:"): {
                "trajectories": int(counts["trajectories"]),
                "average_reward": average(counts),
                "coverage": coverage(counts),
            }
            for scope, counts in sorted(scopes.items())
            if scope.startswith("agent:") and counts.get("trajectories")
        },
    }


def _means(scopes: Mapping[str, Mapping[str, float]], kind: str) -> dict[str, dict[str, float]]:
    return {
        scope.removeprefix(kind): {
            "mean": counts.get("sum", 0.0) / counts["count"],
            "count": int(counts["count"]),
        }
        for scope, counts in sorted(scopes.items())
        if scope.startswith(kind) and counts.get("count")
    }


def average(counts: Mapping[str, float]) -> float | None:
    """The mean final reward; None, not 0, where nothing is rewarded."""
    rewarded = counts.get("rewarded", 0.0)
    return counts.get("reward", 0.0) / rewarded if rewarded else None


def coverage(counts: Mapping[str, float]) -> dict[str, float | None]:
    """Shares of trajectories with a label, a signal of AIR, a judge; and by whether one asked."""
    return {
        "labelled": _share(counts, "labelled", "trajectories"),
        "air": _share(counts, "air", "trajectories"),
        "judged": _share(counts, "judged", "trajectories"),
        "asked": _share(counts, "asked", "trajectories"),
        "labelled_when_asked": _share(counts, "asked_labelled", "asked"),
        "labelled_unasked": _share(counts, "unasked_labelled", "unasked"),
    }


def _share(counts: Mapping[str, float], part: str, whole: str) -> float | None:
    total = counts.get(whole, 0.0)
    return counts.get(part, 0.0) / total if total else None
