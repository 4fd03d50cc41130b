"""Votes and signals to one number: priorities, and missing is missing."""

from math import fsum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.records import transition, vote
from trajectories.composition import Composition, Outcome, compose
from trajectories.model import Choice, Feedback, Reward, Trajectory
from trajectories.settings import AgentSettings, RewardSettings
from workers.rewards.feedback import feedback_rewards, source_name

TRAJECTORY = Trajectory(
    id="traj_a",
    started_at=0,
    updated_at=0,
    transitions=(transition(0, content="a"), transition(1, content="b")),
)
ONE, TWO = "chatcmpl-traj_a-0", "chatcmpl-traj_a-1"


def final(*votes: object) -> float | None:
    rewards = feedback_rewards(TRAJECTORY, votes)  # type: ignore[arg-type]
    return compose(rewards).final


def whole(made: Feedback) -> Feedback:
    return made.model_copy(update={"trajectory_id": "traj_a", "response_id": None})


def worth(rewards: list[Reward], composition: Composition | None = None) -> tuple[Any, bool]:
    outcome = compose(rewards, composition or Composition())
    return outcome.final, outcome.is_labelled


def signal(value: float, transition_id: str = "tr_traj_a_0", name: str = "truncated") -> Reward:
    return Reward(
        id=f"{transition_id}{name}{value}",
        trajectory_id="traj_a",
        transition_id=transition_id,
        name=name,
        source=f"air:{name}",
        value=value,
    )


def test_nothing_said_and_nothing_fired_is_none() -> None:
    assert compose([]) == Outcome(None, False)


def test_a_vote_without_a_value_is_no_reward() -> None:
    assert final(vote(None, response=ONE)) is None


def test_a_zero_is_a_reward() -> None:
    assert final(vote(0.0, response=ONE)) == 0.0


def test_a_vote_on_a_response_is_intermediate_and_one_on_the_session_final() -> None:
    rewards = feedback_rewards(
        TRAJECTORY, [vote(1.0, response=TWO), vote(0.5, trajectory="traj_a")]
    )
    assert {reward.transition_id for reward in rewards} == {"tr_traj_a_1", None}


def test_votes_on_responses_are_averaged() -> None:
    assert final(vote(1.0, response=ONE), vote(-0.5, response=TWO)) == 0.25


def test_a_session_vote_decides_over_votes_on_responses() -> None:
    assert final(vote(1.0, response=ONE), vote(-0.5, trajectory="traj_a")) == -0.5


def test_a_human_decides_over_code_and_code_over_a_judge() -> None:
    judge = vote(-1.0, trajectory="traj_a", source="judge")
    code = vote(0.5, trajectory="traj_a", source="code")
    human = vote(1.0, trajectory="traj_a", source="human")
    assert final(judge) == -1.0
    assert final(judge, code) == 0.5
    assert final(judge, code, human) == 1.0


def test_priority_holds_per_target() -> None:
    assert final(vote(1.0, response=ONE), vote(-1.0, response=TWO, source="judge")) == 0.0


def test_many_voters_on_one_name_weigh_as_much_as_one_on_another() -> None:
    votes = [vote(1.0, response=ONE, source_id=f"r{n}") for n in range(9)]
    assert final(*votes, vote(-1.0, response=ONE, name="tone")) == 0.0


def test_a_vote_on_a_response_that_expired_is_left_out() -> None:
    assert final(vote(1.0, response="chatcmpl-gone")) is None


def test_air_alone_lowers_and_is_no_label() -> None:
    both = [signal(-0.3), signal(-0.3, name="unknown_tool")]
    assert worth(both) == (-0.6, False)
    assert worth(both, Composition(air_weight=0.5)) == (-0.3, False)


def test_air_switched_off_says_nothing() -> None:
    assert worth([signal(-0.3)], Composition(air_weight=0.0)) == (None, False)


def test_air_shapes_the_outcome_and_the_sum_is_clamped() -> None:
    voted = feedback_rewards(TRAJECTORY, [vote(1.0, response=ONE)])
    assert worth([*voted, signal(-0.25)]) == (0.75, True)
    many = [signal(-1.0, name=f"n{n}") for n in range(9)]
    assert worth([*voted, *many]) == (-1.0, True)


