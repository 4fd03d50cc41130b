"""Votes and signals to one number: priorities, and missing is missing."""

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.records import transition, vote
from trajectories.model import Reward, Trajectory
from workers.rewards.compose import Outcome, compose
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
    return compose(rewards, air_weight=1.0).final


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
    assert compose([], air_weight=1.0) == Outcome(None, False)


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
    assert compose(both, air_weight=1.0) == Outcome(-0.6, False)
    assert compose(both, air_weight=0.5) == Outcome(-0.3, False)


def test_air_switched_off_says_nothing() -> None:
    assert compose([signal(-0.3)], air_weight=0.0) == Outcome(None, False)


def test_air_shapes_the_outcome_and_the_sum_is_clamped() -> None:
    voted = feedback_rewards(TRAJECTORY, [vote(1.0, response=ONE)])
    assert compose([*voted, signal(-0.25)], air_weight=1.0) == Outcome(0.75, True)
    many = [signal(-1.0, name=f"n{n}") for n in range(9)]
    assert compose([*voted, *many], air_weight=1.0) == Outcome(-1.0, True)


def test_the_source_keeps_the_name_of_who_voted() -> None:
    assert source_name(vote(1.0, response=ONE).source) == "feedback:human"
    named = vote(1.0, response=ONE, source="code", source_id="ci:unit").source
    assert source_name(named) == "feedback:code:ci:unit"


def test_a_replaced_vote_is_another_reward_and_a_replay_is_not() -> None:
    first, second = vote(1.0, response=ONE, at=1), vote(1.0, response=ONE, at=2)
    ids = [feedback_rewards(TRAJECTORY, [entry])[0].id for entry in (first, first, second)]
    assert ids[0] == ids[1] != ids[2]


values = st.floats(-1, 1)
votes = st.builds(
    vote,
    st.none() | values,
    response=st.sampled_from([ONE, TWO]),
    name=st.sampled_from(["reward", "tone"]),
    source=st.sampled_from(["human", "code", "judge"]),
    source_id=st.sampled_from(["default", "a"]),
)
signals = st.builds(signal, st.floats(-1, 0))


@given(st.lists(votes), st.lists(signals), st.floats(0, 1), st.randoms())
def test_the_final_reward_is_in_range_and_does_not_depend_on_order(
    said: list[object], found: list[Reward], weight: float, random: object
) -> None:
    rewards = [*feedback_rewards(TRAJECTORY, said), *found]  # type: ignore[arg-type]
    outcome = compose(rewards, air_weight=weight)
    assert outcome.final is None or -1.0 <= outcome.final <= 1.0
    assert not outcome.is_labelled or outcome.final is not None
    random.shuffle(rewards)  # type: ignore[attr-defined]
    assert compose(rewards, air_weight=weight) == outcome
