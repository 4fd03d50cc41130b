"""What a round says of itself in numbers."""

import math

from tests.trainer.records import a_sample
from trainer.figures import finite, mean_reward, mean_staleness, summary


def test_what_was_logged_is_averaged_over_the_steps_that_logged_it() -> None:
    history = [{"loss": 1.0, "kl": 0.5}, {"loss": 3.0, "kl": None}, {"train_runtime": 9.0}]
    assert summary(history) == {"loss": 2.0, "kl": 0.5}
    assert summary([]) == {}


def test_each_agents_part_of_a_trajectory_counts_once() -> None:
    samples = [
        a_sample("a", 1.0, id="a/0", agent="planner"),
        a_sample("a", 1.0, id="a/1", agent="planner"),
        a_sample("a", 0.0, id="a/2", agent="writer"),
        a_sample("b", -1.0, version=2),
    ]
    assert mean_reward(samples) == 0.0
    assert mean_staleness(samples, 2) == 1.5


def test_what_is_not_finite_is_not_told() -> None:
    assert finite({"loss": math.nan, "kl": math.inf, "steps": 1.0}) == {"steps": 1.0}
