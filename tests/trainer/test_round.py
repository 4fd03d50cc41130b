"""How a round ends: whose fault it was decides whether its rows may be used again."""

import sys
import warnings
from pathlib import Path

import orjson
import pytest

from trainer.batch.samples import Sample

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trainer.round as training_round
    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base
    from trainer.delivery.gate import CONFIG
    from trainer.runs import PLAN, RoundResult, RunDirectory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return logged_samples(base, 8)


def result_of(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> RoundResult:
    monkeypatch.setattr(sys, "argv", ["trainer.round", str(run.path)])
    assert training_round.main() == 0, "it is no crash: nobody starts it again"
    result = run.result()
    assert result is not None
    assert not result.is_trained
    return result


def test_what_the_settings_forbid_uses_no_rows(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("q_proj", "lm_head")
    run = write_run(tmp_path / "run", base, samples, "grpo", target_modules=names)
    result = result_of(run, monkeypatch)
    assert "names lm_head" in result.reason
    assert not result.is_tried


def test_an_adapter_of_another_shape_uses_no_rows(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"r": 99, "lora_alpha": 32, "target_modules": ["q_proj"]}
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / CONFIG).write_bytes(orjson.dumps(config))
    run = write_run(tmp_path / "run", base, samples, "grpo")
    plan = run.plan().model_copy(update={"parent_path": str(tmp_path / "v1")})
    (run.path / PLAN).write_bytes(plan.to_json())
    result = result_of(run, monkeypatch)
    assert "roll back to version 0" in result.reason
    assert not result.is_tried


def test_what_is_wrong_with_the_rows_themselves_uses_them_up(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = [s.model_copy(update={"token_ids": (9, *s.token_ids[1:])}) for s in samples]
    result = result_of(write_run(tmp_path / "run", base, foreign, "grpo"), monkeypatch)
    assert "differ from the recorded ones" in result.reason
    assert result.is_tried
