"""Under a grammar: whose answers are rows, and which of their tokens were free."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.algorithms.plugins import asks_of
from trainer.algorithms.sequence import taken
from trainer.batch.grammars import FREE, free_tokens
from trainer.batch.samples import Exclusion, Sample, samples_of
from trajectories.model import Sampling
from trajectories.settings import TrainerSettings

STRICT = Sampling(temperature=0.7, is_constrained=True)


def said(sampling: Sampling = STRICT, version: int = 0, **rules: object) -> list[Sample]:
    transition = a_transition("t1", sampling=sampling, policy_version=version)
    found, _ = samples_of(a_trajectory(transitions=(transition,)), a_selection(**rules))
    return found


@given(st.lists(st.floats(-20, 0), min_size=1), st.floats(0, 5))
def test_a_token_is_free_where_the_grammar_took_next_to_nothing(
    alone: list[float], taken_away: float
) -> None:
    recorded = [value + taken_away for value in alone]
    # Not held to the very edge, where two roundings decide.
    if abs(taken_away - FREE) > 1e-9:
        assert free_tokens(recorded, alone) == (taken_away < FREE,) * len(alone)


def test_whether_a_token_is_free_does_not_depend_on_which_one_was_sampled() -> None:
    logits = (0.3, -1.0, 2.0, 0.1)
    total = math.log(sum(map(math.exp, logits)))
    for fits in ((0, 2), (0, 1, 2, 3)):
        kept = math.log(sum(math.exp(logits[token]) for token in fits))
        found = {free_tokens((logits[token] - kept,), (logits[token] - total,)) for token in fits}
        assert found == {(len(fits) == len(logits),)}


def test_the_version_that_serves_teaches_by_what_it_said_under_a_grammar() -> None:
    (sample,) = said(takes_constrained=True)
    assert sample.is_constrained
    assert not sample.has_ratio
    assert said(takes_constrained=True, current=1) == [], "who said it cannot be asked any more"
    assert said() == [], "an algorithm has to ask for it"


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"top_k": 1}, {"presence_penalty": 1.0}])
def test_a_grammar_excuses_nothing_else(changes: dict[str, float]) -> None:
    sampling = STRICT.model_copy(update=changes)
    assert said(sampling, takes_constrained=True) == []
    (sample,) = said(sampling, needs_ratio=False, takes_constrained=True)
    assert not sample.is_constrained


def test_only_the_first_leg_starts_as_who_said_it() -> None:
    settings = TrainerSettings()
    found = said(needs_ratio=False)
    grpo = asks_of("grpo", settings)
    assert len(taken(found, grpo, 0)) == 1
    assert len(taken(found, grpo, 1)) == 0
    assert len(taken(found, grpo, 0, is_first=False)) == 0
    assert len(taken(found, asks_of("sft", settings), 0, is_first=False)) == 1
    assert asks_of("grpo+dpo", settings).takes_constrained
    assert not asks_of("sft+grpo", settings).takes_constrained


def test_in_four_bits_nobody_can_say_what_was_free() -> None:
    assert not asks_of("grpo", TrainerSettings(quantization="4bit")).takes_constrained


def test_left_out_calls_are_counted() -> None:
    transition = a_transition("t1", sampling=STRICT)
    _, excluded = samples_of(a_trajectory(transitions=(transition,)), a_selection())
    assert excluded == {Exclusion.NO_RATIO: 1}
