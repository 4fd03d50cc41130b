"""Retries stay a fifth of what is sent, however many calls want one."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.budget import RetryBudget


def test_three_are_free_when_there_is_little_traffic() -> None:
    budget = RetryBudget()
    assert [budget.allow(50.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.refused == 2


def test_with_traffic_a_fifth_of_it_may_be_retried() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.count(50.0)
    assert sum(budget.allow(50.0) for _ in range(100)) == 20


def test_the_budget_comes_back_as_time_passes() -> None:
    budget = RetryBudget()
    assert sum(budget.allow(50.0) for _ in range(9)) == 3
    assert not budget.allow(58.0)
    assert budget.allow(60.0)


def test_requests_of_long_ago_allow_nothing_now() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.count(50.0)
    assert sum(budget.allow(75.0) for _ in range(100)) == 3


@given(
    st.lists(
        st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 3, allow_nan=False)),
        max_size=200,
    )
)
def test_retries_never_pass_the_share_of_the_window(steps: list[tuple[str, float]]) -> None:
    budget, now = RetryBudget(share=0.2, minimum=3, window_seconds=10), 1000.0
    requests: list[float] = []
    retries: list[float] = []
    for kind, seconds in steps:
        now += seconds
        if kind == "request":
            budget.count(now)
            requests.append(now)
        elif budget.allow(now):
            retries.append(now)
            # The window moves in tenths: it is 9 to 10 seconds long.
            sent = sum(moment > now - 10 for moment in requests)
            spent = sum(moment > now - 9 for moment in retries)
            assert spent <= max(3, 0.2 * sent)
