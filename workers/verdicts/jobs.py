"""The jobs of the verdict queue: one judge's verdict on one trajectory, and a judge's calibration.

They carry names and nothing else, may run twice, and run in `python -m workers
verdicts` alone, which hands this module its panel before the first job.
"""

import time
from typing import Any

from redis import Redis
from rq import get_current_job

from trajectories import keys
from trajectories.standing import standing_votes
from trajectories.store import Store
from workers.jobs import NotConfigured
from workers.verdicts.calibration import Calibration, fit, pairs_of
from workers.verdicts.panel import Panel, calibration_of

_panels: list[Panel] = []


def use_panel(panel: Panel) -> None:
    """Give verdicts by `panel` in this process from now on."""
    _panels[:] = [panel]


def give_verdict(ask: str) -> None:
    """The job: `ask` is `judge tenant/trajectory`."""
    redis = _connection()
    _panels[0].give(Store(redis), redis, ask)


def calibrate_judge(judge: str) -> None:
    """The job that fits one judge to people's labels, for every tenant that it judged for."""
    redis = _connection()
    store = Store(redis)
    for tenant in store.judging_tenants(judge):
        calibrate(store, redis, judge, tenant)


def calibrate(store: Store, redis: Redis, judge: str, tenant: str) -> Calibration | None:
    """Fit one judge for one tenant on the trajectories that both judged; None: too few."""
    pairs = []
    for ref in store.judged_trajectories(judge, tenant):
        votes = store.votes_of(ref)
        is_labelled = any(vote.source.type == "human" for vote in votes)
        trajectory = store.trajectory(ref) if is_labelled else None
        if trajectory is not None:
            pairs += pairs_of(standing_votes(trajectory.transitions, votes), judge)
    before = calibration_of(redis, judge, tenant)
    version = (before.version if before else 0) + 1
    fitted = fit(pairs, version=version, at=time.time())
    if fitted is not None:
        client: Any = redis
        client.set(keys.calibration(tenant, judge), fitted.to_json(), ex=keys.JUDGE_TTL_SECONDS)
    return fitted


def _connection() -> Redis:
    job = get_current_job()
    if job is None or not _panels:
        raise NotConfigured("verdicts are given by `python -m workers verdicts` only")
    return job.connection
