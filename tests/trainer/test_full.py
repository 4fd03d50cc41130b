"""The whole model trains: what comes out is a model directory, exact to the number."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from trainer.batch.samples import Sample
from trainer.runs import OPTIMIZER, PLAN, RunDirectory
from trajectories.resources import PROBE, ProbeSet

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM, Trainer

    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base
    from trainer.full import MASTER
    from trainer.policy import logprobs_of
    from trainer.round import train

WEIGHTS = "model.safetensors"


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return logged_samples(base, 8)


def a_run(
    path: Path, base: Path, samples: list[Sample], algorithm: str, **more: Any
) -> RunDirectory:
    return write_run(path, base, samples, algorithm, weights="full", epochs=1, **more)


def tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("algorithm", ["grpo", "sft", "kto"])
def test_every_number_is_trained_and_the_directory_is_a_model_as_the_base_is(
    algorithm: str, base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    rows = samples if algorithm != "kto" else _graded(samples)
    more = {"kl_to_base": 0.05} if algorithm == "grpo" else {}
    more |= {"sft_threshold": 0.0} if algorithm == "kto" else {}
    run = a_run(tmp_path / "run", base, rows, algorithm, **more)
    metrics = train(run)
    assert metrics["behaviour_gap"] < 1e-4
    before, after = load_file(base / WEIGHTS), load_file(run.trained / WEIGHTS)
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    moved = [n for n in after if not np.array_equal(after[n], before[n])]
    assert len(moved) == len(after), "no layer is left out"
    probes = ProbeSet.from_json((run.trained / PROBE).read_bytes()).probes
    for path, field in ((run.trained, "logprobs"), (base, "base_logprobs")):
        model = AutoModelForCausalLM.from_pretrained(path)
        for probe in probes:
            own = logprobs_of(model, probe.prompt_token_ids, probe.token_ids)
            assert own == pytest.approx(getattr(probe, field), abs=1e-6)
    assert (run.trained / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def _graded(samples: list[Sample]) -> list[Sample]:
    rewards = [1.0 if at % 2 else -1.0 for at in range(len(samples))]
    return [s.model_copy(update={"reward": r}) for s, r in zip(samples, rewards, strict=True)]


def test_what_is_served_in_bfloat16_is_trained_on_in_float32_from_round_to_round(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    small = {"dtype": "bfloat16", "learning_rate": 1e-6}
    first = a_run(tmp_path / "first", base, samples, "sft", **small)
    train(first)
    exact, served = tensors(first.trained / MASTER / WEIGHTS), tensors(first.trained / WEIGHTS)
    assert {tensor.dtype for tensor in served.values()} == {torch.bfloat16}
    assert all(torch.equal(exact[name].bfloat16(), served[name]) for name in exact)
    rounded = {n: t.bfloat16() for n, t in tensors(base / WEIGHTS).items()}
    same = sum(int((served[n] == rounded[n]).sum()) for n in served)
    assert same > 0.9 * sum(t.numel() for t in served.values()), "too small a step to be served"
    second = a_run(tmp_path / "second", base, samples, "sft", **small)
    plan = second.plan().model_copy(
        update={
            "parent_path": str(first.trained),
            "optimizer_path": str(first.trained / OPTIMIZER),
        }
    )
    (second.path / PLAN).write_bytes(plan.to_json())
    train(second)
    again = tensors(second.trained / MASTER / WEIGHTS)
    drift = max(float((again[n] - exact[n]).abs().max()) for n in exact)
    assert 0 < drift < 1e-5, "it went on from the exact numbers, not from the rounded ones"


def test_killed_it_goes_on_from_its_checkpoint_and_ends_with_the_same_numbers(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = a_run(tmp_path / "unbroken", base, samples, "grpo", batch_size=2)
    train(unbroken)
    run = a_run(tmp_path / "run", base, samples, "grpo", batch_size=2)
    step = Trainer.training_step

    def dying(self: Any, *arguments: Any, **rest: Any) -> Any:
        if self.state.global_step == 3:
            raise Killed
        return step(self, *arguments, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", dying)
        with pytest.raises(Killed):
            train(run)
    assert list(run.path.glob("checkpoints/checkpoint-*/model.safetensors"))
    train(run)
    assert (run.trained / WEIGHTS).read_bytes() == (unbroken.trained / WEIGHTS).read_bytes()


def test_several_algorithms_in_turn_each_go_on_from_the_whole_model_before(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    run = a_run(tmp_path / "run", base, samples, "sft+grpo")
    metrics = train(run)
    assert metrics["sft/steps"] > 0
    assert metrics["grpo/steps"] > 0
    probes = ProbeSet.from_json((run.trained / PROBE).read_bytes()).probes
    model = AutoModelForCausalLM.from_pretrained(base)
    own = logprobs_of(model, probes[0].prompt_token_ids, probes[0].token_ids)
    assert own == pytest.approx(probes[0].base_logprobs, abs=1e-6), "what serves is the base"
