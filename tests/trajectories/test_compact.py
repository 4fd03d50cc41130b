"""A record in the store is small, and comes out as it went in, byte for byte."""

import time
from typing import Any

import fakeredis
import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.key_leak import key_leaks
from tests.workers.records import transition, vote
from trajectories import keys
from trajectories.errors import RecordError
from trajectories.model import Choice, Transition
from trajectories.store import Linkage, Store, TrajectoryRef
from trajectories.store.compression import Dictionary
from trajectories.store.packing import pack

REF = TrajectoryRef("default", "traj_a")
NO_REWARD: dict[str, Any] = {"rewards": (), "final": None, "is_labelled": False}
LONG = "A long answer, so that it is kept apart from the transition that it was given in. " * 3

texts = st.one_of(st.text(max_size=12), st.sampled_from([LONG, LONG + "!", "", "x" * 300]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
names = st.one_of(st.sampled_from(["role", "content", "name", "refusal", "tool_calls"]), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
    max_leaves=8,
)
messages = st.dictionaries(names, values, max_size=5)
requests = st.dictionaries(
    st.sampled_from(["model", "messages", "tools", "temperature", "prompt", "stop", ""]),
    st.one_of(values, st.lists(st.one_of(messages, scalars), max_size=5)),
)
token_ids = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 151_936), max_size=6)
logprobs = st.lists(
    st.floats(allow_nan=False, allow_infinity=False) | st.floats(-20, 0, width=32), max_size=6
)
choices = st.builds(Choice, message=messages, token_ids=token_ids, logprobs=logprobs)


@st.composite
def conversations(draw: st.DrawFn) -> list[Transition]:
    """Transitions of one trajectory that share, repeat and reorder what they say."""
    said = draw(st.lists(messages, max_size=6))
    ids = draw(token_ids)
    found = []
    for number in range(draw(st.integers(1, 5))):
        request = draw(requests)
        if draw(st.booleans()):
            request = {**request, "messages": said[: draw(st.integers(0, len(said)))]}
        update = {
            "request": request,
            "choices": tuple(draw(st.lists(choices, max_size=2))),
            "prompt_token_ids": tuple(ids[: draw(st.integers(0, len(ids)))] + draw(token_ids)),
            "usage": draw(st.none() | messages),
        }
        found.append(transition(number).model_copy(update=update))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations(), st.booleans())
@example([transition(0, content=LONG, temperature=1), transition(1, temperature=1.0)], False)
@example([transition(0, metadata={"a": 1, "b": 2}), transition(1, metadata={"b": 2, "a": 1})], True)
@example([transition(0, seed=-0.0), transition(1, seed=0), transition(2, seed=False)], False)
def test_what_is_read_is_what_was_recorded(sent: list[Transition], has_dictionary: bool) -> None:
    redis = fakeredis.FakeRedis()
    store = Store(redis)
    if has_dictionary:
        store.put_dictionary("default", Dictionary(_trained()), is_current=True)
    assert store.add_transitions([(entry, Linkage()) for entry in sent]) == [True] * len(sent)
    for reader in (store, Store(redis)):
        assert [entry.to_json() for entry in reader.recorded(REF)] == [
            entry.to_json() for entry in sent
        ]
    assert key_leaks(redis) == []


def _trained() -> bytes:
    samples = [orjson.dumps({"role": "user", "content": f"{LONG} {n}"}) for n in range(200)]
    return zstandard.train_dictionary(4096, samples).as_bytes()


def turn(number: int, trajectory: str = "traj_a", **more: Any) -> Transition:
    """The `number`-th turn of a conversation that says everything again."""
    said: list[dict[str, Any]] = [{"role": "system", "content": "Be kind. " * 200}]
    for before in range(number):
        said.append({"role": "user", "content": f"{before} {LONG}"})
        said.append({"role": "assistant", "content": f"{LONG} {before}"})
    said.append({"role": "user", "content": f"{number} {LONG}"})
    return transition(
        number,
        trajectory=trajectory,
        messages=said,
        content=f"{LONG} {number}",
        **more,
    )


def test_a_message_is_stored_once_for_its_tenant_and_again_for_another(redis: Any) -> None:
    store = Store(redis)
    for name in ("traj_a", "traj_b"):
        for number in range(3):
            store.add_transition(turn(number, name))
    others = turn(0, "traj_a").model_copy(update={"tenant": "other"})
    store.add_transition(others)
    # The system prompt, and of each turn a question and an answer.
    assert len(redis.keys("message:default:*")) == 1 + 3 * 2
    own = {name.split(b":")[2] for name in redis.keys("message:default:*")}
    assert own.isdisjoint(name.split(b":")[2] for name in redis.keys("message:other:*"))


def test_what_an_engine_leaves_empty_makes_no_other_message(redis: Any) -> None:
    store = Store(redis)
    first = turn(0)
    empty = {"refusal": None, "tool_calls": [], "annotations": None}
    answer = {**first.choices[0].message, **empty}
    said = first.model_copy(update={"choices": (Choice(message=answer),)})
    store.add_transition(said)
    before = len(redis.keys("message:*"))
    store.add_transition(turn(1))
    assert len(redis.keys("message:*")) == before + 2  # its question and its answer
    assert store.recorded(REF)[0].to_json() == said.to_json()


