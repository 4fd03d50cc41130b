"""Stands in for `python -m trainer.round`: leaves the same files within a moment, without torch.

An environment variable FAKE_ROUND says how: `ok`, `slow` (ten seconds), `fail`
(a reason to give up), `untried` (one that is no fault of the rows), `crash`, or `nan`.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from trainer.orphan import die_with
from trainer.runs import RunDirectory

TENSOR = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def write_trained(trained: Path, *, rank: int, seed: int, is_nan: bool = False) -> None:
    random = np.random.default_rng(seed)
    weights = {
        TENSOR.format("A"): random.normal(size=(rank, 8)).astype(np.float32),
        TENSOR.format("B"): random.normal(size=(8, rank)).astype(np.float32),
    }
    if is_nan:
        weights[TENSOR.format("A")][0, 0] = np.nan
    trained.mkdir(parents=True, exist_ok=True)
    save_file(weights, trained / "adapter_model.safetensors")
    config = {"r": rank, "target_modules": ["q_proj"], "bias": "none", "peft_type": "LORA"}
    (trained / "adapter_config.json").write_text(json.dumps(config))
    write_probe(trained, seed)


def write_whole(trained: Path, *, seed: int, is_nan: bool = False) -> None:
    """All weights of the base model that the tests' settings have."""
    weights = np.full(4, np.nan if is_nan else 1.0 + seed, np.float32)
    trained.mkdir(parents=True, exist_ok=True)
    save_file({"w": weights}, trained / "model.safetensors")
    (trained / "config.json").write_text('{"model_type": "tiny"}')
    (trained / "optimizer.pt").write_bytes(b"moments")
    write_probe(trained, seed)


def write_probe(trained: Path, seed: int) -> None:
    probe = {
        "prompt_token_ids": [1, 2],
        "token_ids": [3, 4],
        "logprobs": [-1.0 - seed % 7, -2.0],
        "base_logprobs": [-0.5, -0.6],
    }
    (trained / "probe.json").write_text(json.dumps({"dtype": "float32", "probes": [probe]}))


def main() -> None:
    directory = RunDirectory(Path(sys.argv[1]))
    die_with(int(sys.argv[3]))
    how = os.environ.get("FAKE_ROUND", "ok")
    rows = len(directory.samples())
    with (directory.path / "starts").open("a") as file:
        file.write(f"{os.getpid()} {rows}\n")
    if how == "crash":
        for name in ("checkpoints/checkpoint-9", "checkpoints-1", "legs", ".trained.new"):
            (directory.path / name).mkdir(parents=True, exist_ok=True)
        sys.exit("out of memory")
    if how == "slow":
        for step in range(200):
            (directory.path / "progress.json").write_text(json.dumps({"step": step, "total": 200}))
            time.sleep(0.05)
    if how == "fail":
        result = {"is_trained": False, "reason": "training diverged at step 3: loss is nan"}
    elif how == "untried":
        result = {"is_trained": False, "is_tried": False, "reason": "'mine' made no trainer"}
    else:
        seed = sum(directory.path.name.encode())
        trainer = directory.plan().trainer
        if trainer.weights == "full":
            write_whole(directory.trained, seed=seed, is_nan=how == "nan")
        else:
            write_trained(directory.trained, rank=trainer.rank, seed=seed, is_nan=how == "nan")
        result = {"is_trained": True, "metrics": {"loss": 0.5}}
    (directory.path / "result.new").write_text(json.dumps(result))
    (directory.path / "result.new").replace(directory.path / "result.json")


if __name__ == "__main__":
    main()
