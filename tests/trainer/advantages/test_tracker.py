"""The tracker: it converges, follows a change, forgets what is old, and comes back after a kill."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages_of, tracker_after
from trainer.advantages.baseline import Prior
from trainer.advantages.tracker import TRACKER, Tracker, priors_of, recall, updated
from trajectories.settings import TrainerSettings

KEY = ("default", None, "greet")


def after(tracker: Tracker, rewards: list[float], version: int, most: float = 16.0) -> Tracker:
    named = {f"t{n}": reward for n, reward in enumerate(rewards)}
    keys = dict.fromkeys(named, KEY)
    return updated(tracker, named, keys, version, most_weight=most, half_life=4.0)


def prior(tracker: Tracker, version: int, most: float = 16.0) -> Prior:
    return priors_of(tracker, version, most_weight=most, half_life=4.0)[KEY]


def test_by_hand() -> None:
    first = after(Tracker(), [1.0, 0.0], 0)
    assert prior(first, 0) == Prior(0.5, 2.0)
    assert prior(first, 4) == Prior(0.5, 1.0), "four versions later it counts half"
    second = after(first, [1.0], 4)
    assert prior(second, 4) == Prior(0.75, 2.0)


@given(st.floats(-0.9, 0.9), st.integers(0, 5))
def test_it_converges_to_the_mean_reward(mean: float, seed: int) -> None:
    chance, tracker = random.Random(seed), Tracker()
    for version in range(60):
        rewards = [1.0 if chance.random() < (1 + mean) / 2 else -1.0 for _ in range(8)]
        tracker = after(tracker, rewards, version, most=64.0)
    assert prior(tracker, 60).mean == pytest.approx(mean, abs=0.45)


def test_it_follows_a_policy_that_has_changed() -> None:
    tracker = Tracker()
    for version in range(10):
        tracker = after(tracker, [-1.0] * 4, version)
    for version in range(10, 30):
        tracker = after(tracker, [1.0] * 4, version)
    assert prior(tracker, 30).mean > 0.95
    assert prior(tracker, 30).weight <= 16


def test_what_is_old_is_forgotten() -> None:
    tracker = after(Tracker(), [1.0], 0)
    assert KEY in priors_of(tracker, 16, most_weight=16, half_life=4.0)
    assert not priors_of(tracker, 20, most_weight=16, half_life=4.0)
    other = {"t": ("default", None, "other")}
    assert len(updated(tracker, {"t": 1.0}, other, 20, most_weight=16, half_life=4.0).values) == 1


def test_what_an_earlier_round_used_is_not_counted_again() -> None:
    settings = TrainerSettings(baseline="tracker")
    rows = [a_sample("new", -1.0), a_sample("old", 1.0, is_replayed=True)]
    found = tracker_after(rows, settings, tracker=after(Tracker(), [1.0], 0), version=0)
    assert prior(found, 0) == Prior(0.0, 2.0)


def test_a_round_reads_what_the_round_before_left() -> None:
    settings = TrainerSettings(baseline="tracker")
    tracker = Tracker.from_json(
        tracker_after(
            [a_sample("a", 1.0), a_sample("b", 0.5), a_sample("c", -1.0, is_labelled=False)],
            settings,
            tracker=Tracker(),
            version=0,
        ).to_json()
    )
    assert prior(tracker, 0) == Prior(0.75, 2.0), "AIR alone is no label"
    again = [a_sample("d", 1.0)]
    assert advantages_of(again, settings, tracker=tracker, version=0) == [0.25]
    assert advantages_of(again, settings) == [0.0], "a first round has nothing to compare with"


def test_it_lies_beside_the_moments_of_the_version_that_a_round_starts_from(
    tmp_path: Path,
) -> None:
    """So after a rollback the old version's state comes back with its moments."""
    for name, reward in (("v1", 1.0), ("v2", -1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / TRACKER).write_bytes(after(Tracker(), [reward], 0).to_json())
    assert prior(recall(str(tmp_path / "v1" / "optimizer.pt")), 0).mean == 1.0
    assert prior(recall(str(tmp_path / "v2" / "optimizer.pt")), 0).mean == -1.0
    assert recall(str(tmp_path / "optimizer.pt")) == recall(None) == Tracker()
