"""The store: one effect per record, in any order, and nothing left unscored."""

import time
from typing import Any

import pytest

from tests.key_leak import key_leaks
from tests.workers.records import transition, vote
from trajectories import keys
from trajectories.errors import RecordError
from trajectories.ids import trajectory_id
from trajectories.model import Feedback, Reward
from trajectories.standing import standing_votes
from trajectories.store import Place, Store, TrajectoryRef

REF = TrajectoryRef("default", "traj_a")
ONE = "chatcmpl-traj_a-0"


@pytest.fixture
def store(redis: Any) -> Store:
    return Store(redis)


def put(store: Store, final: float | None, ref: TrajectoryRef = REF) -> bool:
    """What a reward job does, with a made-up result."""
    scorable = store.scorable(ref)
    assert scorable is not None
    reward = Reward(id="rw", trajectory_id=ref.id, name="n", source="feedback:human", value=0.0)
    return store.put_rewards(
        ref,
        rewards=[reward] if final is not None else [],
        final=final,
        is_labelled=True,
        revision=scorable.revision,
    )


def test_a_trajectory_on_which_thousands_vote_is_scored_whole(store: Store) -> None:
    store.add_transition(transition(0))
    store.close(REF)
    scorable = store.scorable(REF)
    assert scorable is not None
    rewards = [
        Reward(
            id=f"rw{n}",
            trajectory_id=REF.id,
            name="n",
            source="feedback:human",
            principal=f"person {n}",
            value=1.0,
        )
        for n in range(9_000)
    ]
    assert store.put_rewards(
        REF, rewards=rewards, final=1.0, is_labelled=True, revision=scorable.revision
    )
    found = store.trajectory(REF)
    assert found is not None
    assert len(found.rewards) == len(rewards)
    assert not store.is_waiting_for_scoring(REF)


def test_a_transition_has_one_effect(store: Store) -> None:
    assert store.add_transition(transition(0))
    assert not store.add_transition(transition(0))
    assert store.counts()["transitions"] == store.counts()["trajectories"] == 1
    scorable = store.scorable(REF)
    assert scorable is not None
    assert scorable.revision == 1


def test_transitions_are_ordered_by_start_whatever_order_they_came_in(store: Store) -> None:
    for number in (2, 0, 1):
        store.add_transition(transition(number))
    found = store.trajectory(REF)
    assert found is not None
    assert [entry.id[-1] for entry in found.transitions] == ["0", "1", "2"]
    assert (found.started_at, found.updated_at) == (1000.0, 1002.5)


def test_the_names_of_a_trajectory_are_those_of_its_last_transition(store: Store) -> None:
    new = transition(1).model_copy(update={"agent": "new", "policy": None})
    old = transition(0).model_copy(update={"agent": "old", "task": "t"})
    store.add_transition(new)
    store.add_transition(old)
    found = store.trajectory(REF)
    assert found is not None
    assert (found.agent, found.task, found.policy) == ("new", "t", "policy")


@pytest.mark.parametrize("target", [{"response": ONE}, {"trajectory": "traj_a"}])
def test_a_vote_that_came_first_is_joined_when_its_target_comes(
    store: Store, target: dict[str, str]
) -> None:
    assert store.add_feedback(vote(1.0, **target)) is None  # type: ignore[arg-type]
    assert store.count_pending() == 1
    store.add_transition(transition(0))
    scorable = store.scorable(REF)
    assert scorable is not None
    assert [entry.reward for entry in scorable.feedback] == [1.0]
    assert store.count_pending() == 0


def test_a_vote_on_a_task_is_joined_to_the_session_that_worked_on_it(store: Store) -> None:
    task = trajectory_id("default", session=None, task="t")
    store.add_feedback(vote(1.0, trajectory=task))
    of_session = transition(0).model_copy(update={"session_id": "s", "task": "t"})
    store.add_transition(of_session)
    assert store.add_feedback(vote(1.0, trajectory=task, name="style")) == REF
    assert store.locate(TrajectoryRef("default", task)) == REF
    assert store.locate(TrajectoryRef("other", task)) is None
    scorable = store.scorable(REF)
    assert scorable is not None
    assert len(scorable.feedback) == 2
    assert store.count_pending() == 0


def test_a_vote_on_what_is_no_trajectory_changes_no_key(store: Store, redis: Any) -> None:
    store.add_transition(transition(0))
    store.add_feedback(vote(1.0, response=ONE))
    put(store, 1.0)
    before = redis.hgetall(keys.rewards_of("default", "traj_a"))
    assert store.add_feedback(vote(1.0, trajectory="traj_a:rewards")) is None
    assert redis.hgetall(keys.rewards_of("default", "traj_a")) == before
    redis.flushall()  # such names are not listed


