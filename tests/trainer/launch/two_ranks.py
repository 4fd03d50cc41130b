"""One rank of two: trains the run directories below a directory, and notes what it saw.

python -m tests.trainer.launch.two_ranks DIRECTORY [--parent PID]

Beside each run: losses.jsonl, of the first rank. Afterwards the two share out a
model as FSDP2 does, and note in sharded.json beside DIRECTORY what came of it.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

import trainer.round as training  # noqa: E402
from trainer import ranks  # noqa: E402
from trainer.callbacks import Divergence  # noqa: E402
from trainer.orphan import die_with  # noqa: E402
from trainer.policy import load_policy, logprobs_of  # noqa: E402
from trainer.runs import RunDirectory  # noqa: E402
from trainer.sharding import AtStart, trained_weights  # noqa: E402


class Losses(Divergence):  # type: ignore[misc]
    """Notes each step's loss."""

    path: Path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        super().on_log(args, state, control, logs=logs, **rest)
        if state.is_world_process_zero and "loss" in (logs or {}):
            with self.path.open("a") as file:
                file.write(json.dumps([state.global_step, float(logs["loss"])]) + "\n")


def train_noting(run: Path) -> None:
    """Train one run by `trainer.round` itself."""
    Losses.path = run / "losses.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Divergence", Losses)
        patch.setattr(sys, "argv", ["trainer.round", str(run)])
        assert training.main() == 0


def share_out(run: RunDirectory) -> dict[str, Any]:
    """Shard a policy over both ranks, on CPUs, and put it together again."""
    torch.manual_seed(0)
    model, _ = load_policy(run.plan())
    before, asked = trained_weights(model), ((3, 4), (5, 6))
    logprobs = logprobs_of(model, *asked)
    mesh = init_device_mesh("cpu", (ranks.count(),))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    after = trained_weights(model)
    held = sum(p.to_local().numel() for p in model.parameters() if p.requires_grad)
    again: list[float] = []
    AtStart(lambda found: again.extend(logprobs_of(found, *asked))).on_train_begin(
        None, transformers.TrainerState(), None, model=model
    )
    return {
        "are_whole": all(torch.equal(before[name], after[name]) for name in before | after),
        "held_share": held / sum(tensor.numel() for tensor in after.values()),
        "logprob_error": max(abs(a - b) for a, b in zip(logprobs, again, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int, default=0)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    transformers.utils.logging.set_verbosity_error()
    for run in sorted(arguments.directory.iterdir()):
        train_noting(run)
    found = share_out(RunDirectory(run))
    if ranks.is_first():
        (arguments.directory.parent / "sharded.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
