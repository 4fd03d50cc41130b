"""Two processes by the real launcher train what one does: rows, losses, adapter."""

import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.trainer.records import a_sample
from trainer.batch.samples import Sample
from trainer.durable import write_atomic
from trainer.runs import BATCH, PLAN, Plan
from trajectories.settings import TrainerSettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM

    from tests.trainer.launch import two_ranks
    from tests.trainer.tiny_model import VOCABULARY, save_base
    from trainer.policy import logprobs_of

ROOT = Path(__file__).parents[3]
ROWS = 11  # with batches of 4: the last step of an epoch has 3 rows for two processes
ALGORITHMS = ("grpo", "sft")


def logged_samples(base: Path) -> list[Sample]:
    """Answers of the base with its own logprobs, half of them good."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chance = random.Random(0)

    def words(least: int, most: int) -> tuple[int, ...]:
        return tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(least, most)))

    rows = []
    for number in range(ROWS):
        prompt, answer = words(2, 6), words(2, 5)
        logprobs = tuple(logprobs_of(model, prompt, answer))
        reward = 1.0 if number % 2 else -1.0
        fields = {"prompt_token_ids": prompt, "token_ids": answer, "logprobs": logprobs}
        rows.append(a_sample(f"default/t{number}", reward, **fields))
    return rows


def write_runs(directory: Path, base: Path, samples: list[Sample]) -> None:
    for algorithm in ALGORITHMS:
        settings = TrainerSettings(
            rank=4,
            alpha=8,
            batch_size=4,
            learning_rate=1e-3,
            threads=1,
            device="cpu",
            sft_threshold=-1.0,
        )
        plan = Plan(
            run_id=algorithm,
            policy="policy",
            algorithm=algorithm,
            base_path=str(base),
            parent=0,
            parent_path=None,
            optimizer_path=None,
            trainer=settings,
            refs=(),
        )
        run = directory / algorithm
        run.mkdir(parents=True)
        write_atomic(run / PLAN, plan.to_json())
        write_atomic(run / BATCH, b"".join(sample.to_json() + b"\n" for sample in samples))


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same runs, trained by this process alone and by two of the launcher's."""
    root = tmp_path_factory.mktemp("ranks")
    base = save_base(root / "base")
    samples = logged_samples(base)
    for name in ("one", "two"):
        write_runs(root / name, base, samples)
    for run in sorted((root / "one").iterdir()):
        two_ranks.train_noting(run)
    launcher = [sys.executable, "-m", "trainer.launch", "--config", "cpu"]
    module = "tests.trainer.launch.two_ranks"
    launched = subprocess.run(
        [*launcher, "--module", module, str(root / "two")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    return root / "one", root / "two"


def losses(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_processes_have_the_losses_and_the_adapter_of_one(
    algorithm: str, directories: tuple[Path, Path]
) -> None:
    one, two = (directory / algorithm for directory in directories)
    assert len(losses(one)) == 6, "11 rows, 4 a step, 2 epochs"
    for alone, shared in zip(losses(one), losses(two), strict=True):
        assert shared[0] == alone[0]
        assert shared[1] == pytest.approx(alone[1], abs=1e-5)
    mine, theirs = (load_file(run / "trained" / "adapter_model.safetensors") for run in (one, two))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=1e-4, err_msg=name)


def test_only_the_first_process_writes(directories: tuple[Path, Path]) -> None:
    one, two = ({path.name for path in (d / "grpo").iterdir()} for d in directories)
    assert one == two
    assert {"trained", "progress.json"} <= two
