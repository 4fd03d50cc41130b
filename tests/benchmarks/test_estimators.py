"""The benchmark of estimators: it runs from end to end, goes on if it broke off, fills a page."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trainer.algorithms.loss")

from benchmarks.estimator_bench.brain import answers, bring_up, chances
from benchmarks.estimator_bench.credits import WORLDS, Size, _needed, run
from benchmarks.estimator_bench.page import read, rewritten, tables
from benchmarks.estimator_bench.world import ALL, EXAM, TRAFFIC, Question, lesson
from benchmarks.estimators import TABLES

ROOT = Path(__file__).parents[2]


def test_every_table_runs_in_little_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    target = tmp_path / "all.json"
    command = [sys.executable, "-m", "benchmarks.estimators", "--quick", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert {name for name, seeds in found.items() if seeds} == set(TABLES)
    assert done.stdout.count("| seeds |") == len(TABLES)
    for table, seeds in found.items():
        (tmp_path / f"{table}-1.json").write_text(json.dumps(seeds["1"]))
    command = [*command[:3], "--seeds", "1", "--out", str(tmp_path)]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "seed 1" not in again.stdout, "every arm has a result"


def test_what_is_examined_is_never_asked() -> None:
    assert not set(TRAFFIC) & set(EXAM)
    assert len(TRAFFIC) + len(EXAM) == len(ALL)
    question = Question(4, (9, 2, 3))
    assert question.right == (0, 2, 3, 10)
    lessons = [lesson(question, random.Random(n)) for n in range(400)]
    assert 0.3 < lessons.count(question.right) / 400 < 0.6


def test_sampled_logprobs_are_those_of_the_exact_chances() -> None:
    brain = bring_up(1, 5, 8)
    prompts = [question.prompt for question in TRAFFIC[:32]]
    for prompt, answer in zip(prompts, answers(brain, prompts), strict=True):
        (exact,) = chances(brain, [(prompt, answer.tokens)])
        product = 1.0
        for value in answer.logprobs:
            product *= 2.718281828459045**value
        assert product == pytest.approx(exact, rel=1e-3)


def test_sessions_needed_lie_on_a_line_between_two_rounds() -> None:
    assert _needed([0.5, 0.6, 0.8], 100) == pytest.approx(150)
    assert _needed([0.5, 0.6], 100) is None


def test_a_world_runs_with_each_credit() -> None:
    brain = bring_up(1, 5, 8)
    for world in WORLDS.values():
        assert len(run(world, "stepgroup", brain, 1, Size(1, 4))["curve"]) == 2  # type: ignore[arg-type]


def test_the_page_shows_what_was_measured() -> None:
    """Where this fails: python -m benchmarks.estimators --table --page docs/results.md"""
    page = (ROOT / "docs" / "results.md").read_text()
    made = tables(read(ROOT / "docs" / "measurements" / "estimators", TABLES))
    assert rewritten(page, made) == page
