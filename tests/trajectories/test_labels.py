"""Label windows: pending, closed, late; a late vote changes the reward and opens nothing again."""

import pytest

from tests.trainer.records import a_trajectory
from trajectories.account import account_of
from trajectories.composition import Outcome
from trajectories.labels import Labels, labels_of, waited_until
from trajectories.model import Feedback, FeedbackSource, Trajectory

WINDOWS = {"solved": 100.0, "csat": 1000.0}


def vote(name: str = "reward", at: float = 1.0, *, value: float | None = 1.0,
         is_final: bool = False) -> Feedback:  # fmt: skip
    return Feedback(
        id=f"{name}-{at}",
        identity=f"{name}-{at}",
        trajectory_id="t1",
        name=name,
        reward=value,
        received_at=at,
        is_final=is_final,
    )


def closed(at: float | None = 1010.0) -> Trajectory:
    """Last active at 1000."""
    return a_trajectory("t1", closed_at=at)


def test_nothing_that_users_say_is_waited_for_of_a_sibling() -> None:
    of_a_user = closed()
    for trajectory, expected in (
        (of_a_user, Labels.PENDING),
        (of_a_user.model_copy(update={"rollout": "tr_1"}), Labels.CLOSED),
    ):
        account = account_of(
            trajectory, (), (), Outcome(0.0, False), windows={"reopened": 1e6}, now=9999.0
        )
        assert account.labels is expected
        assert (account.waited_until > 9999.0) is (expected is Labels.PENDING)


def test_the_longest_window_of_what_was_not_said_is_waited_for() -> None:
    assert waited_until(closed(), [], WINDOWS) == 2000
    assert waited_until(closed(), [vote("csat")], WINDOWS) == 1100
    assert waited_until(closed(), [vote("csat"), vote("solved")], WINDOWS) == 1000
    assert waited_until(closed(), [vote("csat", value=None)], WINDOWS) == 2000
    assert waited_until(closed(), [], {}) == 1000


def test_labels_are_pending_while_it_is_open_or_waited_for_and_then_closed() -> None:
    running = a_trajectory("t1", is_closed=False)
    assert labels_of(running, [], {}, 1e9) is Labels.PENDING
    assert labels_of(closed(), [], WINDOWS, 1999) is Labels.PENDING
    assert labels_of(closed(), [], WINDOWS, 2000) is Labels.CLOSED
    assert labels_of(closed(), [vote("csat"), vote("solved")], WINDOWS, 1011) is Labels.CLOSED


@pytest.mark.parametrize(
    ("at", "windows", "expected"),
    [
        (1010.0, {}, Labels.CLOSED),
        (1011.0, {}, Labels.LATE),
        (1999.0, WINDOWS, Labels.CLOSED),
        (2001.0, WINDOWS, Labels.LATE),
    ],
)
def test_a_vote_is_late_when_nothing_was_waited_for_any_more(
    at: float, windows: dict[str, float], expected: Labels
) -> None:
    assert labels_of(closed(), [vote("csat", at)], windows, 9999) is expected


def test_what_a_final_vote_closed_makes_later_ones_late_in_any_order() -> None:
    votes = [vote("a", 1005.0, is_final=True), vote("b", 1006.0)]
    assert labels_of(closed(None), votes, {}, 9999) is Labels.LATE
    assert labels_of(closed(None), votes[::-1], {}, 9999) is Labels.LATE
    assert labels_of(closed(None), votes[:1], {}, 9999) is Labels.CLOSED


def test_a_verdict_that_was_asked_for_after_the_closing_is_not_late() -> None:
    source = FeedbackSource(type="judge", id="helpful")
    judged = vote(at=5000.0).model_copy(update={"source": source})
    assert labels_of(closed(), [judged], {}, 9999, {"helpful"}) is Labels.CLOSED
    assert labels_of(closed(), [judged], {}, 9999, {"another"}) is Labels.LATE
    assert labels_of(closed(), [vote(at=5000.0)], {}, 9999, {"helpful"}) is Labels.LATE


def test_a_comment_is_never_a_late_label() -> None:
    assert labels_of(closed(), [vote("note", 5000.0, value=None)], {}, 9999) is Labels.CLOSED


def test_a_final_vote_on_what_had_closed_by_itself_is_late() -> None:
    assert labels_of(closed(at=1010.0), [vote(at=1500.0, is_final=True)], {}, 1e9) is Labels.LATE
