"""What stands in `scoring` and what stands in RQ, kept in step.

`scoring` is the truth: a trajectory is in it from its first change until
rewards were computed from that very revision. Its score is when a reward job
is due. Asking for one moves that into the future; if the trajectory is still
there then, the job was lost, or it failed, or it is only waiting: that is what
is found out here. So a burst costs one job, a lost job costs a minute, and no
change is left unscored. It reads no records and computes nothing.
"""

import logging
from collections.abc import Sequence
from time import time
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import JobStatus

from trajectories import keys
from trajectories.queues import enqueue_scoring, enqueue_scorings, scoring_job_id
from trajectories.store import Store, TrajectoryRef
from workers.timing import Timing

log = logging.getLogger(__name__)

FEW = 8  # trajectories with a job each
IN_ONE_JOB = 50
MOST_JOBS = 40  # in the queue
_WAITING = frozenset({JobStatus.QUEUED.value, JobStatus.STARTED.value})


class Reconciler:
    """Asks RQ for the reward jobs that are due."""

    def __init__(self, redis: Redis, store: Store, queue: Queue, timing: Timing) -> None:
        self._redis: Any = redis
        self._store = store
        self._queue = queue
        self._timing = timing

    def ask(self) -> int:
        """Ask for every trajectory whose scoring is due; returns for how many.

        A few get a job each, of which RQ knows whether it is alive; many share jobs.
        No more is asked for than workers can take before it is asked for again.
        """
        now = time()
        if self._queue.count >= MOST_JOBS:
            return 0
        refs = self._store.claim_scoring(
            now - self._timing.debounce, now - self._timing.debounce + self._timing.ask_again
        )
        if not refs:
            return 0
        if len(refs) > FEW:
            return self._ask_many(refs)
        states = self._states(refs)
        waiting = self._alive() if _WAITING & set(states) else set()
        missing = []
        for ref, state in zip(refs, states, strict=True):
            if scoring_job_id(str(ref)) in waiting:
                continue
            if state == JobStatus.FAILED.value:
                self._try_seldom(ref, now)
            elif state in _WAITING:
                log.warning("reward job was lost, asked for again", extra={"ref": str(ref)})
            missing.append(ref)
        if missing:
            pipe = self._redis.pipeline(transaction=True)
            for ref in missing:
                enqueue_scoring(self._queue, str(ref), pipeline=pipe)
            pipe.execute()
        return len(missing)

    def _ask_many(self, refs: Sequence[TrajectoryRef]) -> int:
        pipe = self._redis.pipeline(transaction=True)
        for first in range(0, len(refs), IN_ONE_JOB):
            names = [str(ref) for ref in refs[first : first + IN_ONE_JOB]]
            enqueue_scorings(self._queue, names, pipeline=pipe)
        pipe.execute()
        return len(refs)

    def _states(self, refs: Sequence[TrajectoryRef]) -> list[str | None]:
        """What RQ last knew of each trajectory's job; None when it has none (the usual case)."""
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(self._job_key(ref), "status")
        return [state.decode() if state else None for state in pipe.execute()]

    def _alive(self) -> set[str]:
        """Ids of the jobs that wait in the queue or run within their time."""
        started = self._redis.zrangebyscore(self._queue.started_job_registry.key, time(), "+inf")
        running = {member.decode().partition(":")[0] for member in started}
        return running | set(self._queue.get_job_ids())

    def _try_seldom(self, ref: TrajectoryRef, now: float) -> None:
        """A trajectory whose scoring fails every time must not keep the workers busy."""
        log.error("scoring failed, tried again later", extra={"ref": str(ref)})
        self._queue.failed_job_registry.remove(scoring_job_id(str(ref)))
        again_at = now + self._timing.ask_again_failed
        self._redis.zadd(keys.SCORING, {str(ref): again_at}, xx=True)

    def _job_key(self, ref: TrajectoryRef) -> str:
        job_class: Any = self._queue.job_class
        return f"{job_class.redis_job_namespace_prefix}{scoring_job_id(str(ref))}"
