"""Steps are told to whom the settings name, under the run's id, and nowhere else."""

import importlib.util
import warnings
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base
    from trainer.policy import RoundRefused
    from trainer.round import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def test_tensorboard_gets_each_step_in_the_directory_of_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    for name in ("TENSORBOARD_LOGGING_DIR", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(name, "elsewhere")  # put back after the test
    samples = logged_samples(base, 4)
    run = write_run(tmp_path / "run", base, samples, "sft", report_to=("tensorboard",))
    train(run)
    (file,) = (run.path / "reports").iterdir()
    told = file.read_bytes()
    assert told.count(b"train/loss") >= 2, "one a step"
    assert b'"run_name": "sft"' in told


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_who_is_not_installed_is_named(base: Path, tmp_path: Path) -> None:
    samples = logged_samples(base, 4)
    run = write_run(tmp_path / "run", base, samples, "sft", report_to=("wandb",))
    with pytest.raises(RoundRefused, match=r"trainer\.report_to names wandb"):
        train(run)
