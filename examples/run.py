"""Agents of real frameworks learn from their own traffic, on CPU: `python -m examples.run`.

    python -m examples.run calculator --seeds 1 2 3        runs what has no result yet
    python -m examples.run calculator --seeds 1 --shuffle  the control: rewards dealt out at random
    python -m examples.run calculator --set trainer.credit=step --variant step    an ablation
    python -m examples.run calculator --picture            draws docs/images/example-calculator.png
    python -m examples.run --table                         the table of docs/results.md

Each run makes its own tiny model, starts vLLM, the gateway, the workers and the agent's process,
and writes one file to docs/measurements/examples.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from examples.arena.results import AS_GIVEN, MEASUREMENTS, SHUFFLED, path_of, read_all, table
from examples.arena.world import World, find_world, world_names
from trajectories.errors import RatchetError

HELD_OUT = 300
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", nargs="?", choices=world_names())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--shuffle", action="store_true", help="the control experiment")
    parser.add_argument("--variant", help="what an ablation is called")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--rounds", type=int, help="policy versions to learn")
    parser.add_argument("--sessions", type=int, help="traffic before each round")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="questions to measure with")
    parser.add_argument("--models", type=Path, help="where tiny models are kept; else made anew")
    parser.add_argument("--directory", type=Path, help="where a run's logs and adapters stay")
    parser.add_argument("--out", type=Path, default=MEASUREMENTS)
    parser.add_argument("--picture", action="store_true", help="draw what there is, run nothing")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    arguments = parser.parse_args()
    check_name(parser, arguments)
    if arguments.table:
        print(table(read_all(arguments.out)))
        return 0
    if arguments.world is None:
        parser.error("which world? " + ", ".join(world_names()))
    world = find_world(arguments.world)
    if not arguments.picture:
        try:
            for seed in arguments.seeds:
                run_seed(world, seed, arguments)
        except RatchetError as error:
            print(error, file=sys.stderr)
            return 1
    return draw(world, arguments.out)


def check_name(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with a usage error where a run would be kept as what it is not."""
    variant = arguments.variant or ""
    if variant.replace("-", " ") == AS_GIVEN or variant.startswith(SHUFFLED):
        parser.error(
            f"--variant {variant!r}: runs that are given nothing, or --shuffle, are so named"
        )
    is_short = arguments.rounds or arguments.sessions or arguments.held_out != HELD_OUT
    if arguments.set and not variant:
        parser.error("--set changes what is measured: name it with --variant")
    if is_short and not variant and arguments.out.resolve() == MEASUREMENTS:
        parser.error(
            "--rounds, --sessions and --held-out change what is measured: name it with --variant,"
            " or keep it elsewhere with --out"
        )


def run_seed(world: World, seed: int, arguments: argparse.Namespace) -> None:
    """One run, unless its result is there."""
    variant = arguments.variant or ("" if arguments.shuffle else AS_GIVEN)
    if arguments.shuffle:
        variant = f"{SHUFFLED} {variant}".rstrip()
    path = path_of(arguments.out, world.name, variant, seed)
    if path.exists():
        print(f"{path} is there", file=sys.stderr)
        return
    from examples.arena.experiment import run

    with tempfile.TemporaryDirectory(prefix="example-") as name:
        result = run(
            world,
            seed,
            variant=variant,
            is_shuffled=arguments.shuffle,
            rounds=arguments.rounds or world.rounds,
            sessions=arguments.sessions or world.sessions,
            held_out=arguments.held_out,
            overrides=arguments.set,
            directory=arguments.directory or Path(name) / "run",
            models=arguments.models or Path(name) / "models",
        )
    result.write(path)
    print(f"{path}: {result.before:.3f} -> {result.after:.3f}", file=sys.stderr)


def draw(world: World, out: Path) -> int:
    """The world's picture of every run with and without shuffling."""
    from examples.arena.picture import draw as draw_picture

    results = [result for result in read_all(out) if result.world == world.name]
    if not results:
        print(f"no result of {world.name} in {out}", file=sys.stderr)
        return 1
    path = IMAGES if out == MEASUREMENTS else out
    draw_picture(results, world.title, path / f"example-{world.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
