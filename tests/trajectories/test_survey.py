"""The survey: a share of ids, the same for all who know the seed, chosen by nobody."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_transition
from trajectories.errors import SettingsError
from trajectories.settings import RewardSettings
from trajectories.survey import Survey, is_surveyed, open_survey, propensity_of

SEED = b"secret"


def call(number: int = 0, **fields: Any) -> Any:
    return a_transition("t", number=number, **{"task": None, **fields})


def test_the_share_of_ids_that_is_set_is_asked_and_always_the_same_ones() -> None:
    survey = Survey(0.1, SEED)
    names = [f"traj_{n}" for n in range(20_000)]
    asked = {name for name in names if survey.asks(name)}
    assert 0.09 < len(asked) / 20_000 < 0.11
    assert asked == {name for name in names if Survey(0.1, SEED).asks(name)}
    other = {name for name in names if Survey(0.1, b"other").asks(name)}
    assert len(asked & other) < 0.02 * 20_000, "another seed asks others"


@given(st.text(max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_who_is_asked_at_a_small_share_is_asked_at_a_larger_one(
    name: str, one: float, two: float
) -> None:
    small, large = sorted((one, two))
    assert Survey(large, SEED).asks(name) or not Survey(small, SEED).asks(name)
    assert not Survey(0.0, SEED).asks(name)
    assert Survey(1.0, SEED).asks(name)


def test_a_share_without_a_secret_is_refused_in_words() -> None:
    assert open_survey(RewardSettings()) is None
    assert open_survey(RewardSettings(ask_share=0.5, ask_seed="s")) == Survey(0.5, b"s")
    for seed in ("", "x" * 65):
        with pytest.raises(SettingsError, match=r"rewards\.ask_seed: set a secret"):
            open_survey(RewardSettings(ask_share=0.5, ask_seed=seed))


def test_calls_of_a_named_session_share_one_draw() -> None:
    calls = [call(n, session_id="s", session_source="url", ask=0.1) for n in range(5)]
    assert propensity_of(calls) == pytest.approx(0.1)


def test_calls_that_were_linked_afterwards_were_drawn_for_one_by_one() -> None:
    calls = [
        call(0, ask=0.5),
        call(1, session_source="prefix", ask=0.5),
        call(2, session_source="body", ask=0.5),  # goes on from a response by its id
    ]
    assert propensity_of(calls) == pytest.approx(0.75)


def test_where_nobody_ever_was_asked_the_propensity_is_unknown() -> None:
    assert propensity_of([call(), call(1)]) is None
    named = {"session_id": "s", "session_source": "url"}
    mixed = [call(0, **named), call(1, **named, ask=0.2, is_asked=True)]
    assert propensity_of(mixed) == pytest.approx(0.2)
    assert is_surveyed(mixed)
    assert not is_surveyed(mixed[:1])
