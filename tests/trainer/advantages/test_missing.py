"""Missing rewards: guesses put right by those who were asked, and by nobody else."""

import random
from typing import Any

import pytest

from tests.trainer.records import a_sample, a_selection, a_trajectory, a_transition
from trainer.advantages.advantage import advantages_of
from trainer.advantages.missing import LEAST_HEARD, answer_rate, correct
from trainer.batch.samples import Sample, samples_of
from trajectories.model import Reward
from trajectories.settings import TrainerSettings


def a_guess(name: str, guess: float, said: float | None = None, **changes: Any) -> Sample:
    """A judged trajectory of a survey that asks one in ten; `said` is what people said of it."""
    return a_sample(
        name,
        guess if said is None else said,
        guess=guess,
        is_heard=said is not None,
        **{"ask": 0.1, "is_asked": said is not None, **changes},
    )


def asked(count: int, said: float | None, guess: float = 0.5, name: str = "a") -> list[Sample]:
    return [a_guess(f"{name}{n}", guess, said, is_asked=True) for n in range(count)]


def test_by_hand() -> None:
    samples = asked(8, 1.0) + asked(8, None, name="silent") + [a_guess("other", -0.5)]
    assert answer_rate(samples) == 0.5
    heard, *_, silent, other = (sample.reward for sample in correct(samples, limit=100.0))
    assert heard == pytest.approx(0.5 + 0.5 / (0.1 * 0.5))
    assert (silent, other) == (0.5, -0.5), "who was not heard leaves the guess as it is"
    assert correct(samples, limit=4.0)[0].reward == 4.0


def test_who_speaks_unasked_leaves_the_guess_as_it_is() -> None:
    volunteers = [a_guess("v", 0.5, -1.0, is_asked=False)]
    assert correct([*asked(8, 1.0), *volunteers], 100.0)[-1].reward == 0.5
    unknown = [a_guess("u", 0.5, -1.0, is_asked=False, ask=None)]
    assert correct([*asked(8, 1.0), *unknown], 100.0)[-1].reward == -1.0, "there was no survey"


def test_where_too_few_answered_nothing_is_multiplied() -> None:
    samples = asked(LEAST_HEARD - 1, 1.0)
    assert answer_rate(samples) is None
    assert correct(samples, 100.0) == samples


def test_without_a_guess_or_a_survey_a_label_is_what_it_is() -> None:
    strangers = [
        a_sample("x", 1.0, is_heard=True, is_asked=True, ask=0.1),
        a_guess("y", 0.5, 1.0, ask=None),
    ]
    assert correct(asked(8, 1.0) + strangers, 100.0)[-2:] == strangers


def test_calls_of_one_trajectory_are_counted_once() -> None:
    twice = [sample.model_copy(update={"id": f"{sample.id}+"}) for sample in asked(8, 1.0)]
    assert answer_rate([*asked(8, 1.0), *twice, *asked(8, None, name="b")]) == 0.5


def test_the_mean_is_that_of_everybody_however_wrong_the_judge_is() -> None:
    """True mean 0.4. The judge praises all; a tenth are asked, half of those answer.

    Of the others a third complain unasked when it went wrong, and hardly anybody praises.
    """
    chance, samples = random.Random(3), []
    for n in range(20_000):
        truth = 1.0 if chance.random() < 0.7 else -1.0
        is_asked = chance.random() < 0.1
        speaks = 0.5 if is_asked else 0.3 if truth < 0 else 0.02
        said = truth if chance.random() < speaks else None
        samples.append(a_guess(f"t{n}", 0.9, said, is_asked=is_asked))
    found = [sample.reward for sample in correct(samples, limit=1e9)]
    assert sum(found) / len(found) == pytest.approx(0.4, abs=0.1)
    left_out = [sample.reward for sample in samples]
    assert abs(sum(left_out) / len(left_out) - 0.4) > 0.2


def test_the_settings_decide() -> None:
    samples = asked(8, -1.0) + [a_guess(f"o{n}", -0.5) for n in range(8)]
    plain = advantages_of(samples, TrainerSettings(negative_weight=1.0))
    right = advantages_of(samples, TrainerSettings(missing="aipw", negative_weight=1.0))
    assert plain[0] < 0
    assert right[0] < plain[0]


def test_a_sample_knows_what_it_would_be_worth_without_people() -> None:
    def said(source: str, value: float) -> Reward:
        name = f"r-{source}"
        return Reward(id=name, trajectory_id="t1", name="reward", source=source, value=value)

    judge, human = said("feedback:judge:g", 0.5), said("feedback:human:ann", -1.0)
    air = said("air:truncated", -0.25)
    call = a_transition("t1", ask=0.1, is_asked=True, session_id="s")

    def sample(*rewards: Reward, reward: float) -> Sample:
        record = a_trajectory("t1", reward, transitions=(call,), rewards=rewards)
        (found,), _ = samples_of(record, a_selection())
        return found

    both = sample(judge, human, air, reward=-1.0)
    assert (both.reward, both.guess, both.is_heard) == (-1.0, 0.25, True)
    assert (both.ask, both.is_asked) == (pytest.approx(0.1), True)
    judged = sample(judge, reward=0.5)
    assert (judged.guess, judged.is_heard) == (0.5, False)
    assert sample(air, reward=-0.25).guess is None, "the silence of AIR would be no guess"
