"""Lines of token-level traffic: what they may be, and what is said of those that are wrong."""

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_transition
from trainer.alone.records import joined, parse
from trajectories.composition import Composition
from trajectories.lines import LineError
from trajectories.model import Trajectory

CALL = {"prompt_token_ids": [1, 2], "token_ids": [3, 4], "logprobs": [-0.5, -0.25]}


def made(*rows: dict[str, Any]) -> Trajectory:
    pieces = [parse(orjson.dumps(row), number) for number, row in enumerate(rows, 1)]
    return joined(pieces, Composition(), "policy")


def test_a_call_is_a_trajectory_of_its_own_where_it_names_none() -> None:
    found = made({**CALL, "reward": 1.0})
    assert (found.id, found.reward, len(found.transitions)) == ("line-1", 1.0, 1)
    step = found.transitions[0]
    assert (step.prompt_token_ids, step.choices[0].token_ids) == ((1, 2), (3, 4))
    assert step.choices[0].is_aligned


def test_calls_of_one_trajectory_are_joined_in_the_order_of_their_steps() -> None:
    rows = [{**CALL, "trajectory_id": "t", "step": step, "task": "sum"} for step in (2, 0, 1)]
    rows[0]["token_ids"] = [9, 9]
    found = made(*rows, {**CALL, "trajectory_id": "t", "step": 3, "reward": -0.5})
    assert [step.choices[0].token_ids[0] for step in found.transitions] == [3, 3, 9, 3]
    assert (found.task, found.reward) == ("sum", -0.5)


def test_the_names_of_trl_are_understood() -> None:
    turn = {
        "prompt_token_ids": [1],
        "completion_token_ids": [2],
        "completion_logprobs": [-1.0],
        "model_version": 3,
    }
    found = made({"turns": [turn, turn], "session_id": "s", "reward": 0.5})
    assert [step.policy_version for step in found.transitions] == [3, 3]
    assert (found.id, found.session_id) == ("s", "s")
    flat = made({"prompt_ids": [1], "completion_ids": [2], "logprobs": [-1.0]})
    assert flat.transitions[0].choices[0].token_ids == (2,)
    assert flat.reward is None, "nothing was said: missing, never 0"


def test_rewards_of_calls_and_of_several_sources() -> None:
    found = made(
        {**CALL, "trajectory_id": "t", "step_reward": 0.5},
        {**CALL, "trajectory_id": "t", "rewards": [{"value": 1.0, "source": "ann"}]},
    )
    assert found.reward == 1.0
    said = {(reward.principal, reward.value, reward.transition_id) for reward in found.rewards}
    assert said == {("file", 0.5, found.transitions[0].id), ("ann", 1.0, None)}


def test_what_was_exported_is_taken_as_it_is() -> None:
    row = {
        "schema": "ratchet.trajectory/1",
        "trajectory_id": "t",
        "started_at": "2026-11-28T12:00:00+00:00",
        "reward": 0.25,
        "transitions": [a_transition("t").model_dump(mode="json")],
        "rewards": [],
    }
    assert made(row).transitions == (a_transition("t"),)
    with pytest.raises(LineError, match="twice"):
        made(row, row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "prompt_token_ids: there is none"),
        ({"prompt_token_ids": [1]}, "token_ids: there is none"),
        ({**CALL, "logprobs": [-0.5]}, "logprobs: 1 for 2 token ids"),
        ({**CALL, "logprobs": ["x", -1]}, "logprobs.0"),
        ({**CALL, "reward": 5}, "reward: not from -1 to 1: scale"),
        ({**CALL, "token_ids": []}, "token_ids"),
        ({"turns": []}, "turns: not a list"),
        ({"turns": [{**CALL, "logprobs": [1.0]}]}, "turns.0.logprobs"),
        ({"transitions": []}, "trajectory_id"),
        ({"transitions": [], "trajectory_id": "t"}, "transitions: there are none"),
        ([], "not a JSON object"),
    ],
)
def test_what_is_wrong_is_said(row: Any, said: str) -> None:
    with pytest.raises(LineError, match=said):
        parse(orjson.dumps(row), 1)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"reward": 1}, {"reward": 0}, "step_reward"),
        ({"step": 1}, {"step": 1}, "`step` of its own"),
        ({"step": 1}, {}, "`step` of its own"),
    ],
)
def test_lines_that_contradict_each_other_are_refused(
    first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    with pytest.raises(LineError, match=said):
        made({**CALL, "trajectory_id": "t", **first}, {**CALL, "trajectory_id": "t", **second})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = "prompt_token_ids token_ids logprobs turns transitions trajectory_id reward rewards step"
names = st.sampled_from(f"{WORDS} sampling messages version agent".split())


@given(
    st.binary(max_size=40)
    | st.dictionaries(names, values).map(lambda row: json.dumps(row).encode())
)
def test_whatever_a_line_holds_it_is_a_record_or_refused(line: bytes) -> None:
    with suppress(LineError):
        joined([parse(line, 1)], Composition(), "policy")
