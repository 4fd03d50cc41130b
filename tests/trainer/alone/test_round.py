"""`ratchet train --from`: a real round on a random model, without Redis, gateway or engine."""

import random
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from trainer.advantages.tracker import Remembered, Tracker, recall
from trainer.algorithms.plugins import find
from trainer.algorithms.sequence import taken
from trainer.alone.order import Order, check_start, in_writing
from trainer.alone.round import METRICS, RoundFailed, deliver, prepare, sort_file, unfinished
from trainer.alone.round import train as train_round
from trainer.alone.show import start_of
from trainer.alone.traffic import TrafficError
from trainer.runs import RoundResult, RunDirectory
from trainer.training import Training
from trajectories.errors import SettingsError
from trajectories.settings import RewardSettings, Settings, TrainerSettings

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
    order = Order(written(tmp_path / "log.jsonl", rows(10)))
    directory = prepare(sort(order), order, SETTINGS, out, base=tmp_path)
    asked = in_writing(order, SETTINGS, tmp_path)
    looks = iter([False] * 20)
    training = Training(FAKE_ROUND)

    def wait() -> bool:
        import time

        time.sleep(0.05)
        return (directory.path / "starts").exists() or next(looks, True)

    assert train_round(directory, training, wait) is None
    again = unfinished(out, asked)
    assert again is not None
    monkeypatch.setenv("FAKE_ROUND", "ok")
    result = train_round(again, training, lambda: False)
    assert result is not None
    assert result.is_trained
    assert {line.split()[1] for line in (again.path / "starts").read_text().splitlines()} == {"10"}
    (out / METRICS).write_text("{}")
    with pytest.raises(RoundFailed, match="holds an adapter already"):
        unfinished(out, asked)


def learned_from(order: Order, out: Path, settings: Settings = SETTINGS) -> int:
    """How many samples a round takes for GRPO, of those that were sorted out for it."""
    found = sort(order, settings)
    directory = prepare(found, order, settings, out, base=out)
    asked = find("grpo").asks(settings.trainer)
    samples = taken(directory.samples(), asked, directory.plan().parent)
    assert len(samples) == len(found.batch.samples)
    return len(samples)


def test_without_an_adapter_what_the_base_sampled_is_learned_from(tmp_path: Path) -> None:
    versions = [row for version in (0, 9) for row in rows(10, version=version)]
    order = Order(written(tmp_path / "log.jsonl", iter(versions)))
    assert learned_from(order, tmp_path) == 10
    assert sort(order).batch.excluded == {"stale": 10}
    later = Order(written(tmp_path / "later.jsonl", rows(10, version=8)))
    assert "0 of 8 usable rewarded trajectories" in str(sort(later).shortages[0])


def test_an_adapter_is_one_version_on_from_the_file_unless_its_version_is_said(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "log.jsonl", (row | {"version": 3} for row in rows(10)))
    for version, parent in ((None, 4), (3, 3), (7, 7)):
        order = Order(path, adapter=tmp_path, version=version)
        assert sort(order).parent == parent
        assert learned_from(order, tmp_path) == 10
    assert sort(Order(path, adapter=tmp_path, version=8)).batch.excluded == {"stale": 10}


def test_an_adapter_made_here_brings_its_moments_and_tracker(tmp_path: Path) -> None:
    order = Order(written(tmp_path / "log.jsonl", rows(10)), adapter=tmp_path / "before")
    directory = prepare(sort(order), order, SETTINGS, tmp_path / "one", base=tmp_path)
    assert "without the optimizer's moments" in start_of(directory.plan())
    moments = tmp_path / "before" / "round" / "trained" / "optimizer.pt"
    moments.parent.mkdir(parents=True)
    moments.touch()
    tracker = Tracker(values=(a_memory(0.5),))
    moments.with_name("tracker.json").write_bytes(tracker.to_json())
    directory = prepare(sort(order), order, SETTINGS, tmp_path / "two", base=tmp_path)
    assert "with the optimizer's moments" in start_of(directory.plan())
    assert directory.plan().optimizer_path == str(moments)
    assert recall(directory.plan().optimizer_path) == tracker


def a_memory(mean: float) -> Remembered:
    return Remembered(tenant="default", agent=None, task="even", mean=mean, weight=4, version=1)


def test_a_round_that_failed_is_begun_anew(tmp_path: Path) -> None:
    order = Order(written(tmp_path / "log.jsonl", rows(10)))
    directory = prepare(sort(order), order, SETTINGS, tmp_path, base=tmp_path / "wrong")
    failed = RoundResult(is_trained=False, reason="the base model is another one")
    (directory.path / "result.json").write_bytes(failed.to_json())
    assert unfinished(tmp_path, in_writing(order, SETTINGS, tmp_path / "right")) is None
    again = prepare(sort(order), order, SETTINGS, tmp_path, base=tmp_path / "right")
    assert again.plan().base_path == str(tmp_path / "right")
    assert again.result() is None


