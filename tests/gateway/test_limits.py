"""Buckets and budgets: what may never be exceeded, in one process and over several."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import Bucket, Meter
from trajectories.access import KeyRecord, Usage

TINY = 1e-6


def record(**limits: int | None) -> KeyRecord:
    return KeyRecord(
        id="key_1", name="k", digest="0" * 64, scopes=frozenset(), created_at=0.0, **limits
    )


def grants(meter: Meter, now: float, asked: int) -> int:
    """How many of so many requests at one moment pass."""
    return sum(meter.admit(now, is_inference=True) == 0.0 for _ in range(asked))


STEPS = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 30), st.sampled_from([1, 1, 1, 2, 5])), max_size=40
)


@given(per_minute=st.integers(1, 600), steps=STEPS)
def test_a_bucket_never_grants_more_than_its_burst_and_its_rate(
    per_minute: int, steps: list[tuple[float, int, int]]
) -> None:
    bucket = Bucket(per_minute, now := 1000.0)
    granted: list[float] = []
    for pause, asked, parts in steps:
        now += pause
        bucket.divide(parts, now)
        for _ in range(asked):
            if bucket.wait_seconds(now) == 0.0:
                bucket.take(1, now)
                granted.append(now)
    # Not just from the beginning: over any stretch of time.
    for index, start in enumerate(granted):
        for count, end in enumerate(granted[index:], 1):
            assert count <= per_minute + per_minute / 60 * (end - start) + TINY


@given(per_minute=st.integers(1, 600), debt=st.integers(0, 2000))
def test_whoever_waits_as_long_as_it_is_told_is_served(per_minute: int, debt: int) -> None:
    bucket = Bucket(per_minute, 0.0)
    bucket.take(debt, 0.0)
    assert bucket.wait_seconds(bucket.wait_seconds(0.0) + TINY) == 0.0


def test_a_wait_is_not_longer_than_it_must_be() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.wait_seconds(0.0) == pytest.approx(1.0)
    assert bucket.wait_seconds(0.75) == pytest.approx(0.25)


def test_time_that_goes_backwards_gives_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(60, 100.0)
    assert bucket.wait_seconds(0.0) == pytest.approx(1.0)
    assert bucket.wait_seconds(100.0) == pytest.approx(1.0)


def test_a_share_of_less_than_one_request_still_lets_one_pass() -> None:
    meter = Meter(record(requests_per_minute=2), 0.0)
    meter.divide(4, 0.0)
    assert grants(meter, 0.0, 5) == 1
    assert grants(meter, 100.0, 5) == 0
    assert grants(meter, 121.0, 5) == 1


def test_tokens_are_counted_after_the_answer_and_owed_until_paid_back() -> None:
    meter = Meter(record(tokens_per_minute=600), 0.0)
    assert meter.admit(0.0, is_inference=True) == 0.0
    meter.spend(1200, 0.0)
    assert meter.admit(0.0, is_inference=True) == pytest.approx(60.1)
    assert meter.admit(60.2, is_inference=True) == 0.0


def test_a_vote_is_not_held_back_for_want_of_tokens() -> None:
    meter = Meter(record(tokens_per_minute=60, token_budget=100), 0.0)
    meter.spend(100, 0.0)
    assert meter.admit(0.0, is_inference=True) == math.inf
    assert meter.admit(0.0, is_inference=False) == 0.0


def test_what_is_refused_is_not_counted() -> None:
    meter = Meter(record(requests_per_minute=3), 0.0)
    assert grants(meter, 0.0, 10) == 3
    assert meter.hand_over() == Usage(3, 0)


@given(
    budget=st.integers(1, 500),
    answers=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=30),
)
def test_a_budget_is_overspent_by_no_more_than_the_answer_that_reached_it(
    budget: int, answers: list[tuple[int, bool]]
) -> None:
    meter = Meter(record(token_budget=budget), 0.0)
    total = last = 0
    for tokens, is_exchanged in answers:
        if is_exchanged:
            meter.hand_over()
            meter.settle(Usage(0, total), 0.0)
        if meter.admit(0.0, is_inference=True) == 0.0:
            assert total < budget
            meter.spend(tokens, 0.0)
            total, last = total + tokens, tokens
    assert total < budget + last or total == 0


class Fleet:
    """Processes that share a limit, and the totals they exchange over."""

    def __init__(self, size: int, **limits: int) -> None:
        self.meters = [Meter(record(**limits), 0.0) for _ in range(size)]
        self.total = Usage()
        for index in range(size):
            self.exchange(index, 0.0)

    def exchange(self, index: int, now: float) -> None:
        self.total = self.total.plus(self.meters[index].hand_over())
        self.meters[index].settle(self.total, now)

    def isolate(self, now: float) -> None:
        for meter in self.meters:
            meter.divide(len(self.meters), now)

    def rejoin(self, now: float) -> None:
        for meter in self.meters:
            meter.divide(1, now)


@settings(max_examples=60)
@given(
    size=st.integers(1, 4),
    per_minute=st.integers(1, 120),
    asked=st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=1, max_size=60),
)
def test_over_all_processes_the_limit_is_off_by_no_more_than_is_documented(
    size: int, per_minute: int, asked: list[list[int]]
) -> None:
    fleet = Fleet(size, requests_per_minute=per_minute)
    granted = 0
    interval = 0.5
    for step, counts in enumerate(asked):
        now = step * interval
        granted += sum(
            grants(meter, now, count) for meter, count in zip(fleet.meters, counts, strict=False)
        )
        for index in range(size):
            fleet.exchange(index, now)
    elapsed = (len(asked) - 1) * interval
    rate = per_minute / 60
    documented = per_minute + rate * elapsed + (size - 1) * (per_minute + rate * 2 * interval)
    assert granted <= documented + TINY


def test_what_a_process_hands_in_is_not_held_against_it_again() -> None:
    fleet = Fleet(1, requests_per_minute=60, tokens_per_minute=600)
    for _ in range(3):
        assert grants(fleet.meters[0], 0.0, 20) == 20
        fleet.meters[0].spend(199, 0.0)
        fleet.exchange(0, 0.0)
    assert grants(fleet.meters[0], 0.0, 20) == 0


def test_what_one_process_let_pass_the_others_do_not_let_pass_again() -> None:
    fleet = Fleet(3, requests_per_minute=60)
    assert grants(fleet.meters[0], 0.0, 100) == 60
    for index in range(3):
        fleet.exchange(index, 0.0)
    assert [grants(meter, 0.0, 100) for meter in fleet.meters] == [0, 0, 0]


def test_a_burst_at_all_processes_at_once_is_paid_back() -> None:
    fleet = Fleet(3, requests_per_minute=60)
    assert sum(grants(meter, 0.0, 100) for meter in fleet.meters) == 180
    for second in range(1, 120):
        for index in (0, 1, 2, 0, 1, 2):  # twice: then each has heard of all the others
            fleet.exchange(index, float(second))
        assert sum(grants(meter, float(second), 100) for meter in fleet.meters) == 0


@settings(max_examples=60)
@given(
    size=st.integers(2, 4),
    asked=st.lists(st.lists(st.integers(0, 90), min_size=4, max_size=4), min_size=1, max_size=60),
)
def test_alone_the_processes_keep_to_the_limit_together(size: int, asked: list[list[int]]) -> None:
    fleet = Fleet(size, requests_per_minute=60)
    fleet.isolate(0.0)
    granted = 0
    for now, counts in enumerate(asked):
        granted += sum(
            grants(meter, float(now), count)
            for meter, count in zip(fleet.meters, counts, strict=False)
        )
    assert granted <= 60 + (len(asked) - 1) + TINY


def test_after_an_hour_alone_the_limit_is_whole_again_and_nothing_is_owed() -> None:
    fleet = Fleet(2, requests_per_minute=60)
    fleet.isolate(0.0)
    for second in range(3600):
        assert grants(fleet.meters[0], float(second), 5) <= 30
        assert grants(fleet.meters[1], float(second), 5) <= 30
    for index in (0, 1, 0):
        fleet.exchange(index, 3600.0)
    fleet.rejoin(3600.0)
    assert fleet.total.requests > 3600
    assert grants(fleet.meters[0], 3660.0, 100) == 60


def test_alone_a_process_spends_its_share_of_what_was_left_of_the_budget() -> None:
    fleet = Fleet(4, token_budget=1000)
    fleet.meters[0].spend(200, 0.0)
    for index in range(4):
        fleet.exchange(index, 0.0)
    fleet.isolate(0.0)
    for meter in fleet.meters:
        while meter.admit(0.0, is_inference=True) == 0.0:
            meter.spend(50, 0.0)
    for index in range(4):
        fleet.exchange(index, 0.0)
    assert fleet.total.tokens == 1000


def test_a_batch_that_was_not_confirmed_counts_until_it_is() -> None:
    meter = Meter(record(token_budget=100), 0.0)
    meter.spend(60, 0.0)
    meter.hand_over()
    meter.spend(40, 0.0)
    assert meter.is_spent
    meter.settle(Usage(0, 60), 0.0)
    assert meter.is_spent


def test_a_redis_that_forgot_gives_nobody_anything() -> None:
    meter = Meter(record(requests_per_minute=60), 0.0)
    meter.settle(Usage(1000, 0), 0.0)
    assert grants(meter, 0.0, 100) == 60
    meter.hand_over()
    meter.settle(Usage(60, 0), 0.0)
    assert grants(meter, 0.0, 100) == 0
