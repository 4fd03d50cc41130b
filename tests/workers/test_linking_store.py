"""Linking in Redis: decided once, known under every name, in one round trip."""

import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from redis import ConnectionPool, Redis, UnixDomainSocketConnection

from tests.workers.calls import LONG, assistant, made, user
from tests.workers.records import vote
from tests.workers.redis_server import RedisServer
from trajectories import keys
from trajectories.connection import connect
from trajectories.model import Outcome, Trajectory, Transition, pack_record
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef
from workers.dispatcher import build_dispatcher
from workers.linker import Linker
from workers.linking import call_digest, marks_of
from workers.timing import Timing

ASK = user("What is the weather in Seoul?")
FIRST = made("a", [ASK], LONG)
NEXT = made("b", [ASK, assistant(LONG), user("What should I wear?")], "A hat.", at=1_010.0)
REF = TrajectoryRef("default", "traj_a")
GIVEN = TrajectoryRef("default", "traj_b")


@pytest.fixture
def store(redis: Any) -> Store:
    return Store(redis)


@pytest.fixture
def linker(redis: Any, store: Store) -> Linker:
    return Linker(store)


def read(store: Store, ref: TrajectoryRef = REF) -> Trajectory:
    found = store.trajectory(ref)
    assert found is not None
    return found


def ids(store: Store, ref: TrajectoryRef = REF) -> list[str]:
    return [transition.id for transition in read(store, ref).transitions]


def test_a_linked_call_is_stored_under_the_trajectory_it_goes_on_with(
    store: Store, linker: Linker
) -> None:
    assert linker.add(FIRST)
    assert linker.add(NEXT)
    assert ids(store) == ["tr_a", "tr_b"]
    assert read(store).transitions[1].session_source == "prefix"
    assert store.trajectory(GIVEN) is None
    assert store.locate(GIVEN) == REF
    assert store.locate(TrajectoryRef("other", "traj_b")) is None
    assert store.counts()["trajectories"] == 1


def test_it_joins_a_session_that_was_named(store: Store, linker: Linker) -> None:
    named = {"session_source": "header", "session_id": "s1"}
    linker.add(FIRST.model_copy(update=named))
    linker.add(NEXT)
    assert ids(store) == ["tr_a", "tr_b"]
    assert read(store).session_id == "s1"


def test_a_call_that_names_its_session_is_never_moved(store: Store, linker: Linker) -> None:
    linker.add(FIRST)
    linker.add(NEXT.model_copy(update={"session_source": "url", "session_id": "s2"}))
    assert ids(store, GIVEN) == ["tr_b"]


def test_a_linked_call_opens_the_trajectory_again(store: Store, linker: Linker) -> None:
    linker.add(FIRST)
    store.close(REF)
    linker.add(NEXT)
    assert not read(store).is_closed


def test_a_record_delivered_again_stays_where_it_was(store: Store, linker: Linker) -> None:
    linker.add(NEXT)  # before the call that it goes on with
    linker.add(FIRST)
    assert not linker.add(NEXT)
    assert ids(store, GIVEN) == ["tr_b"]
    assert ids(store) == ["tr_a"]
    assert store.locate(GIVEN) == GIVEN


def test_a_repetition_has_one_effect(store: Store, linker: Linker, redis: Any) -> None:
    for transition in (FIRST, NEXT):
        linker.add(transition)
    before = {name: redis.dump(name) for name in redis.scan_iter()}
    for transition in (FIRST, NEXT, NEXT):
        assert not linker.add(transition)
    assert {name: redis.dump(name) for name in redis.scan_iter()} == before


