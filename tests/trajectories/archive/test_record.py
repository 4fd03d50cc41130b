"""One trajectory as one line: what comes out is what went in, to the byte."""

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trajectories.archive.records import archived, conversation
from tests.workers.records import transition, vote
from trajectories.archive import Archived
from trajectories.archive.bodies import Bodies, pack, unpack
from trajectories.archive.record import join
from trajectories.errors import RecordError
from trajectories.model import Transition

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
REQUESTS = st.dictionaries(st.sampled_from(["messages", "tools", "input", "model", "x"]), JSON)
IDS = st.lists(st.integers(0, 3), max_size=40).map(tuple)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(st.lists(st.tuples(REQUESTS, IDS), max_size=5))
def test_what_is_packed_comes_back_to_the_byte(calls: list[tuple[dict, tuple]]) -> None:
    steps = [
        transition(number).model_copy(update={"request": request, "prompt_token_ids": ids})
        for number, (request, ids) in enumerate(calls)
    ]
    bodies = Bodies()
    rows = orjson.loads(orjson.dumps(pack(steps, bodies)))
    again = unpack(rows, orjson.loads(orjson.dumps(bodies.values)))
    assert [step.to_json() for step in again] == [step.to_json() for step in steps]


def test_a_line_is_the_record_with_each_message_once() -> None:
    record = archived(turns=20)
    line = record.to_line(1.0)
    assert Archived.from_row(orjson.loads(line)) == record
    whole = sum(len(step.to_json()) for step in record.trajectory.transitions)
    assert len(line) < whole / 2
    assert line.count(b"Frage 3") == 1


def test_a_line_of_a_later_schema_says_who_reads_it() -> None:
    row = orjson.loads(archived().to_line(1.0)) | {"schema": 99}
    with pytest.raises(RecordError, match="a newer one reads it"):
        Archived.from_row(row)


def test_a_line_that_is_none_is_an_error() -> None:
    for row in ({}, {"schema": 1}, orjson.loads(archived().to_line(1.0)) | {"bodies": []}):
        with pytest.raises(RecordError):
            Archived.from_row(row)


def split(record: Archived, at: int) -> tuple[Archived, Archived]:
    steps = record.trajectory.transitions
    parts = []
    for some in (steps[:at], steps[at:]):
        trajectory = record.trajectory.model_copy(
            update={"transitions": some, "started_at": some[0].started_at}
        )
        parts.append(Archived(trajectory, record.feedback, (), 4 - at, True))
    return parts[0], parts[1]


def test_a_conversation_that_came_back_is_joined_with_its_beginning() -> None:
    record = archived(turns=4)
    cold, hot = split(record, 2)
    joined = join(cold, hot)
    assert joined.trajectory.transitions == record.trajectory.transitions
    assert joined.trajectory.started_at == record.trajectory.started_at
    assert joined.edition > max(cold.edition, hot.edition - 1)


def test_all_votes_of_both_sides_are_kept_and_of_one_vote_what_redis_has() -> None:
    cold, hot = split(archived(turns=2), 1)
    first = vote(0.1, trajectory="traj_a", at=1.0).model_copy(update={"id": "fb_1"})
    second = vote(0.9, trajectory="traj_a", at=2.0).model_copy(update={"id": "fb_2"})
    assert first.identity == second.identity
    taken_back = first.model_copy(update={"retracted_at": 3.0})
    joined = join(
        Archived(cold.trajectory, (first, second)), Archived(hot.trajectory, (taken_back,))
    )
    assert joined.feedback == (taken_back, second)


def test_an_attempt_that_a_retry_replaced_leaves_the_steps() -> None:
    cold, hot = split(archived(turns=2), 1)
    gone = cold.trajectory.transitions[0]
    joined = join(cold, Archived(hot.trajectory, (), (gone,)))
    assert joined.superseded == (gone,)
    assert gone not in joined.trajectory.transitions


def test_conversations_differ() -> None:
    first: Transition = conversation("a", 1)[0]
    assert first.request != conversation("b", 1)[0].request