def test_the_source_keeps_the_name_of_who_voted() -> None:
    assert source_name(vote(1.0, response=ONE).source) == "feedback:human"
    named = vote(1.0, response=ONE, source="code", source_id="ci:unit").source
    assert source_name(named) == "feedback:code:ci:unit"


def test_a_replaced_vote_is_another_reward_and_a_replay_is_not() -> None:
    first, second = vote(1.0, response=ONE, at=1), vote(1.0, response=ONE, at=2)
    ids = [feedback_rewards(TRAJECTORY, [entry])[0].id for entry in (first, first, second)]
    assert ids[0] == ids[1] != ids[2]


def test_a_judge_of_the_whole_does_not_outvote_a_person_who_spoke_of_one_answer() -> None:
    judge = vote(-1.0, trajectory="traj_a", source="judge")
    assert final(judge, vote(1.0, response=ONE)) == 1.0
    assert final(judge, vote(1.0, response=ONE, source="judge")) == -1.0


def breakdown(composition: Composition, *votes: Any) -> Any:
    rewards = feedback_rewards(TRAJECTORY, votes)
    outcome = compose(rewards, composition)
    names = {reward.id: reward.name for reward in rewards}
    assert outcome.breakdown is not None
    return (
        outcome.final,
        {names[name]: share for name, share in outcome.breakdown.shares.items()},
        {names[name]: why for name, why in outcome.breakdown.left_out.items()},
    )


def test_names_count_by_their_weights_and_one_that_weighs_nothing_decides_nothing() -> None:
    said = [
        vote(1.0, response=ONE, name="a"),
        vote(-1.0, response=ONE, name="b"),
        vote(-1.0, response=ONE, name="c"),
        vote(0.5, response=ONE, name="d", source="judge"),
    ]
    weighted = Composition(weights={"a": 3.0, "c": 0.0})
    assert breakdown(weighted, *said) == (
        0.5,
        {"a": 0.75, "b": 0.25},
        {"c": "weight", "d": "priority"},
    )
    only_judges = Composition(weights={"a": 0.0, "b": 0.0, "c": 0.0})
    assert breakdown(only_judges, *said)[0] == 0.5


def test_the_order_of_sources_is_a_setting() -> None:
    said = [
        vote(1.0, response=ONE, name="a"),
        vote(0.0, response=ONE, name="b", source="code"),
        vote(-1.0, trajectory="traj_a", name="c", source="judge"),
    ]
    assert breakdown(Composition(), *said) == (
        1.0, {"a": 1.0}, {"b": "priority", "c": "target"},
    )  # fmt: skip
    assert breakdown(Composition(priority=("code", "human")), *said) == (
        0.0, {"b": 1.0}, {"a": "priority", "c": "source"},
    )  # fmt: skip
    assert breakdown(Composition(priority=None), *said[:2]) == (0.5, {"a": 0.5, "b": 0.5}, {})
    assert breakdown(Composition(priority=None), *said) == (
        -1.0, {"c": 1.0}, {"a": "target", "b": "target"},
    )  # fmt: skip


def test_an_agent_has_weights_and_limits_of_its_own() -> None:
    settings = RewardSettings(weights={"tone": 0.5, "reward": 2.0}, clamp=(-0.5, 1.0))
    agent = AgentSettings(weights={"tone": 0.0}, air_weight=0.25, priority="mean")
    assert Composition.from_settings(settings, agent) == Composition(
        {"tone": 0.0, "reward": 2.0}, None, 0.25, (-0.5, 1.0)
    )
    assert Composition.from_settings(settings).air_weight == 1.0
    voted = feedback_rewards(TRAJECTORY, [vote(-1.0, response=ONE)])
    assert worth(voted, Composition.from_settings(settings)) == (-0.5, True)


@pytest.mark.parametrize("clamp", [(1.0, -1.0), (-2.0, 1.0), (0.0, 0.0)])
def test_limits_that_cannot_be_meant_are_refused(clamp: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="the lower one first"):
        RewardSettings(clamp=clamp)


