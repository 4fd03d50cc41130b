"""Two processes by the real launcher train what one does: rows, losses, adapter."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainer.batch.samples import Sample
from trainer.runs import RunDirectory

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.launch import two_ranks
    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base

ROOT = Path(__file__).parents[3]
ROWS = 11  # with batches of 4: the last step of an epoch has 3 rows for two processes
ALGORITHMS = ("grpo", "sft")


def write_runs(directory: Path, base: Path, samples: list[Sample]) -> None:
    for algorithm in ALGORITHMS:
        write_run(directory / algorithm, base, samples, algorithm)
    write_run(directory / "full", base, samples, "grpo", weights="full", kl_to_base=0.1)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same runs, trained by this process alone and by two of the launcher's."""
    root = tmp_path_factory.mktemp("ranks")
    base = save_base(root / "base")
    samples = logged_samples(base, ROWS)
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


@pytest.mark.parametrize("run", [*ALGORITHMS, "full"])
def test_two_processes_have_the_losses_and_the_weights_of_one(
    run: str, directories: tuple[Path, Path]
) -> None:
    one, two = (directory / run for directory in directories)
    assert len(losses(one)) == 6, "11 rows, 4 a step, 2 epochs"
    for alone, shared in zip(losses(one), losses(two), strict=True):
        assert shared[0] == alone[0]
        assert shared[1] == pytest.approx(alone[1], abs=1e-5)
    file = "model.safetensors" if run == "full" else "adapter_model.safetensors"
    mine, theirs = (load_file(path / "trained" / file) for path in (one, two))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        np.testing.assert_allclose(theirs[name], tensor, atol=1e-4, err_msg=name)


def test_a_model_that_two_processes_share_is_put_together_whole(
    directories: tuple[Path, Path],
) -> None:
    """FSDP2 itself, on CPUs; accelerate would not start it there."""
    found = json.loads((directories[0].parent / "sharded.json").read_text())
    assert found["are_whole"]
    assert found["held_share"] == pytest.approx(0.5)
    assert found["logprob_error"] < 1e-5


def test_only_the_first_process_writes(directories: tuple[Path, Path]) -> None:
    one, two = ({path.name for path in (d / "grpo").iterdir()} for d in directories)
    assert one == two
    assert {"trained", "progress.json", "result.json"} <= two
    for directory in directories:
        result = RunDirectory(directory / "grpo").result()
        assert result is not None
        assert result.is_trained
        assert result.metrics["steps"] == 6
