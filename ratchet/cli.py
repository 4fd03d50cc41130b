"""`ratchet`: every command a person types.

Commands are thin: they load the settings, open Redis, call one function and
show what it returns. `ratchet --install-completion` sets up the shell.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratchet import __version__, access, judges, traffic, training
from ratchet.forget import forget
from ratchet.lineage import Origin, lineage
from ratchet.redis_server import open_redis
from ratchet.triggers import request_roll_back, trainer_status
from trajectories.connection import Redis, RedisError
from trajectories.errors import RatchetError
from trajectories.registry import Registry
from trajectories.resources import LOADED, PolicyVersion, VersionState
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


def _registry(redis: Redis, settings: Settings) -> Registry:
    return Registry(redis, settings.policy, settings.upstream.base_model)


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
def status(data_dir: DataDir = None) -> None:
    """What was recorded, what it was worth, and what the trainer is doing."""
    settings = _settings(data_dir)
    with open_redis(settings) as redis:
        store = Store(redis)
        counts = store.counts()
        snapshot = _registry(redis, settings).snapshot()
        trainer = trainer_status(redis, settings.policy)
        trainable, pending = store.count_trainable(settings.policy), store.count_pending()
        waiting = store.count_archiving()
    rewarded = counts["rewarded"]
    table = Table(show_header=False, box=None)
    table.add_row("transitions", f"{counts['transitions']:,.0f}")
    table.add_row("trajectories", f"{counts['trajectories']:,.0f}")
    table.add_row("rewarded", f"{rewarded:,.0f}  ({counts['labelled']:,.0f} by feedback)")
    mean = f"{counts['reward_sum'] / rewarded:+.3f}" if rewarded else "-"
    table.add_row("average reward", mean)
    table.add_row("late feedback", f"{counts['late']:,.0f} trajectories")
    table.add_row("pending feedback", f"{pending:,}")
    failures = f", {counts['archive_failures']:,.0f} failures" if counts["archive_failures"] else ""
    table.add_row("archived", f"{counts['archived']:,.0f}  ({waiting:,} waiting{failures})")
    table.add_row("trainable", f"{trainable:,} of {settings.trainer.min_trajectories:,} needed")
    current = snapshot.versions[snapshot.current]
    table.add_row("policy", f"{settings.policy}@{snapshot.current}  ({current.model})")
    table.add_row("trainer", trainer["state"] if trainer else "not running")
    if trainer and trainer.get("note"):
        table.add_row("", trainer["note"])
    out.print(table)


@app.command()
def policies(
    of: Annotated[
        int | None,
        typer.Option("--lineage", help="Whose votes made this version, and those before it."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Every policy version: its state, where it came from, what it measured."""
    settings = _settings(data_dir)
    with open_redis(settings) as redis:
        snapshot = _registry(redis, settings).snapshot()
    if of is not None:
        _show_lineage(lineage(snapshot, settings.runs_dir, of))
        return
    table = Table(title=f"policy {settings.policy}, revision {snapshot.revision}")
    for column in (
        "version",
        "state",
        "parent",
        "run",
        "created",
        "trained on",
        "reward",
        "note",
    ):
        table.add_column(column, justify="right" if column in ("version", "parent") else "left")
    for _, entry in sorted(snapshot.versions.items()):
        table.add_row(*_policy_row(entry))
    out.print(table)


def _show_lineage(origins: list[Origin]) -> None:
    """A row for each version, then every vote of the newest, one a line."""
    table = Table(title=f"version {origins[0].version} and what it stands on")
    for column in ("version", "run", "trajectories", "votes", "by"):
        table.add_column(column)
    for origin in origins:
        most = list(origin.principals.items())[:5]
        who = ", ".join(f"{name} ({count})" for name, count in most)
        more = len(origin.principals) - len(most)
        table.add_row(
            str(origin.version),
            origin.run_id or "base model",
            str(origin.trajectories) if origin.is_on_disk else "its run is not on this disk",
            str(len(origin.votes)),
            f"{who} and {more} more" if more > 0 else who,
        )
    out.print(table)
    for vote in origins[0].votes:
        out.print(vote)


def _policy_row(entry: PolicyVersion) -> tuple[str | Text, ...]:
    style = {VersionState.CURRENT: "bold green", VersionState.REJECTED: "red"}.get(entry.state, "")
    created = (
        time.strftime("%H:%M:%S", time.localtime(entry.created_at)) if entry.created_at else ""
    )
    reward = entry.metrics.get("reward_mean")
    trained = entry.metrics.get("trajectories")
    return (
        str(entry.version),
        Text(entry.state.value, style=style),
        "" if entry.parent is None else str(entry.parent),
        f"…{entry.run_id[-8:]}" if entry.run_id else "base model",
        created,
        "" if trained is None else f"{trained:.0f}",
        "" if reward is None else f"{reward:+.3f}",
        entry.reason,
    )


@app.command()
def rollback(
    to: Annotated[
        int | None, typer.Option(help="The version to go back to (default: the one before).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Let an earlier policy version serve again. New trajectories go there at once."""
    settings = _settings(data_dir)
    with open_redis(settings) as redis:
        registry = _registry(redis, settings)
        before = registry.snapshot()
        target = registry.roll_back_target(before) if to is None else to
        entry = before.versions.get(target)
        is_loaded = target == 0 or (entry is not None and entry.state in LOADED)
        if entry is not None and entry.promoted_at is None and target != 0:
            raise RatchetError(
                f"version {target} has never served ({entry.state.value}): only what has served can"
                " be rolled back to"
            )
        if entry is None or is_loaded:
            # An unknown version is refused by the registry, which names those it knows.
            registry.promote(target, reason=f"rolled back from {before.current}")
        else:
            with out.status(f"the trainer is loading version {target}"):
                request_roll_back(redis, registry, settings.policy, target)
        out.print(f"{settings.policy}@{before.current} -> {settings.policy}@{target}")


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
