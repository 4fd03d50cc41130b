"""`ratchet demo`: runs the loop, the traffic and the measuring, and shows it all.

The traffic never stops while versions are trained, swapped in and measured.
The trainer sees what any trainer sees: recorded calls, thumbs and AIR. The
held-out accuracy is asked past the gateway and reaches nobody but the onlooker.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ratchet.demo import world
from ratchet.demo.picture import draw
from ratchet.demo.questions import Split, stream_questions
from ratchet.demo.results import Point, Results, Version
from ratchet.demo.traffic import Session, Traffic, evaluate
from ratchet.processes import file_sink
from ratchet.up import Loop
from trajectories.connection import Redis, RedisError, connect
from trajectories.errors import RatchetError
from trajectories.registry import Registry, Snapshot
from trajectories.resources import PolicyVersion
from trajectories.settings import Settings

LOOP_SECONDS = 660.0
HELD_OUT_EACH = 150  # questions asked of each version
HELD_OUT_FINAL = 400  # questions asked of the first and the last
CONCURRENCY = 6
POINT_SESSIONS = 25
LINE_SECONDS = 15.0

console = Console(highlight=False)


def run_demo(
    *,
    seed: int,
    rounds: int,
    directory: Path,
    results: Path,
    shuffle: bool,
    stop: threading.Event,
) -> None:
    """The whole demo, from nothing to the picture. Raises SettingsError where it cannot run."""
    world.require_vllm()
    started = time.monotonic()
    directory = world.empty(directory)
    world.forget_environment()
    console.print("[bold]1[/]  making a tiny model, pretrained on bad demonstrations")
    model = world.make_model(directory, seed, stop)
    if stop.is_set():
        return
    settings = world.write_settings(directory, model, seed=seed, shuffle=shuffle)
    log = directory / "loop.log"
    loop = Loop(settings, file_sink(log))
    try:
        with console.status(f"[bold]2[/]  starting vLLM, the gateway and the rest (log: {log})"):
            loop.start(stop)
        if stop.is_set():
            return
        assert loop.redis is not None
        redis = connect(loop.redis.settings)
        show = Show(settings, redis, loop, Results(seed, shuffle), rounds, stop)
        measured = asyncio.run(show.run())
        redis.close()
    except ExceptionGroup as group:
        raise RatchetError(f"the demo broke off: {group.exceptions[0]} (log: {log})") from group
    finally:
        with console.status("stopping"):
            loop.stop()
    if stop.is_set():
        console.print("stopped before the end: no results were written")
        return
    measured.seconds = round(time.monotonic() - started, 1)
    measured.write(results)
    picture = results.with_suffix(".png")
    draw(measured, picture)
    _print_end(measured, results, picture, directory)


class Show:
    """One run of the traffic, with the measuring beside it."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        loop: Loop,
        results: Results,
        rounds: int,
        stop: threading.Event,
    ) -> None:
        self._rounds = rounds
        self._settings = settings
        self._loop = loop
        self._stop = stop
        self._registry = Registry(redis, settings.policy, settings.upstream.base_model)
        self._redis = redis
        self.results = results
        self._held_out = stream_questions(Split.HELD_OUT, results.seed)
        self._traffic = Traffic(
            f"http://127.0.0.1:{settings.gateway.port}",
            settings.gateway.aliases[0],
            seed=results.seed,
            concurrency=CONCURRENCY,
            on_session=self._on_session,
        )
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._bar = self._progress.add_task("policy versions", total=rounds)
        self._measuring: int | None = None

    async def run(self) -> Results:
        """Measure the base, run traffic through all versions, measure the last."""
        console.print("[bold]3[/]  measuring the base model on held-out questions")
        base = self._settings.upstream.base_model
        self.results.accuracy_before = await self._measure(base, HELD_OUT_FINAL)
        console.print(f"   held-out accuracy {self.results.accuracy_before:.3f}")
        console.print("[bold]4[/]  traffic: sessions, a few thumbs, and nothing else")
        with Live(get_renderable=self._view, console=console, refresh_per_second=2):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._traffic.run())
                group.create_task(self._watch())
        counts = self._traffic.counts
        self.results.sessions, self.results.labels = counts.sessions, counts.labels
        self.results.requests = counts.requests
        self.results.failed_requests = counts.failed_requests
        self.results.cut_streams = counts.cut_streams
        self.results.swap_seconds = [entry.swap_seconds for entry in self.results.versions]
        if not self._stop.is_set():
            console.print("\n[bold]5[/]  measuring the last version on held-out questions")
            current = await self._snapshot()
            last = current.versions[current.current].model if current else base
            self.results.accuracy_after = await self._measure(last, HELD_OUT_FINAL)
        return self.results

    async def _watch(self) -> None:
        """Follow the registry: measure each new version while the traffic goes on."""
        deadline = time.monotonic() + LOOP_SECONDS
        seen, next_line = 0, 0.0
        while len(self.results.versions) < self._rounds and time.monotonic() < deadline:
            if self._stop.is_set():
                break
            await asyncio.to_thread(self._loop.supervise)
            snapshot = await self._snapshot()
            if snapshot is not None and snapshot.current > seen:
                seen = snapshot.current
                await self._measure_version(snapshot.versions[seen])
            if not console.is_terminal and time.monotonic() > next_line:
                next_line = time.monotonic() + LINE_SECONDS
                console.print(self._line())
            await asyncio.sleep(0.3)
        self._traffic.stop()

    async def _measure_version(self, entry: PolicyVersion) -> None:
        sessions = self._traffic.counts.sessions
        self._measuring = entry.version
        accuracy = await self._measure(entry.model, HELD_OUT_EACH)
        self._measuring = None
        self.results.versions.append(
            Version(
                version=entry.version,
                sessions=sessions,
                held_out_accuracy=accuracy,
                trajectories=int(entry.metrics.get("trajectories", 0)),
                swap_seconds=round((entry.promoted_at or 0.0) - entry.created_at, 3),
            )
        )
        self._progress.advance(self._bar)

    async def _measure(self, model: str, count: int) -> float:
        questions = [next(self._held_out) for _ in range(count)]
        url = self._settings.upstream.url
        return await evaluate(url, model, questions, concurrency=CONCURRENCY)

    async def _snapshot(self) -> Snapshot | None:
        try:
            return await asyncio.to_thread(self._registry.snapshot)
        except RedisError:
            return None

    async def _on_session(self, session: Session) -> None:
        if session.number % POINT_SESSIONS == 0:
            counts = self._traffic.counts
            if counts.accuracy is not None:
                point = Point(session.number, counts.accuracy, counts.reward)
                self.results.curve.append(point)

    def _line(self) -> str:
        counts = self._traffic.counts
        accuracy = "-" if counts.accuracy is None else f"{counts.accuracy:.2f}"
        return (
            f"   {counts.sessions:>6} sessions  {counts.labels:>5} thumbs  accuracy {accuracy}"
            f"  failed {counts.failed_requests}  cut {counts.cut_streams}"
            f"  version {self.results.versions[-1].version if self.results.versions else 0}"
        )

    def _view(self) -> Group:
        counts = self._traffic.counts
        head = Table.grid(padding=(0, 3))
        head.add_row(
            f"sessions [bold]{counts.sessions:,}[/]",
            f"requests [bold]{counts.requests:,}[/]",
            f"thumbs [bold]{counts.labels:,}[/]",
            f"failed [bold]{counts.failed_requests}[/]",
            f"cut [bold]{counts.cut_streams}[/]",
            f"accuracy now [bold]{_share(counts.accuracy)}[/]",
        )
        table = Table(box=None, padding=(0, 2))
        for column in ("version", "after sessions", "trained on", "held-out accuracy", "swap"):
            table.add_column(column, justify="right")
        table.add_row("0", "0", "-", _share(self.results.accuracy_before), "-")
        for entry in self.results.versions:
            table.add_row(
                str(entry.version),
                f"{entry.sessions:,}",
                f"{entry.trajectories:,}",
                f"[bold green]{_share(entry.held_out_accuracy)}[/]",
                f"{entry.swap_seconds:.2f} s",
            )
        if self._measuring is not None:
            table.add_row(str(self._measuring), "", "", "measuring", "")
        return Group(head, table, self._progress)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_end(results: Results, path: Path, picture: Path, directory: Path) -> None:
    console.print(
        f"\n[bold]held-out accuracy {results.accuracy_before:.3f} -> "
        f"[green]{results.accuracy_after:.3f}[/][/]  after {results.sessions:,} sessions with"
        f" {results.labels:,} thumbs; {results.failed_requests} failed requests,"
        f" {results.cut_streams} cut streams, {len(results.versions)} versions,"
        f" {results.seconds:.0f} s"
    )
    console.print(f"figures   {path}\npicture   {picture}")
    command = f"RATCHET_CONFIG={directory}/ratchet.toml {Path(sys.executable).with_name('ratchet')}"
    console.print(f"look on   {command} policies", soft_wrap=True)
    console.print(f"          {command} export traffic.jsonl", soft_wrap=True)
