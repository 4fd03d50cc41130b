"""Records: what is packed comes out again, and what is no record says so."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.workers.records import WEATHER, call, transition, vote
from trajectories.errors import RecordError
from trajectories.ids import derived_id, new_id, trajectory_id
from trajectories.model import Choice, Feedback, Reward, Transition, pack_record, unpack_record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_a_transition_survives_the_stream() -> None:
    told = transition(0, calls=[call("get_weather", "{}")], tools=[WEATHER])
    told = told.model_copy(
        update={
            "prompt_token_ids": (1, 2),
            "choices": (Choice(token_ids=(3, 4), logprobs=(-0.5, -0.0)),),
        }
    )
    assert unpack_record(pack_record(told)) == told


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_json_body_survives_the_stream(body: dict[str, Any]) -> None:
    told = transition(0).model_copy(update={"request": body})
    assert unpack_record(pack_record(told)) == told


def test_feedback_survives_the_stream() -> None:
    told = vote(0.25, response="r", source="judge", source_id="j1")
    assert unpack_record(pack_record(told)) == told


@given(st.binary(max_size=64))
def test_bytes_that_are_no_record_are_a_record_error(raw: bytes) -> None:
    with pytest.raises(RecordError):
        unpack_record(raw)


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    raw = pack_record(vote(1.0, response="r"))
    assert unpack_record(raw[:-1] + b',"newer":1}') == vote(1.0, response="r")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e308, -1.01, "1.5x"])
def test_a_reward_is_finite_and_in_range(value: Any) -> None:
    with pytest.raises(ValidationError):
        Reward(id="r", trajectory_id="t", name="n", source="s", value=value)
    with pytest.raises(ValidationError):
        vote(value, response="r")


def test_what_is_not_finite_is_refused_and_not_written_as_null() -> None:
    with pytest.raises(ValidationError):
        Choice(token_ids=(1,), logprobs=(math.nan,))
    with pytest.raises(ValidationError):
        Transition.model_validate({**transition(0).model_dump(), "latency_seconds": math.inf})


@pytest.mark.parametrize("body", [{"a": "\ud800"}, {"a": 2**70}])
def test_a_body_that_json_cannot_hold_is_a_record_error(body: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        transition(0).model_copy(update={"request": body}).to_json()


@pytest.mark.parametrize("targets", [{}, {"response_id": "r", "trajectory_id": "t"}])
def test_feedback_has_exactly_one_target(targets: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        Feedback(id="f", identity="i", received_at=0, **targets)  # type: ignore[arg-type]


def test_choices_are_aligned_when_every_token_has_its_logprob() -> None:
    assert Choice(token_ids=(1, 2), logprobs=(-1.0, -2.0)).is_aligned
    assert not Choice(token_ids=(1, 2), logprobs=(-1.0,)).is_aligned
    assert not Choice().is_aligned


def test_derived_ids_repeat_and_do_not_run_together() -> None:
    assert derived_id("rw", "a", "b") == derived_id("rw", "a", "b")
    assert derived_id("rw", "ab", "") != derived_id("rw", "a", "b")
    assert derived_id("rw", "a") != derived_id("tr", "a")


def test_new_ids_differ_and_sort_by_time() -> None:
    ids = [new_id("tr") for _ in range(100)]
    assert len(set(ids)) == 100
    assert [entry[:15] for entry in ids] == sorted(entry[:15] for entry in ids)


def test_a_session_has_one_trajectory_per_tenant() -> None:
    first = trajectory_id("default", session="s", task="t")
    assert first == trajectory_id("default", session="s", task=None)
    assert first != trajectory_id("other", session="s", task=None)
    assert first != trajectory_id("default", session=None, task="s")
    assert trajectory_id("default", session=None, task=None) != trajectory_id(
        "default", session=None, task=None
    )
