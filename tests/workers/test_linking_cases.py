"""Conversations recorded from real clients, through the linker and the store: all linked."""

from pathlib import Path
from typing import Any

import pytest

from tests.workers.calls import CASES, recorded
from trajectories.model import Transition
from trajectories.store import Store, TrajectoryRef
from workers.linker import Linker

FILES = sorted(CASES.glob("*.json"))


def add_all(redis: Any, transitions: list[Transition]) -> dict[str, Transition]:
    """Store the calls, and read them back from wherever they went."""
    store = Store(redis)
    linker = Linker(store)
    for transition in transitions:
        assert linker.add(transition)
    stored = {}
    for ref in store.all_trajectories():
        found = store.trajectory(ref)
        assert found is not None
        stored.update({transition.id: transition for transition in found.transitions})
    return stored


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_call_goes_where_it_belongs(redis: Any, path: Path) -> None:
    transitions, expected = recorded(path)
    stored = add_all(redis, transitions)
    for number, expect in enumerate(expected):
        found = stored[f"tr_{number}"]
        assert found.trajectory_id == f"traj_{expect['with']}", number
        assert found.session_source == expect["source"], number
        assert found.agent == expect.get("agent"), number


def test_there_are_enough_cases_of_enough_clients() -> None:
    expected = [expect for path in FILES for expect in recorded(path)[1]]
    assert sum(expect["source"] != "new" for expect in expected) >= 18
    assert {expect["source"] for expect in expected} == {"new", "tool_call_id", "prefix", "text"}


@pytest.mark.parametrize(
    "path", [path for path in FILES if "smolagents" not in path.stem], ids=lambda path: path.stem
)
def test_what_tool_call_ids_link_the_prefix_links_as_well(redis: Any, path: Path) -> None:
    """Only smolagents writes tool calls so that nothing but the id is left of them."""
    transitions, expected = recorded(path)
    text = [transition.to_json().replace(b"chatcmpl-tool-", b"t-") for transition in transitions]
    stored = add_all(redis, [Transition.from_json(raw) for raw in text])
    for number, expect in enumerate(expected):
        assert stored[f"tr_{number}"].trajectory_id == f"traj_{expect['with']}"
        assert stored[f"tr_{number}"].session_source != "tool_call_id"


def test_a_sub_agents_answer_is_known_as_the_tool_message(redis: Any) -> None:
    transitions, _ = recorded(CASES / "openai-agents-agent-as-tool.json")
    stored = add_all(redis, transitions[1:])
    assert stored["tr_2"].session_source == "text"
    assert stored["tr_2"].trajectory_id == "traj_1"


def test_another_tenant_or_key_sees_nothing_of_it(redis: Any) -> None:
    for path in FILES:
        redis.flushall()
        first, *rest = recorded(path)[0]
        strangers: list[dict[str, Any]] = [{"tenant": "other"}, {"key": "key_b"}, {"key": None}]
        others = [
            later.model_copy(update={**change, "id": f"{later.id}_{number}"})
            for later in rest[:1]
            for number, change in enumerate(strangers)
        ]
        stored = add_all(redis, [first, *others])
        assert {found.session_source for found in stored.values()} == {"new"}


def test_a_team_of_agents_is_one_trajectory_with_each_turn_told_apart(redis: Any) -> None:
    transitions, _ = recorded(CASES / "autogen-round-robin-team.json")
    add_all(redis, transitions)
    team = Store(redis).trajectory(TrajectoryRef("default", "traj_0"))
    assert team is not None
    assert [turn.agent for turn in team.transitions] == ["planner", "worker", "reviewer"] * 2