def test_a_round_goes_on_as_it_was_begun_or_not_at_all(tmp_path: Path) -> None:
    order = Order(written(tmp_path / "log.jsonl", rows(10)))
    prepare(sort(order), order, SETTINGS, tmp_path, base=tmp_path)
    other = SETTINGS.with_algorithm("sft")
    strict = SETTINGS.model_copy(update={"rewards": RewardSettings(min_labels_per_source=9)})
    for asked, said in (
        (in_writing(replace(order, agent="planner"), SETTINGS, tmp_path), "--agent was None, and"),
        (in_writing(order, other, tmp_path), "trainer.algorithm was grpo, and is sft"),
        (in_writing(order, strict, tmp_path), r"\[rewards\] or .* is another now"),
    ):
        with pytest.raises(RoundFailed, match=rf"begun with something else: {said}"):
            unfinished(tmp_path, asked)
    assert unfinished(tmp_path, in_writing(order, SETTINGS, tmp_path)) is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"version": 3}, "--version is that of --adapter"),
        ({"adapter": Path("none"), "version": 3}, "holds no adapter_config.json"),
    ],
)
def test_an_order_that_cannot_start_says_so(more: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_start(Order(Path("log.jsonl"), **more))


def test_a_base_has_to_be_named_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from trainer.alone.__main__ import main

    path = written(tmp_path / "log.jsonl", rows(10))
    monkeypatch.setattr(sys, "argv", ["alone", "--from", str(path), "--out", str(tmp_path)])
    assert main() == 2
    assert "neither --base nor trainer.base_model_path" in caplog.text


def test_memory_grows_by_ids_and_rewards_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    long = [7] * 5_000
    written(path, (row | {"prompt_token_ids": long} for row in rows(200)))
    settings = SETTINGS.model_copy(update={"trainer": TrainerSettings(max_length=8192)})
    sort(Order(path), settings)
    tracemalloc.start()
    try:
        found = sort_file(Order(path), settings, tmp_path, lambda: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.batch.samples) == 200
    assert peak < 200 * 6_000 + (1 << 20), "all ids would be 8 MB of pointers alone"


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
    monkeypatch.setenv("RATCHET_TRAINER_LEARNING_RATE", "0.01")
    arguments = ["alone", "--from", str(path), "--base", str(base)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--dry-run"])
    assert main() == 0
    assert "enough for a round" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out), "--algorithm", "sft"])
    assert main() == 0, capfd.readouterr().err
    metrics = orjson.loads((out / METRICS).read_bytes())
    assert metrics["samples"] == 5
    assert metrics["behaviour_gap"] < 1e-3
    trained = PeftModel.from_pretrained(model, out)
    assert any(
        bool(weight.abs().sum() > 0)
        for name, weight in trained.named_parameters()
        if "lora_B" in name
    )
    # On from there, over the same file, which the adapter did not sample.
    two = ["--out", str(tmp_path / "two"), "--adapter", str(out)]
    monkeypatch.setenv("RATCHET_TRAINER_BASE_MODEL_PATH", str(base))
    monkeypatch.setattr(sys, "argv", ["alone", "--from", str(path), *two])
    assert main() == 0, capfd.readouterr().err
    metrics = orjson.loads((tmp_path / "two" / METRICS).read_bytes())
    assert (metrics["samples"], metrics["staleness"]) == (10, 1)
    moments = RunDirectory(tmp_path / "two" / "round").plan().optimizer_path
    assert moments == str(out / "round" / "trained" / "optimizer.pt")


def test_a_whole_model_comes_out_as_a_directory_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    fields = {**SETTINGS.trainer.model_dump(), "weights": "full"}
    settings = SETTINGS.model_copy(update={"trainer": TrainerSettings(**fields)})
    order = Order(written(tmp_path / "log.jsonl", rows(10)))
    out = tmp_path / "out"
    directory = prepare(sort(order, settings), order, settings, out, base=tmp_path)
    result = train_round(directory, Training(FAKE_ROUND), lambda: False)
    assert result is not None
    deliver(directory, out, result)
    assert {path.name for path in out.glob("*.*")} >= {"model.safetensors", "config.json", METRICS}
    assert not (out / "probe.json").exists()
    check_start(replace(order, adapter=out), is_full=True)
    with pytest.raises(SettingsError, match=r"holds no config.json: is it a whole model"):
        check_start(replace(order, adapter=tmp_path), is_full=True)
