"""Siblings in a round: up to their share, whole groups, and no labels of anybody."""

from typing import Any

import pytest

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.batch.batching import Batch, Demand, Sorting, shortages_of, sort_out
from trainer.batch.caps import Caps
from trainer.batch.samples import Exclusion
from trajectories.model import Reward, Trajectory
from trajectories.store import TrajectoryRef


def label(name: str, source: str, value: float) -> Reward:
    return Reward(
        id=f"rw-{name}-{source}", trajectory_id=name, name="reward", source=source, value=value
    )


def user(name: str, value: float = 1.0) -> Trajectory:
    rewards = (label(name, f"feedback:human:{name}", value),)
    return a_trajectory(name, value, rewards=rewards)


def sibling(of: str, number: int, value: float = -1.0) -> Trajectory:
    name = f"{of}-s{number}"
    call = a_transition(name, rollout=f"{of}-0")
    rewards = (label(name, "feedback:judge:grader", value),)
    return a_trajectory(name, value, transitions=(call,), rollout=f"{of}-0", rewards=rewards)


def sorted_out(*trajectories: Trajectory, caps: Caps | None = None, **changes: Any) -> Batch:
    found = [(TrajectoryRef(entry.tenant, entry.id), entry) for entry in trajectories]
    caps = caps or Caps(share=1.0, uncapped=frozenset({"grader"}))
    return sort_out(found, a_selection(**changes), caps)


def test_siblings_count_as_samples_and_not_as_labels_of_anybody() -> None:
    users = [user(f"u{n}") for n in range(2)]
    batch = sorted_out(*users, sibling("u0", 0), sibling("u0", 1), rollout_share=0.5)
    assert len(batch.samples) == 4
    assert batch.rollouts == 2
    assert batch.labelled == 2
    assert set(batch.labellers) == {"u0", "u1"}
    assert [sample.rollout for sample in batch.samples] == [None, None, "u0-0", "u0-0"]
    lacking = shortages_of(batch, Demand(1, 1, labels=3, principals=3), a_selection())
    assert [shortage.setting for shortage in lacking] == ["min_labels", "min_principals"]


@pytest.mark.parametrize(
    ("share", "rollouts"), [(0.0, 0), (0.4, 0), (0.5, 2), (0.6, 2), (0.7, 4), (1.0, 4)]
)
def test_no_more_than_their_share_and_a_prompts_siblings_stay_together(
    share: float, rollouts: int
) -> None:
    users = [user("u0"), user("u1")]
    rolled = [sibling(of, n) for of in ("u0", "u1") for n in range(2)]
    batch = sorted_out(*users, *rolled, rollout_share=share)
    assert batch.rollouts == rollouts
    assert len(batch.samples) == 2 + rollouts
    assert batch.excluded[Exclusion.ROLLOUTS] == 4 - rollouts
    assert len(batch.set_aside) == 4 - rollouts  # else they would stand at the head for ever
    assert [ref for ref in batch.refs if "u1-s" in ref] == (
        ["default/u1-s0", "default/u1-s1"] if rollouts == 4 else []
    )


def test_replayed_siblings_beyond_the_share_are_counted_as_left_out() -> None:
    sorting = Sorting(a_selection(rollout_share=0.3), Caps(uncapped=frozenset({"grader"})))
    found = [user("u0"), user("u1"), sibling("u0", 0), sibling("u0", 1)]
    for entry in found:
        ref = TrajectoryRef(entry.tenant, entry.id)
        sorting.add(ref, entry, is_replayed=entry.rollout is not None)
    batch = sorting.finish()
    assert (len(batch.samples), batch.replayed) == (2, ())
    assert batch.left_out[Exclusion.ROLLOUTS] == 2
    assert not batch.excluded


def test_without_any_users_there_is_no_round_of_siblings() -> None:
    batch = sorted_out(sibling("u0", 0), sibling("u0", 1), rollout_share=0.5)
    assert len(batch.samples) == 0


def test_labels_of_siblings_make_no_room_for_those_who_label_much() -> None:
    users = [
        a_trajectory(f"m{n}", 1.0, rewards=(label(f"m{n}", "feedback:human:much", 1.0),))
        for n in range(20)
    ]
    users += [user(f"u{n}") for n in range(3)]
    caps = Caps(share=0.02, least=2, uncapped=frozenset({"grader"}))
    alone = sorted_out(*users, caps=caps)
    rolled = [sibling("u0", n) for n in range(16)]
    batch = sorted_out(*users, *rolled, caps=caps)
    assert batch.labellers == alone.labellers
    assert batch.capped == alone.capped


def test_a_source_that_is_ignored_is_ignored_of_siblings_too() -> None:
    caps = Caps(share=1.0, ignored=frozenset({"grader"}))
    batch = sorted_out(user("u0"), sibling("u0", 0), caps=caps)
    assert batch.rollouts == 0
    assert batch.excluded[Exclusion.IGNORED] == 1


def test_nobody_but_the_houses_own_judges_labels_siblings() -> None:
    users = [user(f"u{n}") for n in range(4)]
    own = sibling("u0", 0)
    other = sibling("u1", 0)
    theirs = other.model_copy(update={"rewards": (label(other.id, "feedback:human:evil", -1.0),)})
    caps = Caps(share=0.02, least=2, uncapped=frozenset({"grader"}))
    batch = sorted_out(*users, own, theirs, caps=caps)
    assert [sample.rollout for sample in batch.samples if sample.rollout] == ["u0-0"]
    assert batch.excluded == {Exclusion.IGNORED: 1}
    both = theirs.model_copy(update={"rewards": (*theirs.rewards, *other.rewards)})
    batch = sorted_out(*users, both, caps=caps)
    (row,) = [sample for sample in batch.samples if sample.rollout]
    assert row.principals == ("grader",)
