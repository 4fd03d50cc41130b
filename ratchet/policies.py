"""`ratchet policies` and `ratchet rollback`: which versions there are, and going back to one."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratchet.lineage import Origin, lineage
from ratchet.redis_server import open_redis
from ratchet.triggers import request_roll_back, trainer_status
from trajectories.connection import Redis
from trajectories.errors import RatchetError
from trajectories.registry import Registry, Snapshot
from trajectories.resources import LOADED, PolicyVersion, VersionState
from trajectories.settings import Settings, load_settings
from trajectories.store import Store

out = Console(highlight=False)

COLUMNS = ("version", "state", "parent", "run", "created", "trained on", "reward", "note")

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept (default: data_dir).")
]


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(**({} if data_dir is None else {"data_dir": data_dir}))


def _registry(redis: Redis, settings: Settings) -> Registry:
    return Registry(redis, settings.policy, settings.upstream.base_model)


def standing(redis: Redis, settings: Settings) -> list[tuple[str, str]]:
    """How far a policy is, as lines of `ratchet status`; `settings` are the policy's own."""
    snapshot = _registry(redis, settings).snapshot()
    trainer = trainer_status(redis, settings.policy)
    current = snapshot.versions[snapshot.current]
    trainable = Store(redis).count_trainable(settings.policy)
    rows = [
        ("policy", f"{settings.policy}@{snapshot.current}  ({current.model})"),
        ("trainable", f"{trainable:,} of {settings.trainer.min_trajectories:,} needed"),
        ("trainer", trainer["state"] if trainer else "not running"),
    ]
    if trainer and trainer.get("note"):
        rows.append(("", trainer["note"]))
    for engine in snapshot.weights.values():
        if engine.is_out:
            rows.append(("engine", f"{engine.url} is out of routing: {engine.reason}"))
        elif engine.version is None:
            rows.append(("engine", f"{engine.url} is given version {engine.wanted}"))
    return rows


def policies(
    policy: Annotated[
        str | None, typer.Option(help="Only this one (with --lineage: default `policy`).")
    ] = None,
    of: Annotated[
        int | None,
        typer.Option("--lineage", help="Whose votes made this version, and those before it."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Every policy version: its state, where it came from, what it measured."""
    settings = _settings(data_dir)
    names = settings.policy_names if policy is None and of is None else (policy or settings.policy,)
    with open_redis(settings) as redis:
        snapshots = [_registry(redis, settings.for_policy(name)).snapshot() for name in names]
    if of is not None:
        _show_lineage(lineage(snapshots[0], settings.runs_dir, of))
        return
    for snapshot in snapshots:
        out.print(_table_of(snapshot))


def _table_of(snapshot: Snapshot) -> Table:
    table = Table(title=f"policy {snapshot.policy}, revision {snapshot.revision}")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("version", "parent") else "left")
    for _, entry in sorted(snapshot.versions.items()):
        table.add_row(*_policy_row(entry))
    return table


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


def rollback(
    to: Annotated[
        int | None, typer.Option(help="The version to go back to (default: the one before).")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Of this policy; must be said where there are several.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Let an earlier policy version serve again. New trajectories go there at once."""
    settings = _settings(data_dir)
    if policy is None and len(settings.policy_names) > 1:
        names = ", ".join(settings.policy_names)
        raise RatchetError(f"of which policy? There are several: say --policy with one of {names}")
    settings = settings.for_policy(policy or settings.policy)
    with open_redis(settings) as redis:
        registry = _registry(redis, settings)
        before = registry.snapshot()
        target = registry.roll_back_target(before) if to is None else to
        entry = before.versions.get(target)
        is_loaded = target == 0 or (entry is not None and entry.state in LOADED)
        is_loaded = is_loaded and not before.weights  # else it takes the place of what serves
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
