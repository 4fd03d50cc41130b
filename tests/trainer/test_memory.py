"""A round may be larger than memory: what is kept of its rows does not grow with their tokens."""

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages_of, tracker_after
from trainer.advantages.tracker import Tracker
from trainer.batch.stored import StoredSamples
from trajectories.settings import TrainerSettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.rounds import a_plan
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.builtin import DPO, KTO, SFT
    from trainer.algorithms.protocol import Round
    from trainer.policy import load_policy, make_optimizer, shortest

ROWS, TOKENS = 300, 2000
MOST = 10_000  # bytes a row; its tokens alone are 72,000 as Python's integers


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> StoredSamples:
    """No anchors; each prompt was answered twice, well and badly."""
    path = tmp_path_factory.mktemp("log") / "batch.jsonl"
    with path.open("wb") as file:
        for number in range(ROWS):
            prompt = tuple(1000 + number // 2 + at for at in range(TOKENS))
            value = 1.0 if number % 2 else -1.0
            tokens = (5 + number % 2, 1)
            row = a_sample(f"d/t{number}", value, prompt_token_ids=prompt, token_ids=tokens)
            file.write(row.to_json() + b"\n")
    return StoredSamples(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def peak(work: Callable[[], object]) -> float:
    """The most that was held at once while `work` was done, in bytes a row."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = work()
        highest = tracemalloc.get_traced_memory()[1]
        del found
    finally:
        tracemalloc.stop()
    return (highest - before) / ROWS


@pytest.mark.parametrize("baseline", ["leave_one_out", "group", "tracker"])
def test_advantages_keep_no_tokens(rows: StoredSamples, baseline: Any) -> None:
    settings = TrainerSettings(baseline=baseline)
    assert peak(lambda: advantages_of(rows, settings)) < MOST
    assert peak(lambda: tracker_after(rows, settings, tracker=Tracker(), version=0)) < MOST


def test_probes_are_chosen_without_holding_all_rows(rows: StoredSamples) -> None:
    assert peak(lambda: shortest(rows)) < MOST
    assert [row.id for row in shortest(rows)] == [rows[at].id for at in range(4)]


@pytest.mark.parametrize("algorithm", [SFT, KTO, DPO], ids=lambda found: found.name)
def test_a_trainer_reads_its_rows_from_the_log(
    algorithm: Any, rows: StoredSamples, base: Path, tmp_path: Path
) -> None:
    plan = a_plan(base, algorithm.name)

    def a_round(samples: Any) -> Round:
        model, tokenizer = load_policy(plan)
        optimizer = make_optimizer(model, plan.trainer, None)
        return Round(plan, model, tokenizer, samples, tmp_path, optimizer, ())

    algorithm.make_trainer(a_round(rows[:4]))  # what is imported and compiled once
    round_ = a_round(rows)
    assert peak(lambda: algorithm.make_trainer(round_)) < MOST
