"""Which votes stand: the last of one mind, about what was there when it spoke."""

from tests.workers.records import transition, vote
from trajectories.model import Feedback
from trajectories.standing import standing_votes

ONE = "chatcmpl-traj_a-0"
STEPS = [transition(number) for number in range(3)]  # begun at 1000, 1001, 1002


def rewards(*votes: Feedback) -> list[tuple[str | None, float | None]]:
    found = standing_votes(STEPS, votes)
    return sorted((entry.transition_id, entry.reward) for entry in found)  # type: ignore[type-var]


def test_the_last_vote_of_a_source_under_a_name_stands() -> None:
    first, last = vote(1.0, response=ONE, at=1.0), vote(-1.0, response=ONE, at=2.0)
    assert rewards(first, last) == rewards(last, first) == [("tr_traj_a_0", -1.0)]
    assert len(rewards(first, vote(1.0, response=ONE, name="tone"))) == 2
    assert len(rewards(first, vote(1.0, response=ONE, source="judge"))) == 2


def test_two_names_of_one_answer_are_one_target() -> None:
    by_response = vote(1.0, response=ONE, at=1.0)
    by_step = vote(-1.0, trajectory="traj_a", at=2.0).model_copy(update={"step": 0})
    assert rewards(by_response, by_step) == [("tr_traj_a_0", -1.0)]


def test_votes_with_ids_of_their_own_stand_side_by_side() -> None:
    both = [
        vote(reward, response=ONE, at=at).model_copy(update={"has_own_id": True, "identity": name})
        for reward, at, name in ((1.0, 1.0, "a"), (-1.0, 2.0, "b"))
    ]
    assert len(rewards(*both)) == 2


def test_what_a_vote_replaced_does_not_come_back_when_it_is_taken_back() -> None:
    first, last = vote(1.0, response=ONE, at=1.0), vote(-1.0, response=ONE, at=2.0)
    assert rewards(first, last.erased(3.0)) == []
    assert rewards(first.erased(3.0), last) == [("tr_traj_a_0", -1.0)]


def test_a_step_from_the_end_is_counted_as_it_was() -> None:
    def at(time: float, step: int) -> list[tuple[str | None, float | None]]:
        said = vote(1.0, trajectory="traj_a", at=time).model_copy(update={"step": step})
        return rewards(said)

    assert at(1_000.5, -1) == [("tr_traj_a_0", 1.0)]
    assert at(9_000.0, -1) == [("tr_traj_a_2", 1.0)]
    assert at(9_000.0, -3) == [("tr_traj_a_0", 1.0)]
    assert at(9_000.0, -4) == at(9_000.0, 3) == at(1.0, -1) == []


def test_a_vote_on_what_is_not_there_is_left_out() -> None:
    assert rewards(vote(1.0, response="chatcmpl-elsewhere")) == []


def test_applied_to_its_own_result_it_changes_nothing() -> None:
    once = standing_votes(STEPS, [vote(1.0, response=ONE), vote(0.5, trajectory="traj_a")])
    assert standing_votes(STEPS, once) == once
