"""`python -m trainer --once`: one round now, with a progress bar, or a table of what is lacking."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trainer.batch.batching import Lack
from trainer.loop import Loop
from trainer.runs import Phase
from trainer.status import TRAINING, read_progress, read_stage
from trainer.tables import lacking

REFRESH_SECONDS = 0.25


def run_once(loop: Loop, stop: threading.Event, *, force: bool, agent: str | None = None) -> int:
    """The exit status: 0 promoted, 1 failed or rejected, 3 too little to learn from."""
    console = Console(stderr=True)
    try:
        with _progress(loop, console):
            run = loop.run_once(stop, force=force, agent=agent)
    except Lack as lack:
        console.print(lacking(lack))
        return 3
    if run is None:
        console.print("stopped; the next start goes on from here")
        return 1
    if run.phase is not Phase.PROMOTED:
        console.print(f"[bold red]{run.phase.value}[/]: {run.reason}", highlight=False)
        return 1
    console.print(f"[bold green]version {run.version} serves[/] as {run.model}", highlight=False)
    return 0


@contextmanager
def _progress(loop: Loop, console: Console) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    done = threading.Event()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(loop.board.state, total=1.0)

        def follow() -> None:
            while not done.wait(REFRESH_SECONDS):
                board = loop.board
                words, share = [board.state], None
                if board.run_path is not None and board.state == TRAINING:
                    share = read_progress(board.run_path) or None
                    words.append(read_stage(board.run_path))
                text = ": ".join(dict.fromkeys(word for word in (*words, board.note) if word))
                progress.update(
                    task, description=text, completed=share or 0.0, total=1.0 if share else None
                )

        thread = threading.Thread(target=follow, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
