"""Caps: nobody owns a round, nobody is silenced, and where few speak they are heard."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_selection, a_trajectory
from trainer.batch.batching import Batch, sort_out
from trainer.batch.caps import Caps, cap_of, dropped_labels, labellers
from trainer.batch.samples import Exclusion
from trajectories.model import Reward, Trajectory
from trajectories.store import TrajectoryRef

SPAMMER = "spammer"


def label(trajectory: str, who: str, value: float = 1.0, number: int = 0) -> Reward:
    return Reward(
        id=f"rw-{trajectory}-{who}-{number}",
        trajectory_id=trajectory,
        name=f"n{number}",
        source=f"feedback:human:{who}",
        value=value,
        feedback=f"fb-{trajectory}-{who}-{number}",
    )


def labelled(name: str, *labels: Reward) -> Trajectory:
    mean = sum(entry.value for entry in labels) / len(labels)
    return a_trajectory(name, mean, rewards=labels)


def sorted_out(trajectories: list[Trajectory], caps: Caps) -> Batch:
    found = [(TrajectoryRef(entry.tenant, entry.id), entry) for entry in trajectories]
    return sort_out(found, a_selection(), caps)


def test_where_many_speak_each_has_at_most_the_share_that_is_set() -> None:
    assert cap_of([5000, *[1] * 980], share=0.02, least=2) == 20


def test_where_few_speak_each_has_at_most_twice_an_even_share() -> None:
    assert cap_of([100, 20, 5], share=0.02, least=2) == 50  # 2/3 of 50 + 20 + 5


@pytest.mark.parametrize("counts", [[], [7], [7, 3]])
def test_one_or_two_sources_are_not_capped(counts: list[int]) -> None:
    assert cap_of(counts, share=0.02, least=2) >= max(counts, default=0)


@given(st.lists(st.integers(1, 300), min_size=3, max_size=60), st.floats(0.01, 1))
def test_the_cap_is_the_largest_that_keeps_the_share(counts: list[int], share: float) -> None:
    found = cap_of(counts, share=share, least=1)
    allowed = max(share, 2 / len(counts))

    def holds(cap: int) -> bool:
        return cap <= allowed * sum(min(count, cap) for count in counts) + 1e-9

    assert share >= 1 or found == 1 or holds(found)
    assert found >= max(counts) or not holds(found + 1)


def test_one_who_says_five_things_of_a_trajectory_has_labelled_one() -> None:
    many = [labelled("a", *(label("a", "ann", number=n) for n in range(5)))]
    others = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(100)]
    assert not dropped_labels([*many, *others], Caps()).ids


def test_which_labels_stay_is_no_matter_of_age_and_the_same_every_time() -> None:
    spam = [labelled(f"s{n:03d}", label(f"s{n:03d}", SPAMMER)) for n in range(60)]
    others = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(100)]
    dropped = dropped_labels([*spam, *others], Caps()).capped
    assert dropped == dropped_labels([*others, *reversed(spam)], Caps()).capped
    kept = [entry.id for entry in spam if entry.rewards[0].id not in dropped]
    assert len(kept) == 2
    assert kept != ["s000", "s001"]


def test_what_others_said_of_a_trajectory_counts_without_the_capped_label() -> None:
    """Nobody is silenced by somebody who votes on everything."""
    others = [
        labelled(f"t{n}", label(f"t{n}", f"u{n}", -1.0), label(f"t{n}", SPAMMER, 1.0, number=1))
        for n in range(60)
    ]
    batch = sorted_out(others, Caps())
    assert len(batch.refs) == 60
    assert Counter(sample.reward for sample in batch.samples) == {-1.0: 58, 0.0: 2}
    assert batch.labellers[SPAMMER] == 2
    assert batch.capped == {SPAMMER: 58}
    alone = next(sample for sample in batch.samples if sample.reward == -1.0)
    assert len(alone.principals) == len(alone.feedback) == 1, "provenance is what was counted"


def test_what_only_a_capped_label_spoke_of_is_left_for_a_later_round() -> None:
    spam = [labelled(f"s{n}", label(f"s{n}", SPAMMER)) for n in range(30)]
    others = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(50)]
    batch = sorted_out([*spam, *others], Caps())
    assert batch.excluded == {Exclusion.CAPPED: 28}
    assert len(batch.left_over) == 28
    assert not batch.set_aside


def test_without_a_capped_label_a_fault_that_air_saw_is_still_a_fault() -> None:
    fault = Reward(
        id="rw-air", trajectory_id="s", name="truncated", source="air:truncated", value=-0.3
    )
    spam = [labelled(f"s{n}", label(f"s{n}", SPAMMER)) for n in range(30)]
    spam = [
        entry.model_copy(
            update={"rewards": (*entry.rewards, fault.model_copy(update={"id": f"a{entry.id}"}))}
        )
        for entry in spam
    ]
    others = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(50)]
    batch = sorted_out([*spam, *others], Caps())
    alone = [sample for sample in batch.samples if not sample.is_labelled]
    assert [sample.reward for sample in alone] == [-0.3] * 28


def test_shares_are_of_what_a_round_can_use_and_not_of_all_there_is() -> None:
    """One holds all the labels of a round whose others speak of calls that teach nothing."""
    spam = [labelled(f"s{n}", label(f"s{n}", SPAMMER)) for n in range(100)]
    useful = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(100)]
    useless = [
        entry.model_copy(
            update={
                "transitions": tuple(
                    step.model_copy(update={"policy": "another"}) for step in entry.transitions
                )
            }
        )
        for entry in (labelled(f"x{n}", label(f"x{n}", f"v{n}")) for n in range(900))
    ]
    batch = sorted_out([*spam, *useful, *useless], Caps())
    assert batch.labellers[SPAMMER] / sum(batch.labellers.values()) <= 0.02


def test_sft_shares_are_of_the_successes_and_nobody_votes_others_successes_down() -> None:
    spam = [labelled(f"s{n}", label(f"s{n}", SPAMMER)) for n in range(100)]
    good = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(100)]
    bad = [labelled(f"x{n}", label(f"x{n}", f"v{n}", -1.0)) for n in range(900)]
    vetoed = [
        labelled(f"y{n}", label(f"y{n}", f"w{n}"), label(f"y{n}", "veto", -1.0, 1))
        for n in range(100)
    ]
    found = [(TrajectoryRef(entry.tenant, entry.id), entry) for entry in [*spam, *good, *bad]]
    batch = sort_out(found, a_selection(above=0.0, needs_ratio=False), Caps())
    rows = Counter(sample.principals[0] for sample in batch.samples)
    assert 0 < rows[SPAMMER] <= 0.02 * sum(rows.values())
    found += [(TrajectoryRef(entry.tenant, entry.id), entry) for entry in vetoed]
    batch = sort_out(found, a_selection(above=0.0, needs_ratio=False), Caps())
    assert sum("w" in sample.principals[0] for sample in batch.samples) >= 70


def test_a_verifier_of_the_operators_own_may_label_everything() -> None:
    spam = [labelled(f"s{n}", label(f"s{n}", "unit-tests")) for n in range(60)]
    others = [labelled(f"t{n}", label(f"t{n}", f"u{n}")) for n in range(10)]
    assert not dropped_labels([*spam, *others], Caps(uncapped=frozenset({"unit-tests"}))).ids
    assert dropped_labels([*spam, *others], Caps()).capped


def test_a_source_that_is_ignored_is_in_no_later_batch() -> None:
    spam = [labelled(f"s{n}", label(f"s{n}", SPAMMER)) for n in range(3)]
    mixed = labelled("m", label("m", SPAMMER, -1.0), label("m", "ann", 1.0))
    batch = sorted_out([*spam, mixed], Caps(ignored=frozenset({SPAMMER})))
    assert [sample.reward for sample in batch.samples] == [1.0]
    assert batch.excluded == {Exclusion.IGNORED: 3}
    assert SPAMMER not in batch.labellers
    assert not any("spammer" in vote for sample in batch.samples for vote in sample.feedback)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_has_two_percent_of_traffic_and_labels_all_of_it_has_no_tenth_of_the_labels(
    seed: int,
) -> None:
    """Row 6: 41,000 sessions, 2 % of them one principal's; the others label 2 % of theirs."""
    chance = random.Random(seed)
    sessions = [
        (f"t{n}", SPAMMER if chance.random() < 0.02 else f"u{chance.randrange(8000)}")
        for n in range(41_000)
    ]
    traffic = [
        labelled(name, label(name, who, 1.0 if who == SPAMMER else chance.choice([1.0, -1.0])))
        for name, who in sessions
        if who == SPAMMER or chance.random() < 0.02
    ]
    for start in range(0, len(traffic) - 256, 256):
        round_of = traffic[start : start + 256]
        before = labellers(round_of)[SPAMMER] / len(round_of)
        assert before > 0.3, "uncapped it would own a third of the round"
        batch = sorted_out(round_of, Caps())
        total = sum(batch.labellers.values())
        assert batch.labellers[SPAMMER] <= 0.1 * total
        assert total >= 0.9 * (len(round_of) * (1 - before)), "others lose nothing"


@pytest.mark.parametrize("others", [100, 1000])
def test_ten_thousand_extreme_rewards_of_one_key_hardly_move_a_rounds_mean(others: int) -> None:
    """Poisoning: however many labels, and however extreme, the mean moves by the share."""
    chance = random.Random(7)
    honest = [
        labelled(f"t{n}", label(f"t{n}", f"u{n}", chance.choice([1.0, -1.0])))
        for n in range(others)
    ]
    poison = [labelled(f"p{n:05d}", label(f"p{n:05d}", SPAMMER, -1.0)) for n in range(10_000)]

    def mean(trajectories: list[Trajectory]) -> float:
        rewards = [sample.reward for sample in sorted_out(trajectories, Caps()).samples]
        return sum(rewards) / len(rewards)

    assert abs(mean([*honest, *poison]) - mean(honest)) < 2 * 0.02 + 0.001
