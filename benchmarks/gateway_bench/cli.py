"""The command line: start the bench, measure, print, save."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from benchmarks.gateway_bench import page
from benchmarks.gateway_bench.bench import Bench, open_bench
from benchmarks.gateway_bench.endurance import idle_streams, soak
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.gauges import allow_many_files
from benchmarks.gateway_bench.machine import this_machine
from benchmarks.gateway_bench.peers import NAMES
from benchmarks.gateway_bench.rounds import Plan, idle_shares, names_with_direct, visits
from benchmarks.gateway_bench.rows import ORDER, Visit, as_json, as_sample, rows_of
from benchmarks.gateway_bench.table import tables, verdict_cells, verdict_table
from benchmarks.gateway_bench.traffic import scenario_named

CACHE = Path("~/.cache/ratchet-benchmark").expanduser()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
IDLE_SECONDS = 2.0
WIDTH = 120  # of what goes into a file, where no terminal says how wide it is


def parser() -> argparse.ArgumentParser:
    """The options of `benchmarks/gateway.py`."""
    found = argparse.ArgumentParser(
        prog="benchmarks/gateway.py",
        description="Gateways side by side: CPU a request, added latency, memory. Writes"
        " docs/benchmarks.md unless only some of the gateways, scenarios or clients are asked for.",
    )
    found.add_argument("--only", type=gateways, default=NAMES, help=f"of {','.join(NAMES)}")
    found.add_argument("--scenarios", type=scenarios, default=ORDER, help=f"of {','.join(ORDER)}")
    found.add_argument("--clients", type=numbers, default=(1, 32), help="such as 1,32")
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--seconds", type=float, help="of a measurement (3), of a silence (60)")
    found.add_argument("--warm-up", type=float, default=0.5, help="seconds before a measurement")
    found.add_argument("--pace-ms", type=float, default=10.0, help="between two paced events")
    found.add_argument("--pure", action="store_true", help="Ratchet as plain Python, not compiled")
    found.add_argument("--json", type=Path, help="write every row (medians) here")
    found.add_argument("--samples", type=Path, help="write every single measurement here")
    found.add_argument("--page", type=Path, help="write the page here, whatever was asked for")
    found.add_argument("--cache", type=Path, default=CACHE, help="where peers are installed")
    long_runs = found.add_argument_group("Ratchet alone")
    long_runs.add_argument("--soak", action="store_true", help="memory over a long run")
    long_runs.add_argument("--requests", type=int, default=200_000, help="of the soak")
    long_runs.add_argument("--streams", type=int, default=20_000, help="of the soak")
    long_runs.add_argument("--idle-streams", type=int, metavar="N", help="open and silent streams")
    return found


def words(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The words of a list with commas; an unknown one is a wrong argument."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = sorted(set(found) - set(known))
    if unknown or not found:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown) or 'nothing'}")
    return found


def gateways(text: str) -> tuple[str, ...]:
    return words(text, NAMES)


def scenarios(text: str) -> tuple[str, ...]:
    return words(text, ORDER)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def command_line(given: Sequence[str]) -> str:
    """The command as the page names it: without the places of files on this machine."""
    words = list(given)
    for option in ("--json", "--samples", "--page", "--cache"):
        if option in words[:-1]:
            place = words.index(option)
            del words[place : place + 2]
    return shlex.join(["python", "benchmarks/gateway.py", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    if not sys.platform.startswith("linux"):
        console.print("[red]this benchmark needs Linux: it reads /proc and uses epoll")
        return 1
    allow_many_files()
    machine = page.origin(this_machine(), command_line(given), date.today())
    try:
        if options.soak:
            run_soak(options, console, machine)
        elif options.idle_streams:
            run_idle_streams(options, console, machine)
        else:
            compare(options, console, machine)
    except BenchmarkError as error:
        console.print(f"[red]{error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("[yellow]interrupted")
        return 130
    return 0


@contextmanager
def bench_of(
    names: Sequence[str], options: argparse.Namespace, console: Console
) -> Iterator[Bench]:
    """The bench, with a line that says what is being started."""
    status = console.status("starting")
    status.start()
    try:
        with open_bench(names, options.cache, status.update, is_pure=options.pure) as bench:
            status.stop()
            yield bench
    finally:
        status.stop()


def compare(options: argparse.Namespace, console: Console, how: str) -> None:
    """Rounds over all gateways. What was measured is printed and saved, whatever ends them."""
    plan = Plan(
        scenarios=tuple(
            scenario_named(name, int(options.pace_ms * 1000)) for name in options.scenarios
        ),
        clients=options.clients,
        rounds=options.rounds,
        seconds=options.seconds or 3.0,
        warm_up_seconds=options.warm_up,
    )
    found: list[Visit] = []
    with bench_of(names_with_direct(options.only), options, console) as bench:
        idle = idle_shares(bench.gateways, IDLE_SECONDS)
        try:
            collect(plan, bench, found, console)
        except KeyboardInterrupt:
            console.print("[yellow]interrupted: this is what was measured")
        finally:
            conclude(options, console, found, bench, idle, how)


def collect(plan: Plan, bench: Bench, found: list[Visit], console: Console) -> None:
    """Put visits into `found`, with a progress bar."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=plan.rounds * len(plan.traffics) * len(bench.gateways))
        for visit in visits(
            plan,
            bench.gateways,
            bench.program,
            lost=bench.missing,
            tell=lambda text: progress.update(task, description=text),
        ):
            found.append(visit)
            progress.advance(task)


