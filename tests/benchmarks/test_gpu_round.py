"""The script for a lent GPU: its rows are those of a log, its table counts what it says."""

import itertools
from dataclasses import replace

from benchmarks.gpu_round import SMALL, WAYS, Figures, logged_samples, table


def test_each_call_goes_on_from_the_one_before() -> None:
    samples = logged_samples(SMALL)
    assert len(samples) == SMALL.sessions * SMALL.calls
    for earlier, later in itertools.pairwise(samples):
        if earlier.trajectory == later.trajectory:
            said = (*earlier.prompt_token_ids, *earlier.token_ids)
            assert later.prompt_token_ids[: len(said)] == said
    rewards = {(sample.task, sample.reward) for sample in samples}
    assert len(rewards) > len({task for task, _ in rewards}), "some task was done well and badly"


def test_the_best_visit_of_each_way_is_shown_against_plain() -> None:
    plain = Figures("plain", "cpu", 1_000_000, 10, 500, 900, 5.0, 0.5, 100.0)
    visits = [replace(plain, way=way, seconds=s) for s in (9.0, 5.0) for way in WAYS]
    visits.append(replace(plain, way="merged", seconds=2.5))
    lines = table(visits).splitlines()
    assert "| plain | 100 | 1.00 | 900 | 0.500 | 100 |" in lines
    assert "| merged | 200 | 2.00 | 900 | 0.500 | 100 |" in lines
