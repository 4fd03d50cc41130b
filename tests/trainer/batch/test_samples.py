"""Trajectories become samples from logged ids only, and every exclusion has a reason."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.batch.samples import Exclusion, samples_of
from trajectories.model import Choice, Outcome, Sampling


def reason_for(selection: dict[str, Any] | None = None, **changes: Any) -> Exclusion:
    trajectory = a_trajectory(transitions=(a_transition("t1", **changes),))
    samples, excluded = samples_of(trajectory, a_selection(**(selection or {})))
    assert samples == []
    return next(iter(excluded))


def test_a_sample_carries_the_logged_ids_and_logprobs() -> None:
    [sample], excluded = samples_of(a_trajectory(), a_selection())
    assert not excluded
    assert sample.prompt_token_ids == (1, 2, 3)
    assert sample.token_ids == (4, 5)
    assert sample.logprobs == (-0.5, -0.25)
    assert sample.reward == 1.0
    assert sample.trajectory == "default/t1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": None}, Exclusion.FOREIGN_MODEL),
        ({"policy": "other"}, Exclusion.FOREIGN_MODEL),
        ({"policy_version": None}, Exclusion.MIXED),
        ({"is_trainable": False}, Exclusion.OPTED_OUT),
        ({"outcome": Outcome.INCOMPLETE}, Exclusion.INCOMPLETE),
        ({"outcome": Outcome.DISCONNECTED}, Exclusion.DISCONNECTED),
        ({"outcome": Outcome.FAILED}, Exclusion.FAILED),
        ({"prompt_token_ids": ()}, Exclusion.NOT_ALIGNED),
        ({"choices": ()}, Exclusion.NOT_ALIGNED),
        ({"choices": (Choice(token_ids=(1, 2), logprobs=(-1.0,)),)}, Exclusion.NOT_ALIGNED),
        (
            {"choices": (Choice(token_ids=(1,), logprobs=(-1.0,), finish_reason="abort"),)},
            Exclusion.INCOMPLETE,
        ),
        ({"prompt_token_ids": tuple(range(99))}, Exclusion.TOO_LONG),
        ({"sampling": Sampling(temperature=0.0)}, Exclusion.NO_RATIO),
        ({"sampling": Sampling(is_constrained=True)}, Exclusion.NO_RATIO),
        ({"sampling": Sampling(top_p=0.1)}, Exclusion.NO_RATIO),
        ({"sampling": Sampling(top_k=1)}, Exclusion.NO_RATIO),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_with_its_reason(
    changes: dict[str, Any], reason: Exclusion
) -> None:
    assert reason_for(**changes) is reason


def test_what_too_old_a_version_said_is_stale() -> None:
    assert reason_for({"current": 5, "max_staleness": 4}) is Exclusion.STALE


def test_a_missing_reward_is_missing_and_never_zero() -> None:
    samples, excluded = samples_of(a_trajectory(reward=None), a_selection())
    assert samples == []
    assert excluded == {Exclusion.NO_REWARD: 1}


def test_sft_takes_greedy_and_old_answers_but_only_successes() -> None:
    sft = a_selection(needs_ratio=False, max_staleness=None, current=50, above=0.0)
    greedy = (a_transition("t1", sampling=Sampling(temperature=0.0)),)
    [sample], _ = samples_of(a_trajectory(transitions=greedy), sft)
    assert not sample.has_ratio
    assert samples_of(a_trajectory(reward=0.0), sft) == ([], {Exclusion.NOT_POSITIVE: 1})


def test_every_transition_is_a_sample_with_the_same_reward() -> None:
    transitions = (a_transition("t1"), a_transition("t1", number=1))
    samples, _ = samples_of(a_trajectory(reward=0.5, transitions=transitions), a_selection())
    assert [sample.id for sample in samples] == ["t1-0/0", "t1-1/0"]
    assert {sample.reward for sample in samples} == {0.5}


@given(
    st.lists(st.integers(0, 9), max_size=8),
    st.lists(st.floats(-50, 0), max_size=8),
)
def test_only_aligned_answers_ever_become_samples(ids: list[int], logprobs: list[float]) -> None:
    choice = Choice(token_ids=tuple(ids), logprobs=tuple(logprobs))
    trajectory = a_trajectory(transitions=(a_transition("t1", choices=(choice,)),))
    samples, excluded = samples_of(trajectory, a_selection())
    assert len(samples) + excluded.total() == 1
    for sample in samples:
        assert len(sample.token_ids) == len(sample.logprobs) > 0
