"""A dry run: what a round would learn from, what not, and why, in words and settings there are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.trainer.records import a_selection, a_trajectory, a_transition, make_trainable
from trainer.batch.batching import Batch, sort_out
from trainer.batch.reasons import REASONS
from trainer.batch.samples import Exclusion
from trainer.dry import show_round
from trainer.tables import whole
from trajectories.connection import Redis
from trajectories.model import Choice, Outcome, Sampling, Trajectory
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef


def shown(batch: Batch) -> str:
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(whole(batch, []))
    return capture.get()


def sorted_out(*found: Trajectory) -> Batch:
    return sort_out([(TrajectoryRef(t.tenant, t.id), t) for t in found], a_selection())


def test_every_exclusion_has_words_and_a_setting_that_exists() -> None:
    assert set(REASONS) == set(Exclusion)
    for reason in REASONS.values():
        section, _, key = reason.setting.partition(".")
        field = Settings.model_fields.get(section)
        assert not section or field is not None, reason.setting
        if key and section != "agents":
            assert field is not None
            assert field.annotation is not None
            assert key in field.annotation.model_fields, reason.setting


def test_it_says_what_is_left_out_and_which_setting_decides_that() -> None:
    two = Choice(token_ids=(4, 5), logprobs=(-0.5,), finish_reason="stop")
    text = shown(
        sorted_out(
            a_trajectory("good"),
            a_trajectory("bad", -1.0),
            a_trajectory("old", transitions=(a_transition("old", policy_version=9),)),
            a_trajectory("cut", transitions=(a_transition("cut", outcome=Outcome.INCOMPLETE),)),
            a_trajectory("odd", transitions=(a_transition("odd", choices=(two,)),)),
        )
    )
    assert re.search(r"closed, rewarded and not used yet +│ +5", text)
    assert re.search(r"of these usable +│ +2", text)
    for reason in (Exclusion.STALE, Exclusion.INCOMPLETE, Exclusion.NOT_ALIGNED):
        assert re.search(rf"left out: {reason.value} +│ +1 │ {REASONS[reason].text[:20]}", text)
    assert "trainer.max_staleness" in text


@pytest.mark.parametrize(
    ("rules", "better", "worse"),
    [
        ({}, "better than the mean +│ +2", "worse than the mean +│ +1"),
        ({"middle": 0.9}, "better than 0.9 +│ +1", "worse than 0.9 +│ +2"),
        ({"above": 0.1}, "better than 0.1 +│ +2", "worse than 0.1 +│ +0"),
    ],
)
def test_what_parts_better_from_worse_is_what_the_algorithm_goes_by(
    rules: dict[str, float], better: str, worse: str
) -> None:
    found = [a_trajectory(f"t{n}", value) for n, value in enumerate((-1.0, 0.8, 1.0))]
    pairs = [(TrajectoryRef(t.tenant, t.id), t) for t in found]
    text = shown(sort_out(pairs, a_selection(**rules)))
    assert re.search(better, text)
    assert re.search(worse, text)


def test_it_shows_what_merging_saves() -> None:
    first = a_transition("t", number=0)
    second = a_transition("t", number=1, prompt_token_ids=(1, 2, 3, 4, 5, 6))
    text = shown(sorted_out(a_trajectory("t", transitions=(first, second))))
    assert re.search(r"tokens, prompts included +│ +13", text)
    assert re.search(r"are merged +│ +8 │ 38% saved", text)


def test_a_dry_run_changes_nothing_and_says_whether_a_round_would_start(
    settings: Settings, redis: Redis, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainable(store, 3)
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    assert show_round(settings, redis) == 3
    assert "3 of 4 usable rewarded trajectories (trainer.min_trajectories)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert {key: redis.dump(key) for key in redis.scan_iter()} == before
    make_trainable(store, 2, start=3)
    assert show_round(settings, redis) == 0
    assert "enough for a round" in capsys.readouterr().out


@given(st.lists(st.sampled_from([None, -1.0, 1.0]), max_size=6))
def test_every_trajectory_is_counted_once(rewards: list[float | None]) -> None:
    batch = sorted_out(*(a_trajectory(f"t{n}", value) for n, value in enumerate(rewards)))
    assert len(batch.refs) + batch.excluded.total() == batch.examined == len(rewards)
    assert shown(batch)


def test_it_says_how_many_calls_lost_a_part_of_their_context() -> None:
    long = a_transition("long", prompt_token_ids=tuple(range(150)))
    found = [a_trajectory("long", transitions=(long,)), a_trajectory("short")]
    pairs = [(TrajectoryRef(t.tenant, t.id), t) for t in found]
    cut = sort_out(pairs, a_selection(needs_ratio=False, cuts_context=True))
    assert re.search(
        r"of these with a part of their context +│ +1 │.*trainer.cut_context", shown(cut)
    )
    left_out = sort_out(pairs, a_selection(needs_ratio=False))
    assert re.search(r"left out: too_long +│ +1 │", shown(left_out))
    assert "part of their context" not in shown(left_out)


def test_it_says_how_many_calls_were_held_by_a_grammar() -> None:
    held = a_transition("held", sampling=Sampling(is_constrained=True))
    found = [a_trajectory("held", transitions=(held,)), a_trajectory("free")]
    pairs = [(TrajectoryRef(t.tenant, t.id), t) for t in found]
    text = shown(sort_out(pairs, a_selection(takes_constrained=True)))
    assert re.search(r"of these under a grammar +│ +1 │", text)
    assert "under a grammar" not in shown(sort_out(pairs[1:], a_selection()))
