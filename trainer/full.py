"""Full weights: the whole model trains, and what comes out is a model directory.

Numbers are kept and moved in float32 whatever the engine serves: an update of
1e-5 is lost in bfloat16, which has three digits. With `trainer.dtype`
bfloat16 the forward pass is autocast to it, the version that is published is
rounded to it, and the numbers behind it stay in the run (`MASTER`) for the
next round. Of the base model there is a second copy only where something is
held against it; the probes say what the version before answers, since that
is what an engine serves whose reload did nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoModelForCausalLM

from trajectories.settings import TrainerSettings

MASTER = (
    "master"  # below what a round leaves: its weights in float32, where they are served in less
)
# What makes a model directory whole beside the weights and their configuration.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def load_whole(base_path: str, parent_path: str | None, moments_path: str | None) -> Any:
    """The model that a round goes on from, every number of it trainable, in float32."""
    start = Path(parent_path or base_path)
    if parent_path is not None and moments_path is not None:
        exact = Path(moments_path).with_name(MASTER)
        start = exact if exact.is_dir() else start
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model.requires_grad_(True)
    return model


def load_frozen(path: str | Path, settings: TrainerSettings) -> Any:
    """A model to hold something against, as the engine has it."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, settings.dtype))
    return model.requires_grad_(False).eval()


def save_whole(
    directory: Path,
    *,
    model: Any,
    weights: Mapping[str, torch.Tensor],
    base_path: str,
    dtype: str,
) -> None:
    """Write a model directory as the engine and anybody else reads it."""
    served = getattr(torch, dtype)
    model.save_pretrained(directory, state_dict={n: t.to(served) for n, t in weights.items()})
    config = orjson.loads((directory / "config.json").read_bytes())
    config["dtype"] = dtype
    (directory / "config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    for name in TOKENIZER:
        if (Path(base_path) / name).is_file():
            shutil.copyfile(Path(base_path) / name, directory / name)
    if served is not torch.float32:
        model.save_pretrained(directory / MASTER, state_dict=dict(weights))
