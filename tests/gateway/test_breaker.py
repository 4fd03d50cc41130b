"""The circuit breaker opens on failures, lets one call try, and never stays shut for good."""

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.upstreams.breaker import Breaker, Window
from trajectories.settings import BreakerSettings

LIMITS = BreakerSettings(failures=3, share=0.5, minimum_calls=6, window_seconds=10, open_seconds=5)


def call(breaker: Breaker, now: float, *, is_well: bool) -> None:
    assert breaker.allows(now)
    breaker.begin(now)
    (breaker.succeed if is_well else breaker.fail)(now)


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker(LIMITS)
    for _ in range(LIMITS.failures):
        call(breaker, now, is_well=False)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(LIMITS)
    for is_well in (False, False, True, False, False):
        call(breaker, 100.0, is_well=is_well)
    assert breaker.state == "closed"
    call(breaker, 100.0, is_well=False)
    assert breaker.state == "open"
    assert not breaker.allows(104.9)
    assert breaker.retry_after(103.0) == 2.0


def test_a_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    breaker = Breaker(LIMITS)
    for is_well in (False, True, False, True, True):
        call(breaker, 100.0, is_well=is_well)
    assert breaker.state == "closed"
    call(breaker, 109.0, is_well=False)
    assert breaker.state == "open"


def test_failures_out_of_the_window_are_forgotten() -> None:
    breaker = Breaker(LIMITS)
    for is_well in (False, True, False, True, True):
        call(breaker, 100.0, is_well=is_well)
    call(breaker, 111.0, is_well=False)
    assert breaker.state == "closed"


def test_when_half_open_one_call_tries_and_its_success_closes() -> None:
    breaker = opened()
    assert breaker.allows(105.0)
    breaker.begin(105.0)
    assert not breaker.allows(106.0)
    breaker.succeed(106.0)
    assert breaker.state == "closed"
    assert breaker.allows(106.0)


def test_its_failure_opens_again_for_the_whole_time() -> None:
    breaker = opened()
    breaker.begin(105.0)
    breaker.fail(107.0)
    assert not breaker.allows(111.9)
    assert breaker.allows(112.0)


def test_failures_of_before_do_not_count_after_it_closed() -> None:
    breaker = opened()
    for is_well in (True, False, True, False):
        call(breaker, 105.0, is_well=is_well)
    assert breaker.state == "closed"


def test_a_client_that_hangs_up_on_the_trial_leaves_it_to_the_next() -> None:
    breaker = opened()
    breaker.begin(105.0)
    breaker.withdraw(105.5)
    assert breaker.allows(105.5)
    assert breaker.state == "open"


def test_a_trial_that_is_never_heard_of_again_is_given_up() -> None:
    breaker = opened()
    breaker.begin(105.0)
    assert not breaker.allows(109.9)
    assert breaker.allows(110.0)


@pytest.mark.parametrize("is_well", [True, False])
def test_what_was_sent_before_it_opened_changes_nothing_while_it_is_open(is_well: bool) -> None:
    breaker = opened()
    (breaker.succeed if is_well else breaker.fail)(104.0)
    assert breaker.state == "open"
    assert breaker.allows(105.0)


def test_a_window_counts_the_last_seconds_only() -> None:
    window = Window(10)
    window.add(100.5, total=2, marked=1)
    window.add(105.5, total=3)
    assert (window.total, window.marked) == (5, 1)
    window.turn(111.0)
    assert (window.total, window.marked) == (3, 0)


def test_after_a_long_silence_a_window_is_empty() -> None:
    for start in range(10):
        window = Window(10)
        window.add(100.0 + start, total=1, marked=1)
        window.turn(150.0)
        assert (window.total, window.marked) == (0, 0)


class BreakerLife(RuleBasedStateMachine):
    """Calls go when allowed and end in any order; a plain model says what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(LIMITS)
        self.now = 1000.0
        self.running = 0
        self.in_a_row = 0

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 4.875, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def a_call_is_sent(self) -> None:
        was = self.breaker.state
        self.breaker.begin(self.now)
        self.running += 1
        if was != "closed":
            assert self.breaker.state == "half_open"
            assert not self.breaker.allows(self.now), "one trial at a time"

    @precondition(lambda self: self.running)
    @rule()
    def a_call_is_answered(self) -> None:
        was = self.breaker.state
        self.breaker.succeed(self.now)
        self.running -= 1
        self.in_a_row = 0
        assert self.breaker.state == ("open" if was == "open" else "closed")

    @precondition(lambda self: self.running)
    @rule()
    def a_call_fails(self) -> None:
        was = self.breaker.state
        self.breaker.fail(self.now)
        self.running -= 1
        self.in_a_row += 1
        if was == "half_open" or (was == "closed" and self.in_a_row >= LIMITS.failures):
            assert self.breaker.state == "open"
        if was != "open" and self.breaker.state == "open":
            assert self.breaker.retry_after(self.now) == LIMITS.open_seconds

    @precondition(lambda self: self.running)
    @rule()
    def a_client_hangs_up(self) -> None:
        was = self.breaker.state
        self.breaker.withdraw(self.now)
        self.running -= 1
        assert self.breaker.state == ("closed" if was == "closed" else "open")

    @invariant()
    def it_is_never_shut_for_good(self) -> None:
        assert self.breaker.allows(self.now + LIMITS.open_seconds)
        assert 0 <= self.breaker.retry_after(self.now) <= LIMITS.open_seconds

    @invariant()
    def what_allows_says_is_what_retry_after_says(self) -> None:
        assert self.breaker.allows(self.now) == (self.breaker.retry_after(self.now) == 0)


TestBreakerLife = BreakerLife.TestCase
TestBreakerLife.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
