"""`ratchet export`, `ratchet import` and `ratchet rewards replay`: traffic out, in, and anew."""

import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ratchet.export import Format, export_rows
from ratchet.imports import Defaults, Imported, cleaned, lines, parse
from ratchet.processes import run_in_foreground
from ratchet.redis_server import environment_of, open_redis
from trajectories.access import TenantName
from trajectories.archive import Archive, Archived, Filters, Place
from trajectories.archive.merged import scan
from trajectories.archive.scrubbing import open_scrub
from trajectories.errors import RatchetError
from trajectories.ids import TRAJECTORY_PATTERN
from trajectories.lines import STANDARD, LineError, reading, writing
from trajectories.privacy.known import open_redactor
from trajectories.settings import Settings, load_settings
from trajectories.store import Store, TrajectoryRef

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
rewards = typer.Typer(help="Rewards computed anew.", no_args_is_help=True)

ERRORS_SHOWN = 20

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept (default: data_dir).")
]
Agent = Annotated[str | None, typer.Option(help="Only what this agent took part in.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Since = Annotated[
    str | None, typer.Option(help="Begun at or after: a date, an ISO time, or such as 7d, 12h.")
]
Until = Annotated[str | None, typer.Option(help="Begun before, written as --since.")]


def when(text: str | None, now: float) -> float | None:
    """Unix seconds of a date, an ISO time (local where it names no zone), or an age."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(age[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise RatchetError(
            f"{text} is no time: write 2026-11-28, 2026-11-28T12:00:00+00:00, or 7d"
        ) from error


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(**({} if data_dir is None else {"data_dir": data_dir}))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal
    )


def export(
    output: Annotated[
        Path | None,
        typer.Argument(help="A file; .gz and .zst are packed (default: standard output)."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="What a line is.")] = Format.TRANSITIONS,
    agent: Agent = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    tenant: Tenant = None,
    policy: Annotated[str | None, typer.Option(help="Only what this policy answered in.")] = None,
    version: Annotated[int | None, typer.Option(help="Only with answers of this version.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Only with a reward of this source: feedback, feedback:human, air, ..."),
    ] = None,
    min_reward: Annotated[float | None, typer.Option(help="Final reward, at least.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="Final reward, at most.")] = None,
    since: Since = None,
    until: Until = None,
    labelled: Annotated[bool, typer.Option(help="Only what somebody judged.")] = False,
    rewarded: Annotated[bool, typer.Option(help="Only trajectories that have a reward.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write the recorded traffic, from Redis and the archive, as JSON lines."""
    settings, now = _settings(data_dir), time.time()
    filters = Filters(
        tenant=tenant,
        agent=agent,
        task=task,
        policy=policy,
        version=version,
        source=source,
        min_reward=min_reward,
        max_reward=max_reward,
        since=when(since, now),
        until=when(until, now),
        is_labelled=labelled,
        is_rewarded=rewarded,
    )
    count = 0
    with open_redis(settings) as redis, _progress() as progress:
        store, archive = Store(redis), Archive(Place(settings.archive_url), look_seconds=600)
        shown = progress.add_task("trajectories", total=None)
        scrub = open_scrub(settings, redis)

        def records() -> Iterator[Archived]:
            for record, is_hot in scan(store, archive, filters):
                progress.advance(shown)
                yield scrub(record) if is_hot else record  # the archive's was scrubbed

        with writing(output) as stream:
            for row in export_rows(records, form):
                stream.write(orjson.dumps(row) + b"\n")
                count += 1
    err.print(f"{count:,} {_lines_of(form)}")


def _lines_of(form: Format) -> str:
    return {
        Format.TRANSITIONS: "transitions",
        Format.TRAJECTORY: "trajectories",
        Format.OPENAI: "conversations",
        Format.PREFERENCE: "pairs",
    }[form]


def import_file(
    file: Annotated[Path, typer.Argument(help="JSON lines; .gz and .zst are unpacked.")],
    tenant: Annotated[str, typer.Option(help="Whose it shall be.")] = "default",
    agent: Annotated[str | None, typer.Option(help="Agent of rows that name none.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of rows that name none.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and store nothing.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Store trajectories, transitions or chat fine-tuning rows, as if they had been recorded.

    Everything is checked before anything is stored. Doing it twice, or again after it was
    cut short, changes nothing that is there.
    """
    if file == STANDARD:
        raise RatchetError("import reads its file twice: name one instead of -")
    try:
        TypeAdapter(TenantName).validate_python(tenant)
    except ValidationError as error:
        message = f"{tenant} is no name of a tenant: small letters, digits, - and _"
        raise RatchetError(message) from error
    settings = _settings(data_dir)
    defaults = Defaults(tenant, agent, task, time.time())
    with _progress() as progress:
        checked = _check(file, defaults, progress)
    if dry_run:
        err.print(f"{checked:,} lines are well formed; nothing was stored")
        return
    redactor = open_redactor(settings)
    new = old = 0
    with open_redis(settings) as redis, _progress() as progress, reading(file) as stream:
        store = Store(redis)
        shown = progress.add_task("storing", total=checked)
        for _, line in lines(stream):
            added, known = _store(store, cleaned(parse(line, defaults), redactor))
            new, old = new + added, old + known
            progress.advance(shown)
    err.print(f"{new:,} transitions stored, {old:,} were there")


def _check(file: Path, defaults: Defaults, progress: Progress) -> int:
    """How many lines there are, all of them well formed; raises RatchetError else."""
    checked, wrong = 0, 0
    shown = progress.add_task("checking", total=None)
    with reading(file) as stream:
        for number, line in lines(stream):
            try:
                found = parse(line, defaults)
                if not re.fullmatch(TRAJECTORY_PATTERN, found.trajectory_id):
                    raise LineError(f"trajectory_id: {found.trajectory_id[:40]!r} is no id")
            except LineError as error:
                wrong += 1
                if wrong <= ERRORS_SHOWN:
                    err.print(f"[red]line {number}[/]: ", end="")
                    err.print(str(error), markup=False)
            checked += 1
            progress.advance(shown)
    if wrong:
        raise RatchetError(f"{wrong:,} of {checked:,} lines are not records; nothing was stored")
    return checked


def _store(store: Store, found: Imported) -> tuple[int, int]:
    """Transitions that were new, and that were there."""
    new = sum(store.add_transition(step) for step in found.transitions)
    for vote in found.feedback:
        if store.feedback(vote.tenant, vote.id) is None or new:
            store.add_feedback(vote)
    ref = TrajectoryRef(found.transitions[0].tenant, found.trajectory_id)
    whole = store.trajectory(ref)
    if whole is not None and not whole.is_closed:
        store.close(ref)
    return new, len(found.transitions) - new


@rewards.command()
def replay(
    since: Since = None,
    until: Until = None,
    agent: Agent = None,
    tenant: Tenant = None,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the new rewards (default: only show them).")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--json", help="The figures, as JSON, in this file.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Compute every reward again with the settings of now, over Redis and the archive."""
    settings, now = _settings(data_dir), time.time()
    options: dict[str, Any] = {
        "--since": when(since, now),
        "--until": when(until, now),
        "--agent": agent,
        "--tenant": tenant,
        "--json": report,
    }
    command = [sys.executable, "-m", "workers", "replay", *(["--write"] if write else [])]
    for name, value in options.items():
        if value is not None:
            command += [name, str(value)]
    with open_redis(settings) as redis:
        redis.ping()
        status = run_in_foreground(command, environment_of(settings))
    raise typer.Exit(status)
