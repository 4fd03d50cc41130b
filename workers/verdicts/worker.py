"""The verdict process: one queue of its own, so that nothing slow stands before a reward."""

from threading import Event

from redis import Redis
from rq import Queue

from trajectories.connection import connect
from trajectories.queues import verdict_queue
from trajectories.settings import Settings
from trajectories.store import Store
from workers.verdicts.assembly import build_panel
from workers.verdicts.jobs import calibrate, use_panel
from workers.verdicts.limits import job_seconds
from workers.worker import run_jobs


def run_verdict_worker(settings: Settings, stop: Event, *, is_burst: bool = False) -> None:
    """Give verdicts until `stop` is set or SIGTERM comes (`is_burst`: until none is asked for).

    Raises SettingsError for a rubric, a key or a secret that is missing.
    """
    panel = build_panel(settings)
    use_panel(panel)

    def queue_of(redis: Redis) -> Queue:
        return verdict_queue(redis, job_seconds(settings))

    try:
        run_jobs(settings, stop, queue_of, is_burst=is_burst)
    finally:
        panel.close()


def calibrate_all(settings: Settings) -> None:
    """Fit every judge to people's labels, once and here: `ratchet judges calibrate`."""
    redis = connect(settings.redis)
    store = Store(redis)
    for judge in settings.judges:
        for tenant in store.judging_tenants(judge):
            calibrate(store, redis, judge, tenant)
