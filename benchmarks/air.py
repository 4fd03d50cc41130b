"""Does AIR teach? The demo's world with and without it: `python -m benchmarks.air`.

    python -m benchmarks.air --seeds 1 2 3        runs what is not there yet, then prints the table
    python -m benchmarks.air --table              the table alone

It makes the demo's tiny model (0.3 million weights, badly brought up), lets it
answer number questions with its calculator, has people give a thumb to one
session in ten, and trains it from that with our own rewards, samples, advantages
and trainer process. Only the servers are missing: the model is sampled in this
process, and records are handed on as objects. The arms differ in what counts:
thumbs, thumbs and AIR, AIR alone; questions and habits are the same. Each result
is a file in docs/measurements; a run that broke off is begun again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

MEASUREMENTS = Path(__file__).parent.parent / "docs" / "measurements"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", default=["votes", "votes and AIR", "AIR alone"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sessions", type=int, default=800, help="traffic of each round")
    parser.add_argument("--held-out", type=int, default=400, help="questions to measure with")
    parser.add_argument("--models", type=Path, help="where models are kept; else made anew")
    parser.add_argument("--out", type=Path, default=MEASUREMENTS)
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in arguments.seeds:
            run_seed(seed, arguments)
    print(table(arguments.out))


def run_seed(seed: int, arguments: argparse.Namespace) -> None:
    """All arms with one seed; what has a result is left alone."""
    missing = [arm for arm in arguments.arms if not path_of(arguments.out, arm, seed).exists()]
    if not missing:
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    from benchmarks.air_bench.learning import run_arm

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="air-") as name:
        models = arguments.models or Path(name)
        model = models / f"model-{seed}"
        if not (model / "config.json").exists():
            command = [sys.executable, "-m", "ratchet.demo.model", str(model), "--seed", str(seed)]
            subprocess.run(command, check=True)
        for arm in missing:
            directory = Path(name) / arm.replace(" ", "-")
            result = run_arm(
                arm,
                seed,
                model=model,
                directory=directory,
                rounds=arguments.rounds,
                sessions=arguments.sessions,
                held_out=arguments.held_out,
            )
            target = path_of(arguments.out, arm, seed)
            beside = target.with_suffix(".partial")
            beside.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
            beside.replace(target)
            shutil.rmtree(directory)


def path_of(out: Path, arm: str, seed: int) -> Path:
    """Where an arm's result lies."""
    return out / f"air-{arm.lower().replace(' ', '-')}-{seed}.json"


def table(out: Path) -> str:
    """All results as Markdown: each seed, then the mean of each arm."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("air-*.json"))]
    lines = [
        "| what counts | seed | rewarded | accuracy before | accuracy after"
        " | valid first calls before | after | calls per session before | after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys(result["arm"] for result in found):
        own = [figures(result) for result in found if result["arm"] == arm]
        seeds = [result["seed"] for result in found if result["arm"] == arm]
        lines += [row(arm, str(seed), values) for seed, values in zip(seeds, own, strict=True)]
        if len(own) > 1:
            lines.append(row(f"**{arm}**", "mean", [mean(v) for v in zip(*own, strict=True)]))
    return "\n".join(lines)


def figures(result: dict[str, Any]) -> list[float]:
    """One result's cells."""
    first, last = result["held_out"][0], result["held_out"][-1]
    cells: list[float] = [sum(result["rewarded"])]
    for name in ("accuracy", "valid_first_calls", "calls_per_session"):
        cells += [first[name], last[name]]
    return cells


def row(arm: str, seed: str, values: list[float]) -> str:
    """A line of the table."""
    cells = [f"{values[0]:,.0f}", *(f"{value:.3f}" for value in values[1:])]
    return f"| {arm} | {seed} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
