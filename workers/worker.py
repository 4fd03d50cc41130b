"""The worker process: RQ's loop, made safe, restarted while Redis comes and goes.

Jobs run in the worker's own process. A fork for each (RQ's default) costs more
than the job, and would guard against nothing here: jobs are short, pure and
limited by an alarm; a worker that is killed is started again by its supervisor,
and its job is found by RQ's registry or by the reconciler, whichever is first.
"""

import logging
import signal
from collections.abc import Callable
from threading import Event
from types import FrameType
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from trajectories.connection import connect
from trajectories.queues import SafeJob, reward_queue
from trajectories.settings import Settings
from workers.jobs import Scorer, use_scorer
from workers.verdicts.roster import Roster

log = logging.getLogger(__name__)

WORKER_TTL_SECONDS = 25  # RQ blocks 15 s less than this on its queue
MAINTENANCE_SECONDS = 5
HEARTBEAT_MARGIN_SECONDS = 5
LONGEST_WAIT_SECONDS = 5.0


class RewardWorker(SimpleWorker):
    """RQ's worker without remote commands, and quick to be noticed when it dies."""

    is_stopping = False

    def subscribe(self) -> None:
        """Nobody commands a worker through Redis: no channel, no thread."""

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM: finish the job at hand, then leave."""
        self.is_stopping = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def get_heartbeat_ttl(self, job: Job) -> int:
        """How long a started job counts as alive: as long as its alarm lets it run."""
        return int(job.timeout or 0) + HEARTBEAT_MARGIN_SECONDS


def run_worker(
    settings: Settings, stop: Event, *, scorer: Scorer | None = None, is_burst: bool = False
) -> None:
    """Run reward jobs until `stop` is set or SIGTERM comes (`is_burst`: until none is left)."""
    use_scorer(
        scorer
        or Scorer.from_settings(
            settings.rewards,
            settings.agents,
            roster=Roster(settings.verdict_sources),
            tenants=settings.tenants_of_policies(),
        )
    )
    run_jobs(settings, stop, reward_queue, is_burst=is_burst)


def run_jobs(
    settings: Settings, stop: Event, queue_of: Callable[[Redis], Queue], *, is_burst: bool = False
) -> None:
    """Run the jobs of one queue; Redis away is waited out."""
    wait = 0.1
    is_well = True
    while not stop.is_set():
        try:
            worker = build_worker(settings, queue_of)
            is_well, wait = True, 0.1
            worker.work(burst=is_burst, logging_level="WARNING")
            if worker.is_stopping or is_burst:
                return
        except RedisError as error:
            if is_well:
                log.warning("Redis is away, waiting: %s", error)
            is_well = False
        _stop_on_signals(stop)  # RQ took the signals for itself
        stop.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def build_worker(
    settings: Settings, queue_of: Callable[[Redis], Queue] = reward_queue
) -> RewardWorker:
    """An RQ worker on one queue. Connects."""
    # RQ overlooks an error of the server's, such as a database that is not there. Asked by a client
    # of its own: RQ sets its longer time-out on connections that are made later, and on no other.
    with connect(settings.redis) as first:
        first.ping()
    redis = connect(settings.redis)
    arguments: dict[str, Any] = {
        "connection": redis,
        "job_class": SafeJob,
        "serializer": JSONSerializer,
        "worker_ttl": WORKER_TTL_SECONDS,
        "maintenance_interval": MAINTENANCE_SECONDS,
        "log_job_description": False,
    }
    return RewardWorker([queue_of(redis)], **arguments)


def _stop_on_signals(stop: Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
