"""The estimate of all traffic from the few who were heard: unbiased though who speaks is not."""

import random
from math import inf

import pytest

from trainer.advantages.aipw import Estimate, Heard, aipw, corrected


def test_by_hand() -> None:
    entries = [Heard(0.5, None, 0.1), Heard(0.5, 1.0, 0.25), Heard(0.5, None, 0.25)]
    assert [corrected(entry) for entry in entries] == [0.5, 2.5, 0.5]
    found = aipw(entries)
    assert found is not None
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.standard_error == pytest.approx((8 / 3 / 2 / 3) ** 0.5)
    assert found.labels == 1


def test_nothing_is_none_and_one_is_not_sure() -> None:
    assert aipw([]) is None
    assert aipw([Heard(0.5, None, 1.0)]) == Estimate(0.5, inf, 0)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.5])
def test_a_propensity_that_is_none_is_refused(propensity: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        aipw([Heard(0.0, None, propensity)])


def test_a_tiny_propensity_does_not_let_one_label_speak_for_thousands() -> None:
    assert corrected(Heard(0.0, 1.0, 1e-9)) == pytest.approx(100)


@pytest.mark.parametrize("guess_is_biased", [True, False])
def test_those_who_were_asked_tell_the_truth_about_all_where_volunteers_do_not(
    guess_is_biased: bool,
) -> None:
    """True mean 0.4; the unhappy speak up unasked; a tenth are asked at random and answer."""
    chance = random.Random(1)
    asked, volunteers, imputed = [], [], []
    for _ in range(40_000):
        reward = 1.0 if chance.random() < 0.7 else -1.0
        guess = 0.9 if guess_is_biased else reward * 0.5
        is_asked = chance.random() < 0.1
        asked.append(Heard(guess, reward if is_asked else None, 0.1))
        speaks = chance.random() < (0.2 if reward < 0 else 0.02)
        volunteers += [reward] if speaks else []
        imputed.append(reward if speaks else 0.0)
    found = aipw(asked)
    assert found is not None
    assert abs(found.mean - 0.4) < 3 * found.standard_error < 0.1
    assert sum(volunteers) / len(volunteers) < -0.4, "who speaks unasked is another crowd"
    assert abs(sum(imputed) / len(imputed) - 0.4) > 0.3, "and silence is no 0"
