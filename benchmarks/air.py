"""Does AIR teach? The demo's world with and without it: `python -m benchmarks.air`.

    python -m benchmarks.air --seeds 1 2 3        runs what is not there yet, then prints the table
    python -m benchmarks.air --table              the table alone

It makes the demo's tiny model (0.3 million weights, badly brought up), lets it
answer number questions with its calculator, has people give a thumb to one
session in ten, and trains it from that with our own rewards, samples, advantages
and trainer process. Only the servers are missing: the model is sampled in this
process, and records are handed on as objects. The arms differ in what counts:
thumbs, thumbs and AIR, AIR alone; questions and habits are the same. Each result
is a file in docs/measurements/air; a run that broke off is begun again.
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

MEASURED = ("accuracy", "valid_first_calls", "calls_per_session")
MEASUREMENTS = Path(__file__).parent.parent / "docs" / "measurements" / "air"


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
    arguments.out.mkdir(parents=True, exist_ok=True)
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
        "| thumbs | what counts | seeds | rewarded | accuracy: base, 1 round, last"
        " | valid first calls: base, 1 round, last | calls per session: base, 1 round, last |",
        "|---|---|---|---|---|---|---|",
    ]
    found.sort(key=lambda result: -result["share"])
    for share, arm in dict.fromkeys((result["share"], result["arm"]) for result in found):
        own = [r for r in found if (r["share"], r["arm"]) == (share, arm)]
        rewarded = mean(sum(result["rewarded"]) for result in own)
        cells = [cell(own, name) for name in MEASURED]
        row = [f"{share:.0%}", arm, str(len(own)), f"{rewarded:,.0f}", *cells]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def cell(results: list[dict[str, Any]], name: str) -> str:
    """Means over the seeds at three times, and between what the last ones lie."""
    times = [[result["held_out"][place][name] for result in results] for place in (0, 1, -1)]
    means = ", ".join(f"{mean(values):.3f}" for values in times)
    return f"{means} ({min(times[-1]):.3f} to {max(times[-1]):.3f})"


if __name__ == "__main__":
    main()
