"""QLoRA: refused in words where it cannot be; four bits are trained on, full ones are served."""

from pathlib import Path

import pytest

pytest.importorskip("peft")

import torch
from peft import get_peft_model

from tests.trainer.records import a_sample
from tests.trainer.test_learning import a_plan, a_run
from tests.trainer.tiny_model import save_base
from trainer.policy import (
    RoundRefused,
    fresh_config,
    load_policy,
    logprobs_of,
    make_optimizer,
    save_policy,
)
from trainer.quantization import check_quantization, load_quantised
from trainer.round import train
from trajectories.errors import SettingsError
from trajectories.resources import PROBE, ProbeSet

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", width=64)  # as wide as a block of four-bit numbers


@NO_GPU
def test_without_a_gpu_or_without_bitsandbytes_it_is_said_what_to_do(base: Path) -> None:
    with pytest.raises(SettingsError, match=r"ratchet-gateway\[qlora\]|needs a CUDA GPU"):
        check_quantization("cpu")
    with pytest.raises(RoundRefused, match="set it to none"):
        load_policy(a_plan(base, quantization="4bit"))


@NO_GPU
def test_a_round_in_four_bits_fails_for_good_without_a_gpu(base: Path, tmp_path: Path) -> None:
    directory = a_run(tmp_path / "run", a_plan(base, quantization="4bit"), [a_sample("t", 1.0)])
    with pytest.raises(RoundRefused, match=r"trainer\.quantization is 4bit"):
        train(directory)


def test_matrices_learn_on_four_bits_and_probes_are_those_of_the_full_base(
    base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")  # its CPU kernels do for this
    plan = a_plan(base)
    quantised = load_quantised(str(base), torch.float32, "cpu")
    kinds = {type(module).__name__ for module in quantised.modules()}
    assert "Linear4bit" in kinds
    model = get_peft_model(quantised, fresh_config(plan.trainer))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    ids = torch.tensor([[2, 3, 4, 5, 6]])
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    optimizer = make_optimizer(model, plan.trainer, None)
    optimizer.step()
    sample = a_sample("t", 1.0)
    save_policy(
        tmp_path / "v1",
        model=model,
        samples=[sample],
        optimizer=optimizer,
        dtype="float32",
        full_base=str(base),
    )
    (probe,) = ProbeSet.from_json((tmp_path / "v1" / PROBE).read_bytes()).probes
    served, _ = load_policy(plan.model_copy(update={"parent_path": str(tmp_path / "v1")}))
    full = logprobs_of(served, sample.prompt_token_ids, sample.token_ids)
    assert list(probe.logprobs) == pytest.approx(full, abs=1e-6)
    four_bits = logprobs_of(model, sample.prompt_token_ids, sample.token_ids)
    assert max(abs(a - b) for a, b in zip(full, four_bits, strict=True)) > 1e-4