def test_a_vote_is_joined_by_the_replay_when_the_first_try_died_in_between(store: Store) -> None:
    class Killed(Store):
        def _join_pending(self, *_: Any) -> None:
            raise KeyboardInterrupt

    store.add_feedback(vote(1.0, response=ONE))
    with pytest.raises(KeyboardInterrupt):
        Killed(store._redis).add_transition(transition(0))
    assert not store.add_transition(transition(0))
    scorable = store.scorable(REF)
    assert scorable is not None
    assert len(scorable.feedback) == 1
    assert store.count_pending() == 0


def test_a_vote_that_arrives_while_another_is_joined_is_kept(store: Store, redis: Any) -> None:
    late = vote(-1.0, response=ONE, name="tone")

    class Interrupted(Store):
        def _settle(self, tenant: str, vote_id: str) -> TrajectoryRef | None:
            if vote_id != late.id:
                self.add_feedback(late)
            return super()._settle(tenant, vote_id)

    store.add_feedback(vote(1.0, response=ONE))
    Interrupted(redis).add_transition(transition(0))
    assert store.count_pending() == 0
    scorable = store.scorable(REF)
    assert scorable is not None
    assert len(scorable.feedback) == 2


def test_a_vote_whose_target_arrives_while_it_is_put_aside_is_joined(redis: Any) -> None:
    class Overtaken(Store):
        answers = 0

        def places(self, vote: Feedback) -> list[Place]:
            self.answers += 1
            if self.answers == 1:
                return []  # and now the transition comes, and finds nothing pending
            return super().places(vote)

    store = Overtaken(redis)
    store.add_transition(transition(0))
    assert store.add_feedback(vote(1.0, response=ONE)) == REF
    assert store.count_pending() == 0
    scorable = store.scorable(REF)
    assert scorable is not None
    assert len(scorable.feedback) == 1


def test_a_later_vote_replaces_and_an_older_one_does_not(store: Store) -> None:
    store.add_transition(transition(0))
    for at, reward in ((2.0, 1.0), (3.0, -1.0), (1.0, 0.5)):
        store.add_feedback(vote(reward, response=ONE, at=at))
    scorable = store.scorable(REF)
    assert scorable is not None
    standing = standing_votes(scorable.trajectory.transitions, scorable.feedback)
    assert [entry.reward for entry in standing] == [-1.0]
    assert store.counts()["feedback"] == 3


def test_a_replayed_vote_changes_nothing(store: Store) -> None:
    store.add_transition(transition(0))
    store.add_feedback(vote(1.0, response=ONE))
    assert put(store, 1.0)
    store.add_feedback(vote(1.0, response=ONE))
    assert not store.is_waiting_for_scoring(REF)
    assert store.counts()["feedback"] == 1


def test_another_tenants_response_is_unknown(store: Store) -> None:
    store.add_transition(transition(0))
    other = vote(1.0, response=ONE).model_copy(update={"tenant": "other"})
    assert store.add_feedback(other) is None
    assert store.transition_of_response("other", ONE) is None
    assert store.transition_of_response("default", ONE) == "tr_traj_a_0"


def test_rewards_of_an_older_revision_are_refused(store: Store) -> None:
    store.add_transition(transition(0))
    scorable = store.scorable(REF)
    assert scorable is not None
    store.add_feedback(vote(1.0, response=ONE))
    assert not store.put_rewards(
        REF, rewards=[], final=None, is_labelled=False, revision=scorable.revision
    )
    assert store.is_waiting_for_scoring(REF)


def test_a_change_while_a_trajectory_is_read_is_not_taken_for_read(redis: Any) -> None:
    class Interrupted(Store):
        def trajectories(self, refs: Any) -> Any:
            found = super().trajectories(refs)
            Store(redis).add_feedback(vote(1.0, response=ONE))
            return found

    Store(redis).add_transition(transition(0))
    store = Interrupted(redis)
    scorable = store.scorable(REF)
    assert scorable is not None
    assert not store.put_rewards(
        REF, rewards=[], final=None, is_labelled=False, revision=scorable.revision
    )


def test_totals_follow_a_reward_that_changes_and_goes(store: Store) -> None:
    store.add_transition(transition(0))
    for final, expected in ((1.0, (1, 1, 1.0)), (-0.5, (1, 1, -0.5)), (None, (0, 0, 0.0))):
        assert put(store, final)
        totals = store.counts()
        assert (totals["rewarded"], totals["labelled"], totals["reward_sum"]) == expected