def conclude(
    options: argparse.Namespace,
    console: Console,
    found: Sequence[Visit],
    bench: Bench,
    idle: dict[str, float],
    how: str,
) -> None:
    """Print the tables and write what was asked for."""
    rows = rows_of(found)
    if not rows:
        return
    for table in tables(rows, bench.missing):
        console.print(table)
    if verdict_cells(rows):
        console.print(verdict_table(rows))
    for name, reason in bench.missing.items():
        console.print(f"missing: {name}: {reason}", markup=False)
    for row in rows:
        if row.first_error:
            where = f"{row.gateway}, {row.scenario} x {row.clients}"
            console.print(f"first error of {where}: {row.first_error}", markup=False)
    if options.json:
        options.json.write_text(json.dumps([as_json(row) for row in rows], indent=1) + "\n")
    if options.samples:
        options.samples.write_text("".join(json.dumps(as_sample(v)) + "\n" for v in found))
    is_everything = (options.only, options.scenarios, options.clients) == (NAMES, ORDER, (1, 32))
    if target := options.page or (PAGE if is_everything else None):
        text = page.comparison(
            rows, missing=bench.missing, versions=bench.versions, idle=idle, how=how
        )
        page.write(target, "gateways", text)
        console.print(f"written: {target}")


def run_soak(options: argparse.Namespace, console: Console, how: str) -> None:
    """Memory of Ratchet over many calls."""
    with bench_of(["ratchet"], options, console) as bench:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=options.requests + options.streams)
            found = soak(
                bench["ratchet"],
                bench.program,
                requests=options.requests,
                streams=options.streams,
                tell=lambda text, calls: progress.update(task, description=text, completed=calls),
            )
    _finish(options, console, "soak", asdict(found), page.long_run(found, how))


def run_idle_streams(options: argparse.Namespace, console: Console, how: str) -> None:
    """Memory of Ratchet under open, silent streams."""
    with bench_of(["ratchet"], options, console) as bench, console.status("opening") as status:
        found = idle_streams(
            bench["ratchet"],
            bench.program,
            streams=options.idle_streams,
            seconds=options.seconds or 60.0,
            tell=status.update,
        )
    _finish(options, console, "idle", asdict(found), page.silent_streams(found, how))


def _finish(
    options: argparse.Namespace,
    console: Console,
    section: str,
    figures: dict[str, object],
    text: str,
) -> None:
    console.print(text, markup=False, highlight=False)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    target = options.page or PAGE
    page.write(target, section, text)
    console.print(f"written: {target}")
