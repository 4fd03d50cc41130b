"""`ratchet train --from`: a real round on a random model, without Redis, gateway or engine."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from trainer.alone.round import METRICS, Order, RoundFailed, prepare, sort_file, unfinished
from trainer.alone.round import train as train_round
from trainer.alone.traffic import TrafficError
from trainer.training import Training
from trajectories.settings import Settings, TrainerSettings

FAKE_ROUND = (sys.executable, str(Path(__file__).parents[1] / "fake_round.py"))
SETTINGS = Settings(
    trainer=TrainerSettings(min_trajectories=8, min_per_outcome=2, rank=4, threads=1, epochs=1)
)


def rows(count: int, **more: Any) -> Iterator[dict[str, Any]]:
    chance = random.Random(0)
    for number in range(count):
        tokens = [chance.randrange(2, 64) for _ in range(3)]
        yield {
            "prompt_token_ids": [chance.randrange(2, 64) for _ in range(4)],
            "token_ids": tokens,
            "logprobs": [-4.0] * 3,
            "reward": 1.0 if number % 2 else -1.0,
            "task": "even",
            **more,
        }


def written(path: Path, found: Iterator[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in found))
    return path


def sort(order: Order, settings: Settings = SETTINGS) -> Any:
    return sort_file(order, settings, None, lambda: None)


def test_a_file_is_sorted_like_any_traffic(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", rows(10))
    found = sort(Order(path))
    assert (len(found.batch.refs), found.shortages) == (10, [])
    few = sort(Order(written(tmp_path / "few.jsonl", rows(4))))
    assert "4 of 8 usable rewarded trajectories" in str(few.shortages[0])
    assert not sort(Order(tmp_path / "few.jsonl", is_forced=True)).shortages


def test_greedy_answers_and_rows_without_logprobs_are_counted_and_left_out(tmp_path: Path) -> None:
    mixed = [*rows(8), *rows(1, sampling={"temperature": 0}), *rows(2, logprobs=None)]
    found = sort(Order(written(tmp_path / "log.jsonl", iter(mixed))))
    assert len(found.batch.refs) == 8
    assert found.batch.excluded == {"no_ratio": 1, "not_aligned": 2}


def test_wrong_lines_stop_it_unless_they_are_to_be_skipped(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", iter([*rows(8), {}]))
    with pytest.raises(TrafficError, match=r"line 9: prompt_token_ids: there is none"):
        sort(Order(path))
    assert len(sort(Order(path, skips_bad=True)).batch.refs) == 8


def test_a_stopped_round_goes_on_over_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("FAKE_ROUND", "slow")
    out = tmp_path / "out"
    found = sort(Order(written(tmp_path / "log.jsonl", rows(10))))
    directory = prepare(found, SETTINGS, out, base=tmp_path, adapter=None)
    looks = iter([False] * 20)
    training = Training(FAKE_ROUND)

    def wait() -> bool:
        import time

        time.sleep(0.05)
        return (directory.path / "starts").exists() or next(looks, True)

    assert train_round(directory, training, wait) is None
    again = unfinished(out)
    assert again is not None
    monkeypatch.setenv("FAKE_ROUND", "ok")
    result = train_round(again, training, lambda: False)
    assert result is not None
    assert result.is_trained
    assert {line.split()[1] for line in (again.path / "starts").read_text().splitlines()} == {"10"}
    (out / METRICS).write_text("{}")
    with pytest.raises(RoundFailed, match="holds an adapter already"):
        unfinished(out)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_comes_out_that_peft_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.trainer.tiny_model import save_base
    from trainer.alone.__main__ import main
    from trainer.policy import logprobs_of

    base = save_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = []
    for row in rows(10):
        logprobs = logprobs_of(model, row["prompt_token_ids"], row["token_ids"])
        made.append({**row, "logprobs": logprobs})
    path, out = written(tmp_path / "log.jsonl", iter(made)), tmp_path / "out"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    for name, value in {"MIN_TRAJECTORIES": "8", "RANK": "4", "THREADS": "1"}.items():
        monkeypatch.setenv(f"RATCHET_TRAINER_{name}", value)
    monkeypatch.setenv("RATCHET_TRAINER_MIN_PER_OUTCOME", "2")
    arguments = ["alone", "--from", str(path), "--base", str(base)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--dry-run"])
    assert main() == 0
    assert "enough for a round" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out)])
    assert main() == 0, capfd.readouterr().err
    metrics = orjson.loads((out / METRICS).read_bytes())
    assert metrics["samples"] == 10
    assert metrics["behaviour_gap"] < 1e-3
    trained = PeftModel.from_pretrained(model, out)
    assert any(
        bool(weight.abs().sum() > 0)
        for name, weight in trained.named_parameters()
        if "lora_B" in name
    )
