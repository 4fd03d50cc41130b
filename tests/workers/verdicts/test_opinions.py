"""Whatever a stranger says: rewards in range, or no verdict. Nothing in between."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.records import transition
from trajectories.model import Trajectory
from workers.verdicts.chat import Score, last_object, read_score
from workers.verdicts.opinions import NoVerdict, opinions_from
from workers.verdicts.transcript import new_code, quoted

TRAJECTORY = Trajectory(
    id="traj_a", started_at=0, updated_at=0, transitions=(transition(0, content="a"),)
)
numbers = st.integers() | st.floats() | st.sampled_from([1e308, -1e308, 1, -1, 0.5])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)
entries = st.dictionaries(
    st.sampled_from(["name", "value", "transition_id", "reason", "extra"]),
    leaves | st.just("tr_traj_a_0"),
)
anything = st.recursive(
    leaves | entries,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def check(failure: NoVerdict) -> None:
    assert failure.reason in ("garbage", "out_of_range")


@given(anything | st.lists(entries, max_size=4))
def test_a_program_may_say_anything(said: Any) -> None:
    try:
        opinions = opinions_from(said, TRAJECTORY, "mine")
    except NoVerdict as failure:
        check(failure)
        return
    for opinion in opinions:
        assert -1 <= opinion.value <= 1
        assert math.isfinite(opinion.value)
        assert opinion.transition_id in (None, "tr_traj_a_0")
    assert len({(opinion.name, opinion.transition_id) for opinion in opinions}) == len(opinions)


@given(anything)
def test_a_judge_may_say_anything(said: Any) -> None:
    try:
        score = read_score(said)
    except NoVerdict as failure:
        check(failure)
        return
    assert score.value is not None
    assert 0 <= score.value <= 1


@given(st.text(), st.text(), st.integers(0, 10))
def test_the_object_is_found_in_whatever_stands_around_it(
    before: str, after: str, score: int
) -> None:
    text = before + json.dumps({"reason": "{", "score": score}) + after.replace("{", "")
    try:
        assert read_score(last_object(text)) == Score(score / 10, "{")
    except NoVerdict:
        assert "{" in before, "an object that was begun before swallows it"


@given(st.text())
def test_whatever_it_says_it_stays_in_its_quotation(content: str) -> None:
    code = new_code(content)
    first, *lines, last = quoted(content, code).splitlines()
    assert (first, last) == (f"BEGIN {code}", f"END {code}")
    assert all(line.startswith("| ") for line in lines) or not content


@pytest.mark.parametrize("deep", ['{"a":' * 30_000, "[" * 60_000 + "{", "{" * 65_000])
def test_a_reply_that_is_made_to_be_slow_is_read_soon(deep: str) -> None:
    with pytest.raises(NoVerdict):
        last_object(deep)