def test_only_closed_rewarded_unused_trajectories_are_trainable(store: Store) -> None:
    store.add_transition(transition(0))
    put(store, 1.0)
    assert store.trainable("policy", 9) == []
    store.close(REF)
    put(store, 1.0)
    assert store.trainable("policy", 9) == [REF]
    store.add_transition(transition(1))  # it goes on: open again
    put(store, 1.0)
    assert store.trainable("policy", 9) == []
    store.close(REF)
    put(store, None)
    assert store.trainable("policy", 9) == []
    put(store, 1.0)
    store.mark_used("policy", [REF])
    assert store.count_trainable("policy") == 0
    store.add_feedback(vote(1.0, response=ONE))
    put(store, 1.0)
    assert store.count_trainable("policy") == 0


def test_a_final_vote_closes_at_once(store: Store) -> None:
    store.add_transition(transition(0))
    store.add_feedback(vote(1.0, trajectory="traj_a", is_final=True))
    found = store.trajectory(REF)
    assert found is not None
    assert found.is_closed
    assert store.close_idle(time.time()) == []


def test_an_idle_trajectory_is_closed_and_an_active_one_is_not(store: Store) -> None:
    store.add_transition(transition(0, trajectory="traj_a"))
    store.add_transition(transition(5, trajectory="traj_b"))
    assert store.close_idle(1003.0) == [REF]
    assert store.close_idle(1003.0) == []


def test_a_trajectory_that_becomes_active_while_it_is_closed_stays_open(redis: Any) -> None:
    class Interrupted(Store):
        def _close(self, ref: TrajectoryRef, before: float) -> bool:
            Store(redis).add_transition(transition(9))
            return super()._close(ref, before)

    store = Interrupted(redis)
    store.add_transition(transition(0))
    assert store.close_idle(1003.0) == []
    found = store.trajectory(REF)
    assert found is not None
    assert not found.is_closed


def test_closing_what_expired_leaves_nothing(store: Store, redis: Any) -> None:
    store.add_transition(transition(0))
    redis.delete(keys.trajectory("default", "traj_a"))
    assert store.close_idle(2000.0) == []
    assert not redis.exists(keys.trajectory("default", "traj_a"))
    assert not redis.zcard(keys.OPEN)


def test_a_claimed_trajectory_is_due_again_later_and_once_a_change_is_scored(
    store: Store,
) -> None:
    store.add_transition(transition(0))
    now = time.time() + 1
    assert store.claim_scoring(now, again_at=now + 60) == [REF]
    assert store.claim_scoring(now, again_at=now + 60) == []
    store.add_transition(transition(1))
    assert store.claim_scoring(now, again_at=now + 60) == [], "the asked job will see it"
    put(store, 1.0)
    store.add_transition(transition(2))
    assert store.claim_scoring(now, again_at=now + 60) == [REF]


def test_a_target_that_never_came_is_forgotten(store: Store) -> None:
    store.add_feedback(vote(1.0, response="nowhere"))
    assert store.expire_pending(time.time()) == 0
    assert store.expire_pending(time.time() + keys.PENDING_TTL_SECONDS + 1) == 1
    assert store.count_pending() == 0


def test_feedback_is_found_by_its_id(store: Store) -> None:
    store.add_feedback(vote(1.0, response=ONE))
    assert store.feedback("default", vote(1.0, response=ONE).id) == vote(1.0, response=ONE)
    assert store.feedback("other", vote(1.0, response=ONE).id) is None


def test_every_trajectory_is_listed_once(store: Store) -> None:
    for name in ("traj_a", "traj_b"):
        store.add_transition(transition(0, trajectory=name))
        store.add_feedback(vote(1.0, trajectory=name))
    assert sorted(ref.id for ref in store.all_trajectories()) == ["traj_a", "traj_b"]


def test_a_vote_without_a_target_is_a_record_error_everywhere(store: Store) -> None:
    nowhere = vote(1.0, response=ONE).model_copy(update={"response_id": None})
    with pytest.raises(RecordError):
        store.add_feedback(nowhere)
    with pytest.raises(RecordError):
        Feedback.from_json(nowhere.to_json())


def test_the_leak_check_finds_what_it_should(redis: Any) -> None:
    redis.set("stray", 1)
    redis.set(keys.messages("default") + "x", 1)
    redis.set(keys.COUNTS, 1)
    assert len(key_leaks(redis)) == 3
    redis.flushall()


def test_what_was_scored_while_it_was_claimed_does_not_come_back(redis: Any) -> None:
    class Overtaken(Store):
        def waiting_for_scoring(self, *given: Any) -> list[TrajectoryRef]:
            found = super().waiting_for_scoring(*given)
            put(Store(redis), 1.0)  # by the job of another dispatcher
            return found

    Store(redis).add_transition(transition(0))
    now = time.time() + 1
    assert Overtaken(redis).claim_scoring(now, again_at=now + 60) == [REF]
    assert not Store(redis).is_waiting_for_scoring(REF)
