"""Steps are told to whom the settings name, under the run's id, and nowhere else."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base
    from trainer.reporting import Reporters
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
def test_a_round_ends_well_without_a_reporter_that_is_not_installed(
    base: Path, tmp_path: Path
) -> None:
    samples = logged_samples(base, 4)
    run = write_run(tmp_path / "run", base, samples, "sft", report_to=("wandb",))
    assert train(run)["steps"] > 0
    assert run.notes() == ("wandb was not told of all steps (RuntimeError, see round.log)",)


class Away:
    """A reporter whose server goes away."""

    def __init__(self) -> None:
        self.asked = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.asked += 1

    def on_log(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise ConnectionError("https://me:word@nobody")


def test_a_reporter_that_fails_is_asked_no_more_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Away] = []

    def make() -> Away:
        made.append(Away())
        return made[-1]

    monkeypatch.setattr("trainer.reporting.get_reporting_integration_callbacks", lambda _: [make])
    notes: list[str] = []
    reporters = Reporters(notes.append)
    reporters.add("mlflow")
    reporters.add("wandb")
    made[1].on_log = made[1].on_train_begin  # type: ignore[method-assign]
    reporters.on_train_begin(None, None, None, model=None)
    for _ in range(3):
        reporters.on_log(None, None, None, logs={})
    assert [one.asked for one in made] == [2, 4]
    assert notes == ["mlflow was not told of all steps (ConnectionError, see round.log)"]
