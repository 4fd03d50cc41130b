"""Which estimator learns from logged traffic: `python -m benchmarks.estimators`.

    python -m benchmarks.estimators --seeds 1 2 3   runs what is missing, then prints the tables
    python -m benchmarks.estimators --table         the tables alone
    python -m benchmarks.estimators --quick         a few seconds of each, to see that it runs

A transformer of 25,000 weights is brought up on right and wrong answers to eight
kinds of questions, and learns from its own traffic with our samples, advantages
and loss, in this process. Accuracy is the exact chance of a right answer over
questions that traffic never asks: nothing is sampled for it. Six questions:
what a reward is held against; what is done about a log that others wrote; how
credit is spread over calls; what is done about missing rewards; which algorithm
learns most from equal sessions; what further answers to recorded prompts add.
Each table and seed has a file in docs/measurements/estimators, written anew
after each arm: a run that broke off goes on with the arm it was at.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEASUREMENTS = Path(__file__).parent.parent / "docs" / "measurements" / "estimators"
TABLES = ("baselines", "corrections", "credits", "missing", "algorithms", "siblings")
Job = tuple[str, str, Callable[[Any, int], dict[str, object]]]  # world, arm, what runs it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--out", type=Path, default=MEASUREMENTS)
    parser.add_argument("--json", type=Path, help="put all results into one file, too")
    parser.add_argument("--page", type=Path, help="put the tables into it, such as docs/results.md")
    parser.add_argument("--table", action="store_true", help="print the tables and do nothing else")
    parser.add_argument(
        "--quick", action="store_true", help="next to nothing of each; no file kept"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        with tempfile.TemporaryDirectory(prefix="estimators-") as name:
            measure(Path(name), [1], arguments.only, is_quick=True)
            show(Path(name), arguments.json)
        return
    if not arguments.table:
        measure(arguments.out, arguments.seeds, arguments.only)
    show(arguments.out, arguments.json)
    if arguments.page:
        from benchmarks.estimator_bench.page import read, rewritten, tables

        arguments.page.write_text(
            rewritten(arguments.page.read_text(), tables(read(arguments.out, TABLES)))
        )


def measure(out: Path, seeds: list[int], tables: list[str], *, is_quick: bool = False) -> None:
    """Run every arm of the tables that has no result yet."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    from benchmarks.estimator_bench.brain import bring_up

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        base = None
        for table in tables:
            path = out / f"{table}-{seed}.json"
            found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
            for world, arm, job in jobs(table, is_quick=is_quick):
                if arm in found.get(world, {}):
                    continue
                base = base or bring_up(seed, *((20, 16) if is_quick else ()))
                started = time.process_time()
                result = rounded(job(base, seed))
                result["cpu_seconds"] = round(time.process_time() - started, 1)
                found.setdefault(world, {})[arm] = result
                write(path, found)
                print(f"seed {seed}, {table}, {world}, {arm}: {result['curve'][-1]}", flush=True)


def jobs(table: str, *, is_quick: bool = False) -> Iterator[Job]:
    """The arms of a table in their order."""
    from benchmarks.estimator_bench import (
        algorithms,
        baselines,
        corrections,
        credits,
        missing,
        siblings,
    )

    if table == "baselines":
        size = baselines.Size(1, 64) if is_quick else baselines.Size()
        for world in baselines.WORLDS:
            for name, arm in baselines.ARMS.items():
                yield (
                    world,
                    name,
                    lambda base, seed, w=world, a=arm: baselines.run(w, a, base, seed, size),
                )
    elif table == "corrections":
        rows = 64 if is_quick else corrections.ROWS
        for name, drill in corrections.ARMS.items():
            yield (
                "one log",
                name,
                lambda base, seed, d=drill: corrections.run(d, base, seed, rows=rows),
            )
    elif table == "credits":
        length = credits.Size(1, 8) if is_quick else credits.Size()
        for world, rules in credits.WORLDS.items():
            for way in credits.ARMS:
                yield (
                    world,
                    way,
                    lambda base, seed, r=rules, c=way: credits.run(r, c, base, seed, length),
                )
    elif table == "missing":
        traffic = missing.Size(2, 200) if is_quick else missing.Size()
        for name, voices in missing.ARMS.items():
            yield (
                "2 % labels",
                name,
                lambda base, seed, v=voices: missing.run(v, base, seed, traffic),
            )
    elif table == "algorithms":
        sessions = algorithms.Size(1, 64) if is_quick else algorithms.Size()
        for world, place in algorithms.WORLDS.items():
            for name, course in algorithms.ARMS.items():
                yield (
                    world,
                    name,
                    lambda base, seed, p=place, a=course: algorithms.run(
                        p, a, base, seed, sessions
                    ),
                )
    elif table == "siblings":
        little = siblings.Size(1, 16) if is_quick else siblings.Size()
        for world in siblings.WORLDS:
            for name, kind in siblings.ARMS.items():
                yield (
                    world,
                    name,
                    lambda base, seed, w=world, k=kind: siblings.run(w, k, base, seed, little),
                )


def rounded(result: dict[str, Any]) -> dict[str, Any]:
    """Accuracies to four digits, the rest to one."""
    places = {"curve": 4, "tasks": 4}
    return {
        key: [round(v, places[key]) for v in value]
        if key in places
        else round(value, 1)
        if isinstance(value, float)
        else value
        for key, value in result.items()
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """All or nothing."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(path)


def show(out: Path, target: Path | None) -> None:
    """Print the tables; with `target` put what they are made of into one file."""
    from benchmarks.estimator_bench.page import read, tables

    found = read(out, TABLES)
    if target is not None:
        target.write_text(json.dumps(found, indent=1) + "\n")
    print("\n\n".join(tables(found).values()))


if __name__ == "__main__":
    main()
