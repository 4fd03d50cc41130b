"""Which attempt a retry replaced: from numbers and times alone."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from trajectories.attempts import WITHIN_SECONDS, Attempt, superseded


def attempt(name: str, number: int, at: float, *, is_complete: bool = False) -> Attempt:
    return Attempt(at, number, is_complete, f"tr_{name}", f"traj_{name}")


def pairs(*attempts: Attempt) -> set[tuple[str, str]]:
    return {(a.transition[3:], b.transition[3:]) for a, b in superseded(attempts)}


attempts = st.builds(
    lambda name, number, at, done: attempt(str(name), number, at, is_complete=done),
    st.integers(0, 99),
    st.integers(0, 3),
    st.floats(0, 1_000),
    st.booleans(),
)


def test_each_retry_replaces_the_one_before_it() -> None:
    three = [attempt("a", 0, 1.0), attempt("b", 1, 2.0), attempt("c", 2, 3.0, is_complete=True)]
    for order in itertools.permutations(three):
        assert pairs(*order) == {("a", "b"), ("b", "c")}


def test_a_retry_whose_first_attempts_never_came_replaces_what_there_is() -> None:
    assert pairs(attempt("a", 0, 1.0), attempt("c", 2, 3.0)) == {("a", "c")}
    assert pairs(attempt("c", 2, 3.0)) == set()


def test_of_two_equal_calls_the_one_that_broke_was_tried_again() -> None:
    whole, broken = attempt("a", 0, 1.0, is_complete=True), attempt("b", 0, 1.5)
    assert pairs(whole, broken, attempt("c", 1, 2.0)) == {("b", "c")}
    assert pairs(broken, attempt("d", 0, 1.2), attempt("c", 1, 2.0)) == set()


def test_it_is_over_after_ten_minutes() -> None:
    late = attempt("b", 1, WITHIN_SECONDS)
    assert pairs(attempt("a", 0, 0.0), late) == {("a", "b")}
    assert pairs(attempt("a", 0, -0.1), late) == set()


@given(st.lists(attempts, max_size=8, unique_by=lambda entry: entry.transition))
def test_nothing_is_replaced_twice_nor_by_what_came_before(found: list[Attempt]) -> None:
    replaced = superseded(found)
    assert len({earlier.transition for earlier, _ in replaced}) == len(replaced)
    assert len({retry.transition for _, retry in replaced}) == len(replaced)
    for earlier, retry in replaced:
        assert earlier.number < retry.number
        assert 0 <= retry.started_at - earlier.started_at <= WITHIN_SECONDS
    assert superseded(reversed(found)) == replaced


@given(attempts)
def test_an_attempt_is_read_as_it_was_written(written: Attempt) -> None:
    assert Attempt.parse(written.member.encode(), written.started_at) == written