def test_a_turn_takes_no_more_for_what_went_before_it(redis: Any) -> None:
    store = Store(redis)
    sizes = []
    for number in range(20):
        this = turn(number)
        store.add_transition(this)
        sizes.append(len(redis.hget(keys.transitions_of("default", "traj_a"), pack(this.id))))
    assert sizes[19] < sizes[2] + 16


@pytest.mark.parametrize("lost", ["base", "contents", "dictionary", "everything"])
def test_what_redis_lost_is_sent_again(redis: Any, lost: str) -> None:
    store = Store(redis)
    store.put_dictionary("default", Dictionary(_trained()), is_current=True)
    store.add_transition(turn(0))
    if lost == "base":
        redis.delete(keys.transitions_of("default", "traj_a"))
    elif lost == "contents":
        redis.delete(*redis.keys("message:default:*"))
    elif lost == "dictionary":
        redis.delete(keys.dictionaries("default"))
    else:
        redis.flushall()
    store.add_transition(turn(1))
    store.add_transition(turn(0, "traj_b"))
    name = turn(1).id
    if lost != "contents":  # else the first turn's own are gone for good, and said so
        assert Store(redis).transition("default", name) == turn(1)
    assert Store(redis).recorded(TrajectoryRef("default", "traj_b")) == [turn(0, "traj_b")]


def test_a_message_that_is_gone_is_named_and_never_silent(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(turn(0))
    for name in redis.keys("message:default:*"):
        value = redis.get(name)
        redis.delete(name)
        with pytest.raises(
            RecordError, match=f"{turn(0).id} of default/traj_a .*{name.decode()[16:]}"
        ):
            Store(redis).trajectory(REF)
        redis.set(name, value, ex=keys.MESSAGE_TTL_SECONDS)
    assert Store(redis).trajectory(REF) is not None


def test_a_message_outlives_whatever_refers_to_it(redis: Any) -> None:
    store = Store(redis)
    for number in range(3):
        store.add_transition(turn(number))

    def left(name: str | bytes) -> int:
        return int(redis.ttl(name))

    names = redis.keys("message:default:*")
    assert all(left(name) > keys.TRAJECTORY_TTL_SECONDS for name in names)
    parts = [*names, *redis.keys("trajectory:default:traj_a*")]
    for name in parts:  # five days later
        redis.expire(name, left(name) - 5 * keys.DAY)
    store.close(REF)
    kept = left(keys.transitions_of("default", "traj_a"))
    assert kept == keys.TRAJECTORY_TTL_SECONDS
    assert all(left(name) > kept for name in names)


def pass_time(redis: Any, seconds: int) -> None:
    """As if that much time had passed for every key."""
    for name in redis.keys("*"):
        left = redis.ttl(name)
        if left >= 0:
            redis.expire(name, left - seconds)


def test_a_message_outlives_what_is_touched_again_and_again(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(turn(0))
    store.close(REF)
    names = redis.keys("message:default:*")
    for number in range(8 * 48):
        pass_time(redis, 1800)
        how = number % 3
        if how == 0:
            store.add_feedback(vote(0.5, trajectory=REF.id))
        elif how == 1:
            store.hold([REF])
        else:
            found = store.scorable(REF)
            assert found is not None
            store.put_rewards(REF, **NO_REWARD, revision=found.revision)
        parts = redis.keys("trajectory:default:traj_a*")
        assert all(0 < redis.ttl(part) <= redis.ttl(name) for part in parts for name in names)
        # An hour, and the time that the test itself takes on a busy machine.
        assert min(map(redis.ttl, parts)) >= keys.TRAJECTORY_TTL_SECONDS - 3700
    assert store.trajectory(REF) is not None


def test_another_process_may_go_on_with_the_conversation(redis: Any) -> None:
    for number in range(4):
        Store(redis).add_transition(turn(number))
    assert Store(redis).recorded(REF) == [turn(number) for number in range(4)]


def test_many_trajectories_are_read_at_once(redis: Any) -> None:
    store = Store(redis)
    refs = [TrajectoryRef("default", f"traj_{name}") for name in "abc"]
    for ref in refs[:2]:
        store.add_transition(turn(0, ref.id))
    found = store.trajectories(refs)
    assert [entry.id if entry else None for entry in found] == ["traj_a", "traj_b", None]
    assert store.trajectories([]) == []


def test_a_broken_value_is_a_record_error(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(turn(0))
    key = keys.transitions_of("default", "traj_a")
    value = redis.hget(key, pack(turn(0).id))
    for broken in (b"", b"x", value[:9], value[:-5], value[:40] + b"\x00" + value[41:]):
        redis.hset(key, pack(turn(0).id), broken)
        with pytest.raises(RecordError):
            Store(redis).trajectory(REF)


def test_storing_takes_its_time_from_the_clock_of_the_call(redis: Any) -> None:
    store = Store(redis)
    before = time.time()
    store.add_transitions([(turn(0), Linkage())], settle_seconds=50)
    due_at = redis.zscore(keys.SCORING, str(REF))
    assert before + 50 <= due_at <= time.time() + 50
