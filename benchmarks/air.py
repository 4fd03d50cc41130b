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
    parser.add_argument("--share", type=float, default=0.1, help="of sessions with a thumb")
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
    share = arguments.share
    missing = [
        arm for arm in arguments.arms if not path_of(arguments.out, arm, seed, share).exists()
    ]
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
                share=share,
                held_out=arguments.held_out,
            )
            target = path_of(arguments.out, arm, seed, share)
            beside = target.with_suffix(".partial")
            beside.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
            beside.replace(target)
            shutil.rmtree(directory)


def path_of(out: Path, arm: str, seed: int, share: float) -> Path:
    """Where an arm's result lies."""
    return out / f"air-{share:g}-{arm.lower().replace(' ', '-')}-{seed}.json"


def table(out: Path) -> str:
    """All results as Markdown: the mean of each arm, with the lowest and the highest seed."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("air-*.json"))]
    lines = [
        "| thumbs | what counts | seeds | rewarded | accuracy before | accuracy after"
        " | valid first calls before | after | calls per session before | after |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found.sort(key=lambda result: -result["share"])
    for share, arm in dict.fromkeys((result["share"], result["arm"]) for result in found):
        own = [figures(r) for r in found if (r["share"], r["arm"]) == (share, arm)]
        rewarded, *columns = zip(*own, strict=True)
        cells = [f"{mean(rewarded):,.0f}", *(cell(column) for column in columns)]
        lines.append(f"| {share:.0%} | {arm} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures(result: dict[str, Any]) -> list[float]:
    """One result's figures."""
    first, last = result["held_out"][0], result["held_out"][-1]
    cells: list[float] = [sum(result["rewarded"])]
    for name in ("accuracy", "valid_first_calls", "calls_per_session"):
        cells += [first[name], last[name]]
    return cells


def cell(values: tuple[float, ...]) -> str:
    """The mean of the seeds, and between what they lie."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
