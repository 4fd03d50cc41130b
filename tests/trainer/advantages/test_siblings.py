"""A recorded answer and its siblings are a true group, whichever call of its trajectory it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages, tracker_after
from trainer.advantages.baseline import comparison
from trainer.advantages.tracker import Tracker
from trainer.batch.samples import Sample
from trajectories.settings import TrainerSettings

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=6)


def siblings(rewards: list[float], *, of: str, anchor: str, version: int = 0) -> list[Sample]:
    return [
        a_sample(f"s{n}", reward, id=f"tr_s{n}/0", rollout=of, anchor=anchor, version=version)
        for n, reward in enumerate(rewards)
    ]


def by_group(samples: list[Sample]) -> list[float]:
    return advantages(samples, shrinkage=4.0, negative_weight=1.0, baseline="group")


@given(VALUES)
def test_advantages_of_an_answer_and_its_siblings_add_up_to_nothing(rewards: list[float]) -> None:
    first, *others = rewards
    original = a_sample("o", first, id="tr_o/0", anchor="x")
    found = by_group([original, *siblings(others, of="tr_o", anchor="x")])
    assert sum(found) == pytest.approx(0.0, abs=1e-9)


@given(VALUES)
def test_a_later_call_is_held_against_its_siblings_and_an_earlier_one_is_not(
    rewards: list[float],
) -> None:
    first, *others = rewards
    earlier = a_sample("o", first, id="tr_o1/0", anchor="start", step=0, calls_to_go=1)
    later = a_sample("o", first, id="tr_o2/0", anchor="x", step=1)
    rest = [a_sample(f"u{n}", 0.25, id=f"tr_u{n}/0", anchor=f"u{n}") for n in range(3)]
    samples = [earlier, later, *siblings(others, of="tr_o2", anchor="x"), *rest]
    found = by_group(samples)
    assert sum(found[1 : 1 + len(rewards)]) == pytest.approx(0.0, abs=1e-9)
    mean = sum(others) / len(others)
    assert found[1] == pytest.approx(first - mean)
    # The state it led to is worth what it is: that says nothing of how it came to be.
    users = [a_sample("o", first), *(a_sample(f"u{n}", 0.25) for n in range(3)), *samples[2:-3]]
    alone = advantages(users, shrinkage=4.0, negative_weight=1.0)
    assert found[0] == pytest.approx(alone[0])


def test_siblings_of_another_version_are_a_group_of_their_own() -> None:
    original = a_sample("o", 1.0, id="tr_o/0", anchor="x")
    samples = [original, *siblings([0.5, -0.5], of="tr_o", anchor="x", version=1)]
    against = comparison(samples, "group")
    assert against.joined == {}
    assert by_group(samples)[1:] == pytest.approx([1.0, -1.0])


@pytest.mark.parametrize("step", [0, 1])
def test_an_answer_to_other_tokens_is_in_no_group_with_it(step: int) -> None:
    """Another chat template, or a sibling of which only a later call was kept."""
    original = a_sample("o", 1.0, id="tr_o/0", anchor="x", step=step, prompt_token_ids=(1, 2, 3))
    start = a_sample("o", 1.0, id="tr_o1/0", anchor="start", calls_to_go=1)
    samples = [*([start] if step else []), original, *siblings([-1.0], of="tr_o", anchor="x")]
    against = comparison(samples, "group")
    assert against.joined == {}
    assert against.groups["o"] != against.groups["s0"]


def test_a_group_in_which_the_original_has_no_label_is_that_of_the_siblings() -> None:
    earlier = a_sample("o", -0.2, id="tr_o1/0", anchor="start", is_labelled=False, calls_to_go=1)
    later = a_sample("o", -0.2, id="tr_o2/0", anchor="x", step=1, is_labelled=False)
    found = by_group([earlier, later, *siblings([0.5, -0.5], of="tr_o2", anchor="x")])
    assert found[2:] == pytest.approx([1.0, -1.0])
    assert found[:2] == pytest.approx([-0.2, -0.2])


def test_what_siblings_were_worth_is_not_remembered_as_what_traffic_was() -> None:
    original = a_sample("o", 1.0, id="tr_o/0", anchor="x")
    rolled = siblings([-1.0, -1.0], of="tr_o", anchor="x")
    settings = TrainerSettings(baseline="tracker")
    found = tracker_after([original, *rolled], settings, tracker=Tracker(), version=1)
    alone = tracker_after([original], settings, tracker=Tracker(), version=1)
    assert found == alone
