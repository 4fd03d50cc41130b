"""What GET /training/status says: totals of the caller's tenant, and how far learning is. Pure.

The trainer is another process: what it says of itself is passed on. A tenant
sees its own totals; whatever concerns the policy only if it is the one whose
traffic the policy learns from.
"""

from collections.abc import Mapping
from typing import Any

from trajectories.registry import Snapshot
from trajectories.resources import VersionState
from trajectories.tally import ALL, average, by_scope, overview

COLLECTING = "collecting"
QUEUED = "queued"


def totals_of(totals: Mapping[str, float]) -> dict[str, Any]:
    """What was recorded and what it was worth, of scored trajectories."""
    counts = by_scope(totals).get(ALL, {})
    trajectories = counts.get("trajectories", 0.0)
    return {
        "total_spans": int(counts.get("transitions", 0)),
        "total_trajectories": int(trajectories),
        "average_reward": average(counts),
        "feedback_rate": counts.get("labelled", 0.0) / trajectories if trajectories else 0.0,
        "total_feedback": int(counts.get("feedback", 0)),
        "rollouts": int(counts.get("rollouts", 0)),
        **overview(totals),
    }


def learning_of(
    status: Mapping[str, Any] | None,
    *,
    queued: str | None,
    trainable: int,
    needed: int,
    versions: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """How far a policy is; `status` is what the trainer last said, None: it does not run."""
    said = status or {}
    state = said.get("state", COLLECTING)
    run, last = said.get("run"), said.get("last_run")
    return {
        "state": QUEUED if queued is not None and state == COLLECTING else state,
        "note": said.get("note", ""),
        "run": run_view(run, versions) if run else None,
        "last_run": run_view(last, versions) if last else None,
        "trainable": trainable,
        "needed": needed,
        "lacking": said.get("lacking", []),
        "algorithms": said.get("algorithms", []),
    }


def run_view(run: Mapping[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A run, under the short names as well, with the mean reward of the versions around it."""
    view = dict(run)
    for short, name in (("id", "run_id"), ("algo", "algorithm"), ("status", "phase")):
        if name in run:
            view.setdefault(short, run[name])
    for name, version in (
        ("reward_before", run.get("parent")),
        ("reward_after", run.get("version")),
    ):
        if version is not None:
            view[name] = versions.get(f"{run.get('policy')}@{version}", {}).get("mean")
    return view


def policy_of(snapshot: Snapshot) -> dict[str, Any]:
    """Which version serves, and which one may be next."""
    candidates = [
        entry.version
        for entry in snapshot.versions.values()
        if entry.state is VersionState.CANDIDATE
    ]
    return {
        "name": snapshot.policy,
        "current": snapshot.current,
        "candidate": max(candidates, default=None),
        "revision": snapshot.revision,
    }