def test_a_vote_on_the_id_the_client_was_given_reaches_the_real_one(
    store: Store, linker: Linker
) -> None:
    early = vote(1.0, trajectory="traj_b", name="early", at=1.0)
    assert store.add_feedback(early) is None
    linker.add(FIRST)
    linker.add(NEXT)
    assert store.add_feedback(vote(0.5, trajectory="traj_b", name="late")) == REF
    assert store.add_feedback(vote(0.25, response="chatcmpl-b")) == REF
    scorable = store.scorable(REF)
    assert scorable is not None
    assert sorted(entry.reward or 0.0 for entry in scorable.feedback) == [0.25, 0.5, 1.0]
    assert store.count_pending() == 0


def test_votes_are_joined_by_the_replay_when_the_first_try_died_in_between(redis: Any) -> None:
    class Killed(Store):
        def _join_pending(self, *_: Any) -> None:
            raise KeyboardInterrupt

    store = Store(redis)
    store.add_feedback(vote(1.0, trajectory="traj_b"))
    store.add_feedback(vote(1.0, response="chatcmpl-b"))
    Linker(store).add(FIRST)
    with pytest.raises(KeyboardInterrupt):
        Linker(Killed(redis)).add(NEXT)
    redis.delete(
        *redis.keys("index:default:d*")
    )  # the evidence may be gone; what was decided stands
    assert not Linker(store).add(NEXT)
    scorable = store.scorable(REF)
    assert scorable is not None
    assert len(scorable.feedback) == 2
    assert store.count_pending() == 0


def test_two_dispatchers_that_disagree_store_it_once(redis: Any) -> None:
    class Overtaken(Store):
        def add_transitions(self, additions: Any, **named: Any) -> list[bool]:
            Store(redis).add_transition(NEXT)  # another one saw no link, and was first
            return super().add_transitions(additions, **named)

    Linker(Store(redis)).add(FIRST)
    store = Overtaken(redis)
    assert not Linker(store).add(NEXT)
    assert ids(store, GIVEN) == ["tr_b"]
    assert ids(store) == ["tr_a"]


def test_marks_are_bounded(store: Store, linker: Linker, redis: Any) -> None:
    for number in range(keys.LINK_MEMBERS_KEPT + 9):
        linker.add(made(str(number), [ASK], LONG, at=1_000.0 + number))
    digests = [mark.digest for mark in marks_of(FIRST)]
    found = store.find("default", "link", digests)
    assert set(found) == set(digests)
    assert {len(noted) for noted in found.values()} == {keys.LINK_MEMBERS_KEPT}
    assert len(store.attempts("default", call_digest(FIRST))) == keys.ATTEMPTS_KEPT
    for name in redis.scan_iter(match="index:default:d*"):
        assert 0 < redis.ttl(name) <= 2 * keys.LINK_TTL_SECONDS


BROKEN = made("a", [ASK], LONG, outcome=Outcome.DISCONNECTED)
RETRY = made("b", [ASK], LONG, attempt=1, at=1_005.0)


@pytest.mark.parametrize("order", [(BROKEN, RETRY), (RETRY, BROKEN), (FIRST, RETRY)])
def test_a_retry_takes_the_place_of_the_attempt_before_it(
    store: Store, linker: Linker, redis: Any, order: tuple[Transition, Transition]
) -> None:
    for transition in order:
        linker.add(transition)
    found = store.locate(REF)
    assert found is not None
    assert store.locate(GIVEN) == found
    assert ids(store, found) == ["tr_b"]
    assert redis.zrange(keys.superseded_of("default", found.id), 0, -1) == [b"tr_a"]
    revision = redis.hget(keys.trajectory("default", found.id), "revision")
    for transition in order:
        assert not linker.add(transition)
    assert redis.hget(keys.trajectory("default", found.id), "revision") == revision


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_of_three_attempts_in_a_session_the_last_one_counts(
    store: Store, linker: Linker, order: tuple[int, ...]
) -> None:
    tries = [
        made(str(n), [ASK], LONG, attempt=n, at=1_000.0 + n, source="header", trajectory="traj_s")
        for n in range(3)
    ]
    for number in order:
        linker.add(tries[number])
    assert ids(store, TrajectoryRef("default", "traj_s")) == ["tr_2"]


