"""One rank of two: trains the run directories below a directory, and notes what it saw.

python -m tests.trainer.launch.two_ranks DIRECTORY [--parent PID]

Beside each run: losses.jsonl (of the first rank) and seen-{rank}.jsonl, the
rows that this rank trained on, a line for each of its passes.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import transformers  # noqa: E402

import trainer.round as training  # noqa: E402
from trainer import ranks  # noqa: E402
from trainer.orphan import die_with  # noqa: E402
from trainer.runs import RunDirectory  # noqa: E402


class Losses(training.Divergence):  # type: ignore[misc]
    """Notes each step's loss."""

    path: Path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        super().on_log(args, state, control, logs=logs, **rest)
        if state.is_world_process_zero and "loss" in (logs or {}):
            with self.path.open("a") as file:
                file.write(json.dumps([state.global_step, float(logs["loss"])]) + "\n")


def train_noting(run: Path) -> None:
    """Train one run, as `trainer.round` does."""
    Losses.path = run / "losses.jsonl"
    training.Divergence = Losses  # type: ignore[misc]
    training.train(RunDirectory(run))
    if ranks.is_first():
        (run / "done").touch()
    ranks.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int, default=0)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    transformers.utils.logging.set_verbosity_error()
    for run in sorted(arguments.directory.iterdir()):
        train_noting(run)
    print(os.environ.get("RANK"), "done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
