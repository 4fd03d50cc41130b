"""A trajectory stays where its prefix is cached, unless that replica is down or far busier."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.balance import SLACK, Replica, affinity, choose
from gateway.upstreams.breaker import Breaker
from trajectories.settings import BreakerSettings

NOW = 1000.0


def replica(in_flight: int = 0, *, is_healthy: bool = True, is_open: bool = False) -> Replica:
    made = Replica("http://engine", Breaker(BreakerSettings(failures=1)), in_flight, is_healthy)
    if is_open:
        made.breaker.fail(NOW)
    return made


def test_a_trajectory_stays_with_its_replica_within_the_slack() -> None:
    replicas = [replica(), replica(SLACK), replica()]
    assert choose(replicas, 1, NOW) is replicas[1]
    assert choose(replicas, 4, NOW) is replicas[1]


def test_beyond_the_slack_the_least_busy_one_answers() -> None:
    replicas = [replica(2), replica(SLACK + 2), replica(1)]
    assert choose(replicas, 1, NOW) is replicas[2]


def test_one_that_is_down_is_passed_over() -> None:
    replicas = [replica(5), replica(is_healthy=False), replica(6)]
    assert choose(replicas, 1, NOW) is replicas[0]
    replicas = [replica(5), replica(is_open=True), replica(6)]
    assert choose(replicas, 1, NOW) is replicas[0]


def test_one_whose_breaker_is_due_may_be_tried_again() -> None:
    replicas = [replica(), replica(is_open=True)]
    assert choose(replicas, 1, NOW + 60) is replicas[1]


def test_a_second_try_goes_elsewhere_if_there_is_an_elsewhere() -> None:
    replicas = [replica(9), replica()]
    assert choose(replicas, 1, NOW, avoid=replicas[1]) is replicas[0]
    replicas = [replica(is_open=True), replica()]
    assert choose(replicas, 1, NOW, avoid=replicas[1]) is replicas[1]


def test_where_the_checks_found_all_down_one_is_asked_all_the_same() -> None:
    replicas = [replica(3, is_healthy=False), replica(1, is_healthy=False)]
    assert choose(replicas, 0, NOW) is replicas[1]
    assert choose(replicas, 0, NOW, avoid=replicas[1]) is replicas[0]
    only = replica(is_healthy=False)
    assert choose([only], 7, NOW) is only


def test_with_every_breaker_open_nothing_is_asked() -> None:
    assert choose([replica(is_open=True)], 0, NOW) is None
    assert choose([replica(is_open=True), replica(is_open=True)], 0, NOW) is None


def test_trajectories_spread_evenly() -> None:
    replicas = [replica() for _ in range(4)]
    chosen = [choose(replicas, affinity(f"t-{number}"), NOW) for number in range(400)]
    assert all(60 < chosen.count(one) < 140 for one in replicas)


@given(
    st.lists(
        st.builds(replica, st.integers(0, 20), is_healthy=st.booleans(), is_open=st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 7),
)
def test_the_choice_is_usable_and_never_far_busier_than_the_least(
    replicas: list[Replica], key: int, failed: int
) -> None:
    avoid = replicas[failed] if failed < len(replicas) else None
    chosen = choose(replicas, key, NOW, avoid=avoid)
    allowed = [one for one in replicas if one.breaker.allows(NOW)]
    good = [one for one in allowed if one.is_healthy and one is not avoid]
    if not allowed:
        assert chosen is None
        return
    assert chosen in (good or allowed)
    assert chosen is not None
    if good:
        assert chosen.in_flight <= min(one.in_flight for one in good) + SLACK
