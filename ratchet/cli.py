"""`ratchet`: every command a person types.

Commands are thin: they load the settings, open Redis, call one function and
show what it returns. `ratchet --install-completion` sets up the shell.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratchet import __version__, access, judges, traffic, training
from ratchet.forget import forget
from ratchet.policies import policies, rollback, standing
from ratchet.redis_server import open_redis
from trajectories.connection import RedisError
from trajectories.errors import RatchetError
from trajectories.settings import Settings, load_settings
from trajectories.signals import stop_on_signals
from trajectories.store import Store

app = typer.Typer(
    name="ratchet",
    help="A gateway that trains the model behind it from its own traffic.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(access.app, name="keys")
app.add_typer(traffic.rewards, name="rewards")
app.command(name="export")(traffic.export)
app.command(name="import")(traffic.import_file)
app.add_typer(judges.app, name="judges")
app.command()(forget)
app.command()(policies)
app.command()(rollback)
app.command()(training.train)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "white")

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept (default: data_dir).")
]


def _settings(data_dir: Path | None = None, **overrides: Any) -> Settings:
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    return load_settings(**overrides)


@app.command()
def up(data_dir: DataDir = None) -> None:
    """Run the whole loop here: Redis, gateway, dispatcher, worker, trainer (and vLLM if set)."""
    from ratchet.up import Loop

    settings = _settings(data_dir)
    stop = stop_on_signals()
    colours: dict[str, str] = {}

    def sink(name: str, line: str) -> None:
        colour = colours.setdefault(name, COLOURS[len(colours) % len(COLOURS)])
        out.print(Text.assemble((f"{name:<10} ", colour), line))

    loop = Loop(settings, sink)
    try:
        loop.start(stop)
        if not stop.is_set():
            address = f"http://{settings.gateway.host}:{settings.gateway.port}"
            out.print(f"[bold green]ready[/]  OPENAI_BASE_URL={address}/v1")
        loop.run(stop)
    finally:
        out.print("stopping")
        loop.stop()


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Varies the model, the questions and the users.")] = 1,
    rounds: Annotated[
        int, typer.Option(min=1, help="Policy versions to learn before the last measurement.")
    ] = 8,
    directory: Annotated[
        Path, typer.Option(help="Where the demo's model, traffic and adapters go.")
    ] = Path("ratchet-demo"),
    results: Annotated[Path, typer.Option(help="The figures, as JSON.")] = Path(
        "demo-results.json"
    ),
    shuffle_rewards: Annotated[
        bool, typer.Option(help="Control experiment: the same loop on permuted rewards.")
    ] = False,
) -> None:
    """Watch a tiny model get better from nothing but its own traffic. No GPU, no download."""
    from ratchet.demo.show import run_demo

    stop = stop_on_signals()
    run_demo(
        seed=seed,
        rounds=rounds,
        directory=directory,
        results=results,
        shuffle=shuffle_rewards,
        stop=stop,
    )


@app.command()
def status(
    policy: Annotated[
        str | None, typer.Option(help="How this one learns (default: all of them).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """What was recorded, what it was worth, and what the trainer is doing."""
    settings = _settings(data_dir)
    with open_redis(settings) as redis:
        store = Store(redis)
        counts = store.counts()
        pending, waiting = store.count_pending(), store.count_archiving()
        names = settings.policy_names if policy is None else (policy,)
        learning = [standing(redis, settings.for_policy(name)) for name in names]
    rewarded = counts["rewarded"]
    table = Table(show_header=False, box=None)
    table.add_row("transitions", f"{counts['transitions']:,.0f}")
    table.add_row("trajectories", f"{counts['trajectories']:,.0f}")
    if counts["rollouts"]:
        table.add_row("rollouts", f"{counts['rollouts']:,.0f}  (siblings; in no average of these)")
    table.add_row("rewarded", f"{rewarded:,.0f}  ({counts['labelled']:,.0f} by feedback)")
    mean = f"{counts['reward_sum'] / rewarded:+.3f}" if rewarded else "-"
    table.add_row("average reward", mean)
    table.add_row("late feedback", f"{counts['late']:,.0f} trajectories")
    table.add_row("pending feedback", f"{pending:,}")
    failures = f", {counts['archive_failures']:,.0f} failures" if counts["archive_failures"] else ""
    table.add_row("archived", f"{counts['archived']:,.0f}  ({waiting:,} waiting{failures})")
    for rows in learning:
        for name, value in rows:
            table.add_row(name, value)
    out.print(table)


@app.command()
def version() -> None:
    """The version of Ratchet."""
    out.print(__version__)


def main() -> None:
    """The entry point: known errors become one line that says what to do."""
    try:
        app()
    except RatchetError as error:
        err.print(f"[bold red]ratchet:[/] {error}")
        sys.exit(1)
    except RedisError as error:
        err.print(f"[bold red]ratchet:[/] Redis does not answer as it should: {error}")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output has seen enough (`ratchet export | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        err.print(f"[bold red]ratchet:[/] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
