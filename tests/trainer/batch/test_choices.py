"""Several choices of one call: the one that was taken, those judged by themselves, no others."""

from typing import Any

import pytest

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.advantages.advantage import advantages_of
from trainer.batch.batching import sort_out
from trainer.batch.caps import Caps
from trainer.batch.samples import Exclusion, Sample, samples_of
from trajectories.composition import compose
from trajectories.model import Choice, Reward, Trajectory
from trajectories.settings import TrainerSettings
from trajectories.store import TrajectoryRef


def choices(count: int) -> tuple[Choice, ...]:
    return tuple(
        Choice(index=n, token_ids=(10 + n, 1), logprobs=(-1.0, -1.0)) for n in range(count)
    )


def vote(
    value: float, choice: int | None = None, of: str | None = "t1-0", who: str = "ann"
) -> Reward:
    return Reward(
        id=f"{of}/{choice}/{who}",
        trajectory_id="t1",
        transition_id=of,
        choice=choice,
        name="reward",
        source=f"feedback:human:{who}",
        value=value,
    )


def a_session(*rewards: Reward, goes_on: int | None = None, name: str = "t1") -> Trajectory:
    """A call with three choices, and one after it that goes on from the one that is named."""
    calls = [a_transition(name, choices=choices(3))]
    if goes_on is not None:
        prompt = (1, 2, 3, 10 + goes_on, 1, 7)
        calls.append(a_transition(name, number=1, prompt_token_ids=prompt))
    final = compose(rewards).final
    return a_trajectory(name, final, transitions=tuple(calls), rewards=rewards)


def found(trajectory: Trajectory, **rules: Any) -> list[Sample]:
    return samples_of(trajectory, a_selection(**rules))[0]


def test_the_choice_that_was_taken_has_the_reward_of_the_whole() -> None:
    samples, excluded = samples_of(a_session(vote(1.0, of=None), goes_on=1), a_selection())
    assert [(s.id, s.reward, s.choice) for s in samples] == [
        ("t1-0/1", 1.0, None),
        ("t1-1/0", 1.0, None),
    ]
    assert excluded == {Exclusion.UNPICKED: 2}


def test_where_nobody_knows_which_was_taken_none_has_it() -> None:
    samples, excluded = samples_of(a_session(vote(1.0, of=None)), a_selection())
    assert samples == []
    assert excluded == {Exclusion.UNPICKED: 3}


def test_a_choice_that_was_judged_by_itself_goes_by_that_alone() -> None:
    session = a_session(vote(-1.0, of=None), vote(1.0, 2), goes_on=0)
    first, judged, after = found(session)
    assert (first.id, first.reward) == ("t1-0/0", -1.0)
    assert (after.id, after.reward) == ("t1-1/0", -1.0)
    assert (judged.id, judged.reward, judged.outcome, judged.votes) == ("t1-0/2", 1.0, 1.0, ())
    assert (judged.choice, judged.calls_to_go) == (2, 0)
    assert judged.part not in (first.part, after.part)


def test_judged_choices_say_nothing_of_the_one_that_was_taken() -> None:
    samples, excluded = samples_of(a_session(vote(-1.0, 2), goes_on=0), a_selection())
    assert [sample.id for sample in samples] == ["t1-0/2"]
    assert excluded == {Exclusion.NO_REWARD: 2, Exclusion.UNPICKED: 1}


def test_judged_choices_of_one_call_are_a_true_group() -> None:
    samples = found(a_session(vote(1.0, 0), vote(0.0, 1), vote(-1.0, 2)))
    assert len({sample.part for sample in samples}) == 3
    settings = TrainerSettings(baseline="group", negative_weight=1.0)
    assert advantages_of(samples, settings) == pytest.approx([1.5, 0.0, -1.5])


def test_air_in_a_choice_shapes_what_was_said_of_it() -> None:
    fault = vote(-0.25, 0).model_copy(update={"id": "air", "source": "air:truncated"})
    session = a_session(vote(1.0, 0), vote(1.0, 1), fault)
    assert [sample.reward for sample in found(session)] == [0.75, 1.0]
    assert session.reward == 1.0, "a choice's fault is not the session's"


def test_a_fault_alone_makes_no_choice_a_part_of_its_own() -> None:
    fault = vote(-0.25, 0).model_copy(update={"id": "air", "source": "air:truncated"})
    samples, excluded = samples_of(a_session(vote(1.0, of=None), fault), a_selection())
    assert samples == []
    assert excluded == {Exclusion.UNPICKED: 3}
    # Nor where the round does without the vote on it.
    own = vote(1.0, 0)
    samples, excluded = samples_of(a_session(own, fault), a_selection(), frozenset({own.id}))
    assert samples == []
    assert excluded == {Exclusion.UNPICKED: 2, Exclusion.NO_REWARD: 1}


def test_sft_takes_the_good_ones_alone() -> None:
    session = a_session(vote(1.0, 0), vote(-1.0, 1))
    assert [s.id for s in found(session, needs_ratio=False, above=0.0)] == ["t1-0/0"]


def test_a_round_leaves_capped_votes_on_choices_out_and_counts_rows_by_part() -> None:
    loud = [
        (
            TrajectoryRef("default", f"t{n}"),
            a_trajectory(
                f"t{n}",
                0.0,
                transitions=(a_transition(f"t{n}", choices=choices(2)),),
                rewards=(
                    vote(1.0, 0, f"t{n}-0", "loud").model_copy(update={"id": f"l{n}"}),
                    vote(-1.0, 1, f"t{n}-0", f"p{n % 9}").model_copy(update={"id": f"q{n}"}),
                ),
            ),
        )
        for n in range(18)
    ]
    batch = sort_out(loud, a_selection(), Caps(share=0.02, least=2))
    assert batch.capped["loud"] > 10
    assert batch.counts(0.0) == (18 - batch.capped["loud"], 18)
    assert {sample.reward for sample in batch.samples} == {1.0, -1.0}
