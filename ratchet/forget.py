"""`ratchet forget`: have what somebody said erased, from Redis, archive and training rows."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ratchet.redis_server import open_redis
from trajectories.access import TENANT
from trajectories.archive import Archive, Place
from trajectories.errors import RatchetError
from trajectories.ids import trajectory_id
from trajectories.privacy.forget import Forgetting, Forgotten, Wanted
from trajectories.settings import load_settings
from trajectories.store import Store, TrajectoryRef

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def forget(
    trajectory: Annotated[
        list[str] | None, typer.Option(help="Id of a trajectory; may be given several times.")
    ] = None,
    session: Annotated[
        list[str] | None, typer.Option(help="A session as its client names it.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="A user, as in `user`, `safety_identifier`, `metadata`.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose records.")] = TENANT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be erased.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where everything is kept.")
    ] = None,
) -> None:
    """Erase what was recorded of a user, a session or a trajectory; name who learned from it."""
    if sum(map(bool, (trajectory, session, user))) != 1:
        raise RatchetError("say what to forget: one of --trajectory, --session and --user")
    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    place = Place(settings.archive_url)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with open_redis(settings) as redis, Progress(*columns, console=err, transient=True) as bar:
        forgetting = Forgetting(redis, place, settings.runs_dir)
        looking = bar.add_task("looking for it", total=None)
        if user is not None:
            wanted = forgetting.of_user(tenant, user, progress=lambda: bar.advance(looking))
        else:
            ids = trajectory or [
                trajectory_id(tenant, session=name, task=None) for name in session or ()
            ]
            wanted = _wanted(Store(redis), tenant, ids)
        has_archive = bool(Archive(place).manifests())
        bar.update(looking, description="erasing")
        forgotten = forgetting.forget(wanted, is_dry=dry_run, progress=lambda: bar.advance(looking))
    _show(wanted, forgotten, is_dry=dry_run)
    if not has_archive:
        said = f"no archive at {settings.archive_url}: elsewhere it may lie still"
        out.print(said, soft_wrap=True)


def _wanted(store: Store, tenant: str, ids: list[str]) -> Wanted:
    """The trajectories of these ids, and those that they are other names of."""
    refs = {TrajectoryRef(tenant, wanted) for wanted in ids}
    located = {found for ref in refs if (found := store.locate(ref)) is not None}
    return Wanted(tenant, frozenset(refs | located))


def _show(wanted: Wanted, forgotten: Forgotten, *, is_dry: bool) -> None:
    hot = forgotten.hot
    table = Table("what", "would go" if is_dry else "gone", box=None)
    archived = "segments of the archive that hold some" if is_dry else "rows of the archive"
    for what, count in (
        ("trajectories in Redis", hot.trajectories),
        ("transitions", hot.transitions),
        ("votes", hot.votes),
        ("messages nobody else has", "?" if is_dry else hot.contents),
        ("records under way", forgotten.under_way),
        ("records set aside", forgotten.set_aside),
        ("kept responses", forgotten.responses),
        (archived, forgotten.archived),
        ("training rows", sum(run.rows for run in forgotten.runs)),
    ):
        table.add_row(what, str(count))
    out.print(table)
    adapters = {f"{run.policy}@{run.version}" for run in forgotten.runs if run.version is not None}
    adapters |= set(forgotten.versions)
    if adapters:
        out.print(f"trained on it, and not made to unlearn it: {', '.join(sorted(adapters))}")
        for path in sorted({run.path for run in forgotten.runs if run.path and run.is_quoted}):
            out.print(f"  its probe.json quotes some of it as token ids: {path}")
    if not wanted.refs:
        out.print("nothing of it was found")
