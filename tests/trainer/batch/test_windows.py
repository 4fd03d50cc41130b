"""Windows start where others of their trajectory do, hold the answer, and are short enough."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.batch.windows import start_of_window


@given(st.integers(1, 500), st.integers(1, 200), st.integers(16, 200))
def test_a_window_holds_the_answer_and_some_of_what_came_before(
    prompt: int, answer: int, limit: int
) -> None:
    start = start_of_window(prompt, answer, limit)
    if start is None:
        assert answer > limit // 2, "only a long answer is in the way"
        return
    assert start % (limit // 2) == 0
    assert prompt - start >= 1
    assert prompt - start + answer <= limit
    if start:
        assert prompt - start + answer > limit - limit // 2, "no more is cut than has to be"


def test_what_fits_is_not_cut() -> None:
    assert start_of_window(90, 10, 100) == 0


def test_calls_that_follow_each_other_share_a_window() -> None:
    starts = [start_of_window(prompt, 10, 100) for prompt in range(50, 250, 20)]
    assert starts == [0, 0, 0, 50, 50, 100, 100, 100, 150, 150]
