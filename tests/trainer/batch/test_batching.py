"""Batching: whose calls a round learns from, with which reward, and what it says it lacks."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.batch.batching import Demand, Lack, caps_for, demand, require, selection_for, sort_out
from trainer.batch.caps import Caps
from trainer.batch.samples import Exclusion, Sample
from trajectories.model import Reward, Trajectory
from trajectories.settings import Settings
from trajectories.store import TrajectoryRef


def reward(name: str, value: float, *, of: str | None = None, source: str = "feedback:human:ann",
           trajectory: str = "t1") -> Reward:  # fmt: skip
    return Reward(
        id=name,
        trajectory_id=trajectory,
        transition_id=of,
        name="reward",
        source=source,
        value=value,
        feedback=f"fb-{name}",
    )


def team(*rewards: Reward, value: float | None = 1.0, **changes: Any) -> Trajectory:
    """A planner's call and a writer's, in one session."""
    made = (
        a_transition("t1", number=0, agent="planner"),
        a_transition("t1", number=1, agent="writer", **changes),
    )
    return a_trajectory("t1", value, agent="writer", transitions=made, rewards=rewards)


def samples_by_agent(trajectory: Trajectory, **selection: Any) -> dict[str | None, Sample]:
    pairs = [(TrajectoryRef("default", trajectory.id), trajectory)]
    batch = sort_out(pairs, a_selection(**selection))
    return {sample.agent: sample for sample in batch.samples}


def test_a_joint_reward_reaches_every_agent() -> None:
    found = samples_by_agent(team(reward("r", 1.0)))
    assert {name: sample.reward for name, sample in found.items()} == {"planner": 1, "writer": 1}


def test_an_agent_that_is_switched_off_leaves_the_joint_reward_to_the_others() -> None:
    pairs = [(TrajectoryRef("default", "t1"), team(reward("r", 1.0)))]
    selection = a_selection(agents_off=frozenset({"planner"}))
    batch = sort_out(pairs, selection)
    assert [(sample.agent, sample.reward) for sample in batch.samples] == [("writer", 1.0)]
    both_off = a_selection(agents_off=frozenset({"planner", "writer"}))
    assert sort_out(pairs, both_off).excluded == {Exclusion.AGENT_OFF: 1}


def test_a_vote_on_one_agents_call_is_not_the_others() -> None:
    found = samples_by_agent(team(reward("r", -1.0, of="t1-0"), value=-1.0))
    assert found["planner"].reward == -1.0
    assert "writer" not in found, "nobody spoke of it: missing, never 0"


def test_a_fault_of_one_agent_does_not_lower_the_joint_reward_of_the_other() -> None:
    fault = reward("a", -0.3, of="t1-0", source="air:truncated")
    found = samples_by_agent(team(reward("r", 1.0), fault, value=0.7))
    assert found["planner"].reward == pytest.approx(0.7)
    assert found["writer"].reward == 1.0
    assert found["planner"].air == ((0, -0.3),)
    assert found["writer"].air == ()


def test_each_trainer_takes_the_calls_of_its_own_policy() -> None:
    trajectory = team(reward("r", 1.0), policy="other")
    assert trajectory.policies == ("other", "policy")
    assert list(samples_by_agent(trajectory)) == ["planner"]
    assert list(samples_by_agent(trajectory, policy="other")) == ["writer"]


def test_a_round_of_one_agent_leaves_the_others_trajectories_alone() -> None:
    pairs = [
        (TrajectoryRef("default", "t1"), team(reward("r", 1.0))),
        (TrajectoryRef("default", "t2"), a_trajectory("t2", agent="clerk")),
    ]
    batch = sort_out(pairs, a_selection(agent="writer"))
    assert batch.refs == ("default/t1",)
    assert batch.left_over == ("default/t2",)
    assert not batch.set_aside


def test_a_sample_knows_its_place_its_votes_and_who_gave_them() -> None:
    trajectory = team(
        reward("r", 0.5),
        reward("s", 1.0, of="t1-1", source="feedback:human:bob"),
        value=0.5,
    )
    found = samples_by_agent(trajectory)
    planner, writer = found["planner"], found["writer"]
    assert (planner.step, planner.calls_to_go) == (0, 1)
    assert (writer.step, writer.calls_to_go) == (1, 0)
    assert (planner.outcome, planner.votes) == (0.5, ())
    assert (writer.outcome, writer.votes) == (0.5, ((0, 1.0),))
    assert (writer.feedback, writer.principals) == (("fb-r", "fb-s"), ("ann", "bob"))
    assert orjson.loads(writer.to_json())["feedback"] == ["fb-r", "fb-s"]


def labelled(count: int, people: int) -> list[tuple[TrajectoryRef, Trajectory]]:
    return [
        (
            TrajectoryRef("default", f"t{n}"),
            a_trajectory(
                f"t{n}",
                1.0 if n % 2 else -1.0,
                rewards=(
                    reward(f"r{n}", 1.0 if n % 2 else -1.0, source=f"feedback:human:u{n % people}"),
                ),
            ),
        )
        for n in range(count)
    ]


def test_a_round_says_which_labels_and_which_people_it_lacks() -> None:
    batch = sort_out(labelled(10, 3), a_selection(), Caps(share=1.0))
    with pytest.raises(Lack) as lack:
        require(batch, Demand(8, 4, labels=12, principals=5), a_selection())
    assert str(lack.value) == (
        "too little to learn from: 10 of 12 labels (trainer.min_labels);"
        " 3 of 5 people who labelled (trainer.min_principals)"
    )
    require(batch, Demand(8, 4, labels=10, principals=3), a_selection())


def test_what_a_round_needs_follows_its_size_and_who_there_is(tmp_path: Path) -> None:
    usual = Settings(data_dir=tmp_path)
    assert demand(usual, principals=1) == Demand(64, 8, labels=64, principals=0)
    assert demand(usual, principals=7) == Demand(64, 8, labels=64, principals=4)
    assert demand(usual, principals=500) == Demand(64, 8, labels=64, principals=16)
    assert demand(usual, by_interval=True, principals=500) == Demand(1, 8, labels=16)
    small = usual.model_copy(
        update={"trainer": usual.trainer.model_copy(update={"min_trajectories": 4})}
    )
    assert demand(small) == Demand(4, 8, labels=4)
    assert demand(small, force=True, principals=500) == Demand(1, 0)


def test_the_rules_of_a_round_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "agents": {"planner": {"train": False}, "writer": {"air_weight": 0.5}},
            "rewards": {"ignored_sources": ["spammer"], "uncapped_sources": ["tests"]},
            "judges": {"fair": {"model": "m"}},
        }
    )
    selection = selection_for(settings, "grpo", 3)
    assert selection.agents_off == {"planner"}
    assert selection.composition_of("writer").air_weight == 0.5
    assert selection.composition_of(None).air_weight == 1.0
    caps = caps_for(settings)
    assert (caps.share, caps.least) == (0.02, 2)
    assert (caps.ignored, caps.uncapped) == ({"spammer"}, {"tests", "fair"})