values = st.floats(-1, 1)
votes = st.builds(
    vote,
    st.none() | values,
    response=st.sampled_from([ONE, TWO]),
    name=st.sampled_from(["reward", "tone", "other"]),
    source=st.sampled_from(["human", "code", "judge"]),
    source_id=st.sampled_from(["default", "a"]),
).flatmap(lambda made: st.sampled_from([made, whole(made)]))
signals = st.builds(signal, st.floats(-1, 0))
kinds = st.permutations(["human", "code", "judge"]).flatmap(
    lambda order: st.integers(1, 3).map(lambda n: tuple(order[:n]))
)
compositions = st.builds(
    Composition,
    weights=st.dictionaries(st.sampled_from(["reward", "tone"]), st.floats(0, 4)),
    priority=st.none() | kinds,
    air_weight=st.floats(0, 1),
    clamp=st.sampled_from([(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0)]),
)


@given(st.lists(votes), st.lists(signals), compositions, st.randoms())
def test_the_final_reward_is_in_range_and_does_not_depend_on_order(
    said: list[object], found: list[Reward], composition: Composition, random: object
) -> None:
    rewards = [*feedback_rewards(TRAJECTORY, said), *found]  # type: ignore[arg-type]
    rewards = list({reward.id: reward for reward in rewards}.values())
    outcome = compose(rewards, composition)
    low, high = composition.clamp
    assert outcome.final is None or low <= outcome.final <= high
    assert not outcome.is_labelled or outcome.final is not None
    assert (outcome.breakdown is None) == (outcome.final is None)
    if outcome.breakdown is not None and outcome.is_labelled:
        shares, left_out = outcome.breakdown.shares, outcome.breakdown.left_out
        assert fsum(shares.values()) == pytest.approx(1.0)
        voted = {reward.id for reward in rewards if reward.source.startswith("feedback:")}
        assert shares.keys() | left_out.keys() == voted
        assert not shares.keys() & left_out.keys()
    random.shuffle(rewards)  # type: ignore[attr-defined]
    again = compose(rewards, composition)
    assert repr(again) == repr(outcome), "to the last bit"


def of_two(number: int) -> Any:
    made = transition(number)
    answers = [{"role": "assistant", "content": text} for text in ("a", "b")]
    choices = tuple(Choice(index=n, message=answer) for n, answer in enumerate(answers))
    return made.model_copy(update={"choices": choices})


def rewards_of(trajectory: Trajectory, *votes: tuple[int, float]) -> list[Reward]:
    made = [
        vote(value, response=ONE).model_copy(update={"choice": choice, "id": f"f{choice}"})
        for choice, value in votes
    ]
    return feedback_rewards(trajectory, made)


def test_votes_on_choices_stand_side_by_side_and_are_the_outcome_where_they_are_all() -> None:
    session = TRAJECTORY.model_copy(update={"transitions": (of_two(0),)})
    rewards = rewards_of(session, (0, 1.0), (1, -0.5), (7, 1.0))
    assert sorted((r.choice, r.value) for r in rewards) == [(0, 1.0), (1, -0.5)]
    assert compose(rewards).final == 0.25
    whole_one = rewards[0].model_copy(update={"id": "w", "choice": None, "value": -1.0})
    outcome = compose([*rewards, whole_one])
    assert outcome.final == -1.0
    assert outcome.breakdown is not None
    assert set(outcome.breakdown.left_out.values()) == {"target"}


def test_a_vote_on_the_choice_that_was_taken_is_one_on_the_call() -> None:
    said = {"role": "assistant", "content": "b"}
    asked = {"role": "user", "content": "weather in Seoul?"}
    after = transition(1, content="c", messages=[asked, said, asked])
    session = TRAJECTORY.model_copy(update={"transitions": (of_two(0), after)})
    rewards = rewards_of(session, (0, 1.0), (1, -0.5))
    assert sorted((r.value, r.choice) for r in rewards) == [(-0.5, None), (1.0, 0)]
    assert compose(rewards).final == -0.5
    (only,) = rewards_of(TRAJECTORY, (0, 1.0))
    assert only.choice is None, "a single answer needs no number"
