"""What rollouts are called, and what their header says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.ids import trajectory_id
from trajectories.rollouts import MOST_ANSWERS, Rollout, siblings_of

TENANTS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9_.~-]{1,40}", fullmatch=True)


@given(TENANTS, IDS, st.integers(0, MOST_ANSWERS - 1))
def test_what_is_written_is_read(tenant: str, transition: str, number: int) -> None:
    rollout = Rollout(tenant, transition, number)
    assert Rollout.parse(str(rollout)) == rollout
    assert rollout.trajectory_id in siblings_of(tenant, transition)


@given(st.text(max_size=40))
def test_anything_else_is_no_rollout(text: str) -> None:
    found = Rollout.parse(text)
    assert found is None or str(found) == text or text.rsplit("/", 1)[1].startswith("0")


@pytest.mark.parametrize("text", ["", "a/b", "a/b/16", "A/b/1", "a//1", "a/b/1/2", "a/b/-1"])
def test_a_header_that_is_none(text: str) -> None:
    assert Rollout.parse(text) is None


def test_no_session_and_no_task_is_called_like_a_sibling() -> None:
    names = set(siblings_of("default", "tr_1"))
    assert len(names) == MOST_ANSWERS
    assert trajectory_id("default", session="tr_1", task=None) not in names
    assert names.isdisjoint(siblings_of("acme", "tr_1"))
