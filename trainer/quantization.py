"""QLoRA: the base model in four bits, the LoRA matrices in full (arXiv 2305.14314).

Only the trainer's copy of the base is quantised; the engine serves the one in
full precision. So the policy that is trained differs a little from the one
that answered (round.py allows for it), and what the engine will have to show
is computed with the full base (`as_served`). bitsandbytes is an extra
(`pip install 'ratchet-gateway[qlora]'`) and needs CUDA to be of any use.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trajectories.errors import SettingsError


def check_quantization(device: str) -> None:
    """Raise SettingsError, saying what to do, unless four bits can be trained on here."""
    if find_spec("bitsandbytes") is None:
        raise SettingsError(
            "trainer.quantization is 4bit but bitsandbytes is not installed: pip install"
            " 'ratchet-gateway[qlora]', or set it to none"
        )
    if device != "cuda" or not torch.cuda.is_available():
        raise SettingsError(
            "trainer.quantization is 4bit, which needs a CUDA GPU, and there is none here"
            " (trainer.device): set it to none"
        )


def load_quantised(path: str, dtype: torch.dtype, device: str) -> Any:
    """The base model as NF4 with quantised constants; what computes with it does so in `dtype`."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    place = torch.cuda.current_device() if device == "cuda" else device
    base = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, quantization_config=config, device_map={"": place}
    )
    return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)


def as_served(adapter: Path, base_path: str, dtype: torch.dtype) -> Any:
    """The adapter on the base in full precision, on the CPU: there is room beside what trains."""
    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=dtype)
    return PeftModel.from_pretrained(base, adapter)