def test_a_superseded_attempt_is_scored_again_and_offered_to_no_round(
    store: Store, linker: Linker
) -> None:
    session: dict[str, Any] = {"source": "header", "trajectory": "traj_s"}
    ref = TrajectoryRef("default", "traj_s")
    linker.add(made("a", [ASK], LONG, **session))
    scorable = store.scorable(ref)
    assert scorable is not None
    store.put_rewards(ref, rewards=[], final=1.0, is_labelled=False, revision=scorable.revision)
    linker.add(made("b", [ASK], LONG, attempt=1, at=1_005.0, **session))
    assert store.is_waiting_for_scoring(ref)
    assert store.add_feedback(vote(-1.0, response="chatcmpl-a")) == ref, "known, and of no weight"


@pytest.mark.parametrize(
    "change",
    [
        {"at": 1_601.0},
        {"key": "key_b"},
        {"tenant": "other"},
        {"attempt": 0},
        {"messages": [user("else")]},
        {"source": "url", "trajectory": "traj_s"},
    ],
)
def test_what_only_looks_like_a_retry_replaces_nothing(
    store: Store, linker: Linker, change: dict[str, Any]
) -> None:
    linker.add(FIRST)
    linker.add(made("b", **{"messages": [ASK], "attempt": 1, "at": 1_005.0, **change}))
    assert ids(store) == ["tr_a"]


def test_a_killed_dispatchers_supersession_is_made_up_for(redis: Any) -> None:
    class Killed(Store):
        def _settle_attempts(self, *_: Any) -> None:
            raise KeyboardInterrupt

    store = Store(redis)
    Linker(store).add(BROKEN)
    with pytest.raises(KeyboardInterrupt):
        Linker(Killed(redis)).add(RETRY)
    assert ids(store) == ["tr_a", "tr_b"]
    Linker(store).add(RETRY)
    assert ids(store) == ["tr_b"]


# -- on a real server ---------------------------------------------------------------------


class Counted(UnixDomainSocketConnection):
    """Counts what is sent: a pipeline goes out as one."""

    sent = 0

    def send_packed_command(self, *given: Any, **named: Any) -> None:
        Counted.sent += 1
        super().send_packed_command(*given, **named)  # type: ignore[no-untyped-call]


@pytest.fixture
def counted(server: RedisServer) -> Iterator[Any]:
    path = server.url.removeprefix("unix://")
    pool = ConnectionPool(connection_class=Counted, path=path)
    client = Redis(connection_pool=pool)
    client.ping()
    yield client
    client.close()


def round_trips(client: Any, transition: Transition) -> int:
    Counted.sent = 0
    assert Linker(Store(client)).add(transition)
    return Counted.sent


def test_a_long_conversation_costs_no_more_round_trips_than_a_short_one(counted: Any) -> None:
    round_trips(counted, made("first", [user("Well?")], "Yes."))  # the scripts are sent once
    long = [user(f"question {n}") if n % 2 else assistant(f"{LONG} {n}") for n in range(40)]
    named = round_trips(counted, made("named", [ASK], LONG, source="url"))
    assert round_trips(counted, made("short", [ASK], LONG)) == named + 1
    assert round_trips(counted, made("long", long, LONG)) == named + 1


def test_calls_of_one_conversation_in_two_streams_are_applied_in_order(
    settings: Settings, server: RedisServer
) -> None:
    client: Any = connect(settings.redis)
    now = time.time()
    for gateway, record in (("g2", NEXT), ("g3", FIRST)):  # read in this order
        current = record.model_copy(update={"started_at": now - 100 + record.started_at / 1e3})
        client.sadd(keys.GATEWAYS, gateway)
        client.xadd(keys.traffic(gateway), {"r": pack_record(current)}, id="1-0")
    build_dispatcher(settings, Timing(block=0.01, trim_every=0)).step(Event())
    assert ids(Store(client)) == ["tr_a", "tr_b"]
