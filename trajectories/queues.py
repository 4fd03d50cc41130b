"""RQ, made safe: JSON instead of pickle, and only the jobs named here may run.

RQ imports a job's function by its dotted name, so that whoever can write to
Redis can run code, even with the JSON serializer. `SafeJob` refuses every name
that is not in `JOBS`, every bound method and every callback. A job carries an
id and nothing else; whoever runs it reads the rest from the store.
"""

from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from trajectories.errors import RatchetError
from trajectories.ids import derived_id

SCORE = "workers.jobs.score_trajectory"
SCORE_MANY = "workers.jobs.score_trajectories"
GIVE_VERDICT = "workers.verdicts.jobs.give_verdict"
CALIBRATE = "workers.verdicts.jobs.calibrate_judge"
JOBS = frozenset({SCORE, SCORE_MANY, GIVE_VERDICT, CALIBRATE})
VERDICT_TTL_SECONDS = 7 * 86_400  # as long as a trajectory is kept
VERDICT_QUEUE = "verdicts"  # what is slow: other people's models and programs
QUEUE = "rewards"  # one queue a worker: with several, RQ can lose a job in between
JOB_TIMEOUT_SECONDS = 30
RESULT_TTL_SECONDS = 0  # a job's result is in the store
FAILURE_TTL_SECONDS = 86_400


class ForbiddenJob(RatchetError):
    """A job that is not on the allow-list: somebody wrote to Redis who should not."""


class SafeJob(Job):
    """An RQ job that runs only what `JOBS` names."""

    @property
    def func(self) -> Callable[..., Any]:
        if self.func_name not in JOBS or self.instance is not None:
            raise ForbiddenJob(f"job {self.id} asks for {self.func_name}, which is not allowed")
        function: Callable[..., Any] = super().func
        return function

    @property
    def success_callback(self) -> None:
        return self._refuse(self._success_callback_name)

    @property
    def failure_callback(self) -> None:
        return self._refuse(self._failure_callback_name)

    @property
    def stopped_callback(self) -> None:
        return self._refuse(self._stopped_callback_name)

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """A job written by a stranger must not make this process call an address."""

    def _refuse(self, name: str | None) -> None:
        if name:
            raise ForbiddenJob(f"job {self.id} carries the callback {name}; none are allowed")


def reward_queue(redis: Redis, job_timeout_seconds: int = JOB_TIMEOUT_SECONDS) -> Queue:
    """The queue of reward jobs."""
    return Queue(
        QUEUE,
        connection=redis,
        job_class=SafeJob,
        serializer=JSONSerializer,
        default_timeout=job_timeout_seconds,
    )


def verdict_queue(redis: Redis, job_timeout_seconds: int) -> Queue:
    """The queue of verdicts, with a worker process of its own, so that no reward waits for one."""
    return Queue(
        VERDICT_QUEUE,
        connection=redis,
        job_class=SafeJob,
        serializer=JSONSerializer,
        default_timeout=job_timeout_seconds,
    )


def is_attended(queue: Queue) -> bool:
    """Whether a worker lives that takes jobs from it."""
    return any(Worker.all(queue=queue, serializer=JSONSerializer))


def verdict_job_id(ask: str) -> str:
    """The one job id of an ask (`judge tenant/trajectory`)."""
    return derived_id("verdict", ask)


def enqueue_verdict(queue: Queue, ask: str, *, pipeline: Pipeline | None = None) -> None:
    """Ask for one judge's verdict on one trajectory. Not retried by RQ: the ask comes again."""
    queue.enqueue(
        GIVE_VERDICT,
        ask,
        job_id=verdict_job_id(ask),
        ttl=VERDICT_TTL_SECONDS,
        result_ttl=RESULT_TTL_SECONDS,
        failure_ttl=FAILURE_TTL_SECONDS,
        pipeline=pipeline,
    )


def enqueue_calibration(queue: Queue, judge: str) -> None:
    """Ask for one judge to be fitted to people's labels anew."""
    queue.enqueue(
        CALIBRATE,
        judge,
        job_id=derived_id("calibrate", judge),
        result_ttl=RESULT_TTL_SECONDS,
        failure_ttl=FAILURE_TTL_SECONDS,
    )


def scoring_job_id(trajectory_ref: str) -> str:
    """The one job id of a trajectory: asking twice while it waits is asking once."""
    return derived_id("score", trajectory_ref)


def enqueue_scorings(
    queue: Queue, trajectory_refs: Sequence[str], *, pipeline: Pipeline | None = None
) -> None:
    """Ask for the rewards of many trajectories in one job: a job costs more than a scoring."""
    queue.enqueue(
        SCORE_MANY,
        *trajectory_refs,
        job_id=derived_id("scores", *trajectory_refs),
        retry=Retry(max=3),
        result_ttl=RESULT_TTL_SECONDS,
        failure_ttl=FAILURE_TTL_SECONDS,
        pipeline=pipeline,
    )


def enqueue_scoring(queue: Queue, trajectory_ref: str, *, pipeline: Pipeline | None = None) -> None:
    """Ask for the rewards of one trajectory (`tenant/trajectory id`)."""
    queue.enqueue(
        SCORE,
        trajectory_ref,
        job_id=scoring_job_id(trajectory_ref),
        retry=Retry(max=3),
        result_ttl=RESULT_TTL_SECONDS,
        failure_ttl=FAILURE_TTL_SECONDS,
        pipeline=pipeline,
    )
