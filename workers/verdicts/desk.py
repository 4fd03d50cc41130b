"""What stands in `verdicts` and what stands in RQ, kept in step; and who is calibrated when.

The dispatcher's part: it asks RQ for a job for every ask that is due, and
again when a job was lost. As with scoring, `verdicts` is the truth.
"""

from collections.abc import Sequence
from time import time
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import JobStatus

from trajectories import keys
from trajectories.queues import enqueue_calibration, enqueue_verdict, verdict_job_id, verdict_queue
from trajectories.settings import Settings
from trajectories.store import Store
from workers.timing import Timer
from workers.verdicts.limits import job_seconds

ASK_SECONDS = 1.0
TRIM_SECONDS = 3600.0
CALIBRATION_SECONDS = float(keys.DAY)
_WAITING = frozenset({JobStatus.QUEUED.value, JobStatus.STARTED.value})


class VerdictDesk:
    """Asks RQ for the verdicts that are due."""

    def __init__(self, redis: Redis, store: Store, settings: Settings) -> None:
        self._redis: Any = redis
        self._store = store
        seconds = job_seconds(settings)
        self._queue: Queue = verdict_queue(redis, seconds)
        self._again_seconds = 2.0 * seconds
        self._is_asking = bool(settings.verdict_sources)
        self._judges = tuple(settings.judges)
        self._ask = Timer(ASK_SECONDS)
        self._calibrate = Timer(CALIBRATION_SECONDS)
        self._trim = Timer(TRIM_SECONDS)

    def ask(self) -> int:
        """Enqueue a job for every ask that is due; returns how many."""
        if self._trim.is_due():
            self._store.trim_verdicts(time())
        if not self._is_asking or not self._ask.is_due():
            return 0
        if self._judges and self._calibrate.is_due():
            for judge in self._judges:
                enqueue_calibration(self._queue, judge)
        now = time()
        asks = self._store.claim_verdicts(now, now + self._again_seconds)
        missing = self._without_job(asks)
        if missing:
            pipe = self._redis.pipeline(transaction=True)
            for ask in missing:
                enqueue_verdict(self._queue, ask, pipeline=pipe)
            pipe.execute()
        return len(missing)

    def _without_job(self, asks: Sequence[str]) -> list[str]:
        """Asks that no job waits or runs for."""
        if not asks:
            return []
        job_class: Any = self._queue.job_class
        prefix = job_class.redis_job_namespace_prefix
        pipe = self._redis.pipeline(transaction=False)
        for ask in asks:
            pipe.hget(f"{prefix}{verdict_job_id(ask)}", "status")
        states = [state.decode() if state else None for state in pipe.execute()]
        if not _WAITING & set(states):
            return list(asks)
        started = self._redis.zrangebyscore(self._queue.started_job_registry.key, time(), "+inf")
        alive = {member.decode().partition(":")[0] for member in started}
        alive |= set(self._queue.get_job_ids())
        return [ask for ask in asks if verdict_job_id(ask) not in alive]
