"""The reward job, and what a worker refuses to run."""

import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from rq import Callback
from rq.job import JobStatus

from tests.workers.records import transition, vote
from tests.workers.test_processes import REF
from trajectories import keys
from trajectories.connection import connect
from trajectories.queues import (
    SCORE,
    ForbiddenJob,
    SafeJob,
    enqueue_scoring,
    enqueue_scorings,
    reward_queue,
    scoring_job_id,
)
from trajectories.settings import RewardSettings, Settings
from trajectories.store import Scorable, Scored, Store, TrajectoryRef
from workers.jobs import NotConfigured, Scorer, score_trajectory
from workers.worker import run_worker

SCORER = Scorer.from_settings(RewardSettings())


def test_a_trajectory_is_scored_from_all_that_is_known(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(transition(0, content="a", finish_reason="length"))
    store.add_feedback(vote(1.0, trajectory="traj_a", is_final=True))
    SCORER.score(store, REF)
    found = store.trajectory(REF)
    assert found is not None
    assert found.reward == 0.7
    assert sorted(reward.source for reward in found.rewards) == ["air:truncated", "feedback:human"]
    assert store.trainable("policy", 10) == [REF]
    assert not store.is_waiting_for_scoring(REF)


def test_only_the_tenant_that_a_policy_learns_from_fills_its_queue_and_its_labellers(
    redis: Any,
) -> None:
    store = Store(redis)
    scorer = Scorer.from_settings(RewardSettings(), tenants={"policy": "default"})
    for tenant in ("default", "acme"):
        made = transition(0, content="a", finish_reason="length")
        store.add_transition(made.model_copy(update={"tenant": tenant}))
        said = vote(1.0, trajectory="traj_a", is_final=True)
        source = said.source.model_copy(update={"id": f"user-of-{tenant}"})
        store.add_feedback(said.model_copy(update={"tenant": tenant, "source": source}))
        scorer.score(store, TrajectoryRef(tenant, "traj_a"))
    assert store.trainable("policy", 10) == [REF]
    assert store.count_labellers("policy") == 1
    other = store.trajectory(TrajectoryRef("acme", "traj_a"))
    assert other is not None
    assert other.reward is not None


def test_a_trajectory_of_which_nothing_is_known_has_no_reward(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(transition(0, content="a"))
    store.close(REF)
    SCORER.score(store, REF)
    found = store.trajectory(REF)
    assert found is not None
    assert found.reward is None
    assert store.count_trainable("policy") == 0


def test_a_change_in_the_middle_of_scoring_is_scored_too(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(transition(0, content="a"))
    store.add_feedback(vote(1.0, trajectory="traj_a", at=1))
    late = iter([vote(-1.0, trajectory="traj_a", at=2)])

    class Interrupted(Scorer):
        def reckon(self, store: Store, ref: Any, scorable: Scorable) -> Scored:
            for feedback in late:
                store.add_feedback(feedback)
            return super().reckon(store, ref, scorable)

    Interrupted.from_settings(RewardSettings()).score(store, REF)
    found = store.trajectory(REF)
    assert found is not None
    assert found.reward == -1.0
    assert not store.is_waiting_for_scoring(REF)


def test_a_trajectory_that_expired_is_asked_for_no_more(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(transition(0))
    redis.delete(keys.trajectory("default", "traj_a"))
    SCORER.score(store, REF)
    assert not store.is_waiting_for_scoring(REF)


def test_the_job_runs_nowhere_but_in_a_worker() -> None:
    with pytest.raises(NotConfigured):
        score_trajectory(str(REF))


@pytest.fixture
def signals() -> Iterator[None]:
    """RQ takes SIGTERM and SIGINT for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


def work(settings: Settings) -> None:
    run_worker(settings, Event(), is_burst=True)


@pytest.mark.usefixtures("signals")
def test_the_worker_runs_the_allowed_job(settings: Settings) -> None:
    redis = connect(settings.redis)
    store = Store(redis)
    store.add_transition(transition(0, content="a"))
    store.add_feedback(vote(1.0, trajectory="traj_a"))
    enqueue_scoring(reward_queue(redis), str(REF))
    enqueue_scoring(reward_queue(redis), str(REF))  # asked twice
    work(settings)
    found = store.trajectory(REF)
    assert found is not None
    assert found.reward == 1.0
    assert store.counts()["rewarded"] == 1


@pytest.mark.usefixtures("signals")
def test_a_scoring_that_hangs_or_raises_fails_and_the_others_go_on(settings: Settings) -> None:
    class Crooked(Scorer):
        def reckon(self, store: Store, ref: Any, scorable: Scorable) -> Scored:
            if ref.id == "traj_hangs":
                while True:
                    pass
            if ref.id == "traj_raises":
                raise ZeroDivisionError
            return super().reckon(store, ref, scorable)

    redis = connect(settings.redis)
    store, queue = Store(redis), reward_queue(redis, job_timeout_seconds=1)
    refs = [TrajectoryRef("default", f"traj_{name}") for name in ("hangs", "raises", "a")]
    for ref in refs:
        store.add_transition(transition(0, trajectory=ref.id, finish_reason="length"))
        enqueue_scoring(queue, str(ref))
    scorer = Crooked.from_settings(settings.rewards)
    run_worker(settings, Event(), scorer=scorer, is_burst=True)
    found = [store.trajectory(ref) for ref in refs]
    assert [entry and entry.reward for entry in found] == [None, None, -0.3]
    failed = [SafeJob.fetch(scoring_job_id(str(ref)), redis) for ref in refs[:2]]
    reasons = [str(job.latest_result().exc_string) for job in failed]
    assert "JobTimeoutException" in reasons[0]
    assert "ZeroDivisionError" in reasons[1]
    assert [store.is_waiting_for_scoring(ref) for ref in refs] == [True, True, False]


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    "attack", ["os.system", "bound method", "failure callback", "success callback", "pickle"]
)
def test_the_worker_refuses_what_a_stranger_wrote(
    settings: Settings, tmp_path: Path, attack: str
) -> None:
    redis = connect(settings.redis)
    queue = reward_queue(redis)
    touched = tmp_path / "touched"
    command = f"touch {touched}"
    function = SCORE if "callback" in attack else "os.system"
    options: dict[str, Any] = {}
    if attack == "failure callback":
        options["on_failure"] = Callback("os.system")
    if attack == "success callback":
        options["on_success"] = Callback("os.system")
    job = queue.enqueue(function, command, failure_ttl=60, **options)
    if attack == "pickle":
        redis.hset(job.key, "data", pickle.dumps(("os.system", None, (command,), {})))
    if attack == "bound method":
        redis.hset(job.key, "data", f'["{SCORE}", "instance", ["{command}"], {{}}]')
    work(settings)
    assert not touched.exists()
    if attack != "pickle":
        assert job.get_status(refresh=True) is JobStatus.FAILED or "callback" in attack


@pytest.mark.parametrize("name", ["os.system", "workers.jobs.Scorer", "builtins.exec", ""])
def test_a_function_that_is_not_on_the_list_is_refused(redis: Any, name: str) -> None:
    job = SafeJob("j", connection=redis)
    job.func_name = name
    job._instance = None
    with pytest.raises(ForbiddenJob):
        _ = job.func


def test_a_job_with_webhooks_calls_nobody(redis: Any) -> None:
    job = SafeJob("j", connection=redis)
    job.webhooks = [object()]  # anything in it would raise when it was looked at
    job.send_webhooks(JobStatus.FINISHED)


@pytest.mark.usefixtures("signals")
def test_many_are_scored_in_one_job_and_one_that_fails_stops_no_other(settings: Settings) -> None:
    class Crooked(Scorer):
        def reckon(self, store: Store, ref: TrajectoryRef, scorable: Scorable) -> Scored:
            if ref.id == "traj_3":
                raise ValueError("no")
            return super().reckon(store, ref, scorable)

    redis = connect(settings.redis)
    store = Store(redis)
    refs = [TrajectoryRef("default", f"traj_{number}") for number in range(6)]
    for ref in refs:
        store.add_transition(transition(0, trajectory=ref.id, content="a"))
        store.add_feedback(vote(1.0, trajectory=ref.id))
    gone = TrajectoryRef("default", "traj_gone")
    queue = reward_queue(redis)
    enqueue_scorings(queue, [str(ref) for ref in [*refs, gone]])
    assert queue.count == 1
    run_worker(settings, Event(), scorer=Crooked.from_settings(RewardSettings()), is_burst=True)
    rewards = [found.reward if (found := store.trajectory(ref)) else None for ref in refs]
    assert rewards == [1.0, 1.0, 1.0, None, 1.0, 1.0]
    assert SafeJob.fetch(
        scoring_job_id(str(refs[3])), redis
    ).get_status() == JobStatus.SCHEDULED or (
        SafeJob.fetch(scoring_job_id(str(refs[3])), redis).is_failed
    )
    assert store.is_waiting_for_scoring(refs[3])


@pytest.mark.usefixtures("signals")
def test_one_that_cannot_be_read_stops_no_other(settings: Settings) -> None:
    redis = connect(settings.redis)
    store = Store(redis)
    refs = [TrajectoryRef("default", f"traj_{number}") for number in range(3)]
    for ref in refs:
        store.add_transition(transition(0, trajectory=ref.id, content="a"))
        store.add_feedback(vote(1.0, trajectory=ref.id))
    redis.hset(keys.transitions_of("default", "traj_1"), "broken", b"broken")
    enqueue_scorings(reward_queue(redis), [str(ref) for ref in refs])
    work(settings)
    assert [store.is_waiting_for_scoring(ref) for ref in refs] == [False, True, False]
