"""`ratchet judges`: who gives verdicts, what that cost, what failed, and how far people agree."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratchet.processes import run_in_foreground
from ratchet.redis_server import environment_of, open_redis
from trajectories.settings import JudgeSettings, Settings, load_settings
from trajectories.store import Store

app = typer.Typer(help="Judges, webhooks and custom rewards: what became of them.")
out = Console(highlight=False)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept (default: data_dir).")
]


def _settings(data_dir: Path | None) -> Settings:
    return load_settings(**({} if data_dir is None else {"data_dir": data_dir}))


@app.callback(invoke_without_command=True)
def judges(context: typer.Context, data_dir: DataDir = None) -> None:
    """List them: verdicts, spending, failures by reason, agreement with people."""
    if context.invoked_subcommand is not None:
        return
    settings = _settings(data_dir)
    if not settings.verdict_sources:
        text = "no judges: set [judges.NAME], [webhooks.NAME] or [custom.NAME] in ratchet.toml"
        out.print(text, markup=False)
        return
    table = Table(box=None, header_style="bold")
    for title in (
        "name", "kind", "tenant", "given", "abstained", "calls", "tokens", "calls today",
        "failed", "agreement", "error", "calibrated",
    ):  # fmt: skip
        table.add_column(title)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    with open_redis(settings) as redis:
        store = Store(redis)
        for name in settings.verdict_sources:
            for tenant in store.judging_tenants(name) or ["default"]:
                counts = store.verdict_counts(name, tenant)
                spent = store.verdict_spending(name, tenant, day)
                fitted = store.calibration(name, tenant)
                table.add_row(*_row(settings, name, tenant, counts, spent, fitted))
        waiting = store.count_verdicts()
    out.print(table)
    out.print(f"{waiting} verdicts asked for")


@app.command()
def calibrate(data_dir: DataDir = None) -> None:
    """Fit every judge to people's labels now, and show the scores' new meaning."""
    settings = _settings(data_dir)
    with open_redis(settings) as redis:
        redis.ping()
        command = [sys.executable, "-m", "workers", "calibrate"]
        status = run_in_foreground(command, environment_of(settings))
        if status:
            raise typer.Exit(status)
        store = Store(redis)
        for name in settings.judges:
            for tenant in store.judging_tenants(name):
                _show(name, tenant, store.calibration(name, tenant))


def _row(
    settings: Settings,
    name: str,
    tenant: str,
    counts: dict[str, int],
    spent: dict[str, int],
    fitted: dict[str, Any] | None,
) -> tuple[str | Text, ...]:
    source = settings.verdict_sources[name]
    kind = "webhook" if name in settings.webhooks else "custom"
    today = ""
    if isinstance(source, JudgeSettings):
        kind = source.kind
        limit = "" if source.calls_per_day is None else f"/{source.calls_per_day:,}"
        today = f"{spent.get('calls', 0):,}{limit}"
    failed = ", ".join(
        f"{field.removeprefix('failed:')} {number:,}"
        for field, number in sorted(counts.items())
        if field.startswith("failed:")
    )
    return (
        name,
        kind,
        tenant,
        f"{counts.get('given', 0):,}",
        f"{counts.get('abstained', 0):,}",
        f"{counts.get('calls', 0):,}",
        f"{counts.get('tokens', 0):,}",
        today,
        Text(failed, style="red"),
        "" if fitted is None else f"{fitted['agreement']:.0%} of {fitted['pairs']:,}",
        "" if fitted is None else f"{fitted['error_before']:.2f} -> {fitted['error_after']:.2f}",
        "" if fitted is None else time.strftime("%Y-%m-%d", time.gmtime(fitted["fitted_at"])),
    )


def _show(name: str, tenant: str, fitted: dict[str, Any] | None) -> None:
    """One judge's calibration: what its scores stand for."""
    if fitted is None:
        out.print(f"{name} ({tenant}): fewer than 30 trajectories that it and people judged")
        return
    out.print(
        f"{name} ({tenant}), version {fitted['version']}: {fitted['pairs']:,} pairs, same side"
        f" {fitted['agreement']:.0%}, mean error {fitted['error_before']:.2f} ->"
        f" {fitted['error_after']:.2f}"
    )
    table = Table(box=None, header_style="bold")
    table.add_column("score", justify="right")
    table.add_column("reward", justify="right")
    for score, reward in fitted["knots"]:
        table.add_row(f"{score:+.2f}", f"{reward:+.2f}")
    out.print(table)
