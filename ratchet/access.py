"""`ratchet keys`: make, list and revoke API keys. Each command is one call of the key store."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ratchet.redis_server import open_redis
from trajectories.access import SCOPES, TENANT, KeyRecord, KeyStore, ScopeName, Usage
from trajectories.errors import RatchetError
from trajectories.keys import DAY
from trajectories.settings import Settings, load_settings

app = typer.Typer(help="API keys: who may call the gateway, and how much.", no_args_is_help=True)
out = Console(highlight=False)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept (default: data_dir).")
]
Limit = typer.Option(min=1, show_default="none")


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(**({} if data_dir is None else {"data_dir": data_dir}))


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who or what will use it; shown in the list.")],
    scope: Annotated[
        list[str], typer.Option(help=f"What it may do, repeatable: {', '.join(SCOPES)}.")
    ],
    tenant: Annotated[
        str, typer.Option(help="Whose traffic it is; tenants see only their own.")
    ] = TENANT,
    requests_per_minute: Annotated[int | None, Limit] = None,
    tokens_per_minute: Annotated[int | None, Limit] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="For its whole life.", show_default="none")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may ask for, repeatable (default: any).")
    ] = None,
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Its traffic is recorded and never trained on.")
    ] = False,
    no_record: Annotated[
        bool, typer.Option("--no-record", help="Its traffic is not even recorded.")
    ] = False,
    expires_days: Annotated[float | None, typer.Option(min=0, show_default="never")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and show it, this once."""
    settings, now = _settings(data_dir), time.time()
    fields: dict[str, Any] = {
        "tenant": tenant,
        "is_trainable": not (no_train or no_record),
        "is_recorded": not no_record,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "token_budget": token_budget,
        "models": frozenset(model) if model else None,
        "expires_at": None if expires_days is None else now + expires_days * DAY,
    }
    scopes = [_scope(word) for word in scope]
    with open_redis(settings) as redis:
        try:
            record, key = KeyStore(redis).create(name=name, scopes=scopes, now=now, **fields)
        except ValidationError as error:
            issue = error.errors()[0]
            raise RatchetError(f"{issue['loc'][0]}: {issue['msg']}") from error
    address = f"http://{settings.gateway.host}:{settings.gateway.port}"
    out.print(
        f"{record.id} ({escape(record.name)}) is made. The key is shown once and stored nowhere:\n"
    )
    out.print(f"OPENAI_BASE_URL={address}/v1", soft_wrap=True)
    out.print(f"OPENAI_API_KEY={key}", soft_wrap=True)
    if not settings.gateway.require_keys:
        out.print("\nThe gateway asks for keys once [bold]gateway.require_keys = true[/] is set.")


def _scope(word: str) -> ScopeName:
    for known in SCOPES:
        if word == known:
            return known
    raise RatchetError(f"there is no scope {word}: it is one of {', '.join(SCOPES)}")


@app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Every key ever made: what it may do, and what it has used."""
    with open_redis(_settings(data_dir)) as redis:
        store = KeyStore(redis)
        records, broken = store.records()
        usage = store.usage([record.id for record in records])
    table = Table()
    for column in ("id", "name", "tenant", "scopes", "limits", "requests", "tokens", "state"):
        is_number = column in ("requests", "tokens")
        table.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=column == "id",
            overflow="fold",
        )
    for record in records:
        table.add_row(*_row(record, usage[record.id], time.time()))
    out.print(table)
    for key_id in broken:
        out.print(f"[red]{key_id} cannot be read, and is refused[/]")


def _row(record: KeyRecord, used: Usage, now: float) -> tuple[str | Text, ...]:
    limits = [
        f"{limit:,} {unit}"
        for limit, unit in (
            (record.requests_per_minute, "requests/min"),
            (record.tokens_per_minute, "tokens/min"),
            (record.token_budget, "tokens in all"),
        )
        if limit is not None
    ]
    if record.models is not None:
        limits.append(f"only {', '.join(sorted(record.models))}")
    if not record.is_trainable:
        limits.append("not trained on" if record.is_recorded else "not recorded")
    return (
        record.id,
        Text(record.name),
        record.tenant,
        " ".join(scope for scope in SCOPES if scope in record.scopes),
        Text("\n".join(limits)),
        f"{used.requests:,}",
        f"{used.tokens:,}",
        _state(record, now),
    )


def _state(record: KeyRecord, now: float) -> Text:
    if record.revoked_at is not None:
        return Text(f"revoked {_day(record.revoked_at)}", style="red")
    if record.expires_at is None:
        return Text("good", style="green")
    if record.expires_at <= now:
        return Text(f"expired {_day(record.expires_at)}", style="red")
    return Text(f"good until {_day(record.expires_at)}", style="green")


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `ratchet keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Have every gateway refuse a key from now on (within seconds)."""
    with open_redis(_settings(data_dir)) as redis:
        record = KeyStore(redis).revoke(key_id, time.time())
    out.print(f"{record.id} ({escape(record.name)}) is revoked")
