"""What is shown of a round from a file: tables before, a bar meanwhile, where it is afterwards."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trainer.alone.order import Order, in_writing
from trainer.alone.round import (
    LEFT_OUT,
    METRICS,
    Found,
    deliver,
    prepare,
    sort_file,
    train,
    unfinished,
)
from trainer.base import fingerprint
from trainer.runs import Plan
from trainer.status import read_progress, read_stage
from trainer.tables import trajectories_table, whole
from trainer.training import Training
from trajectories.settings import Settings

LOOK_SECONDS = 0.2
NOT_ENOUGH = 3


def look_into(order: Order, settings: Settings) -> int:
    """Print what a round would learn from the file; 0 when it is enough."""
    console = Console(highlight=False)
    found = _sorted(order, settings, None)
    for error in found.errors:
        console.print(f"left out: {error}", markup=False)
    console.print(f"a round of {settings.trainer.algorithm} from version {found.parent}")
    console.print(whole(found.batch, found.shortages))
    return NOT_ENOUGH if found.shortages else 0


def run_round(
    order: Order,
    settings: Settings,
    *,
    out: Path,
    base: Path,
    training: Training,
    stop: threading.Event,
) -> int:
    """Do the round, or go on with the one in `out`; the exit status."""
    console = Console(stderr=True, highlight=False)
    directory = unfinished(out, in_writing(order, settings, base))
    if directory is None:
        out.mkdir(parents=True, exist_ok=True)
        fingerprint(base, out / "base.json")  # says now if there are no weights
        found = _sorted(order, settings, out)
        console.print(trajectories_table(found.batch))
        if found.shortages:
            lacking = "; ".join(map(str, found.shortages))
            console.print(f"too little to learn from: {lacking}. --force takes it all the same")
            return NOT_ENOUGH
        directory = prepare(found, order, settings, out, base=base)
        console.print(start_of(directory.plan()), markup=False)
    else:
        console.print(f"going on with the round in {out}", markup=False)
    with _bar(console) as progress:
        bar = progress.add_task("starting", total=None)

        def wait() -> bool:
            share = read_progress(directory.path)
            progress.update(
                bar,
                description=read_stage(directory.path) or "starting",
                completed=share,
                total=1.0 if share else None,  # None: a bar that only moves
            )
            return stop.wait(LOOK_SECONDS)

        result = train(directory, training, wait)
    if result is None:
        console.print("stopped; the same command goes on from here")
        return 1
    deliver(directory, out, result)
    for note in result.notes:
        console.print(note, markup=False)
    kind = "a whole model" if directory.plan().trainer.weights == "full" else "an adapter"
    console.print(f"{kind} is in {out}, its figures in {METRICS}, the rest in {LEFT_OUT}")
    return 0


def start_of(plan: Plan) -> str:
    """Where a round starts, in words."""
    if plan.parent_path is None:
        return "it starts from the base model, version 0"
    kind = "whole model" if plan.trainer.weights == "full" else "adapter"
    start = f"it starts from version {plan.parent}, the {kind} in {plan.parent_path}"
    if plan.optimizer_path is None:
        return f"{start}, without the optimizer's moments and the tracker: round/ is not beside it"
    return f"{start}, with the optimizer's moments, and its tracker if there is one"


def _sorted(order: Order, settings: Settings, directory: Path | None) -> Found:
    with _bar(Console(stderr=True)) as progress:
        bar = progress.add_task("reading", total=None)
        return sort_file(order, settings, directory, lambda: progress.advance(bar))


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress
