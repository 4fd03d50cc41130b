#!/usr/bin/env python3
"""How many transitions a second get from the spool to a reward, and whether the lag stays bounded.

    python benchmarks/ingest.py [--http] [--rate 1500] [--seconds 60] [--json FILE] [--write]

The processes are those of a deployment: a gateway's own spool and shipper (fed
with records that were made beforehand), a Redis, one dispatcher, one worker.
With --http they begin at a whole gateway's port: a client sends requests at
that rate, and a scripted upstream answers them with token ids and logprobs.
Conversations of six turns, 4 KB a record, many at a time; one in ten gets a
vote. Once a second it is looked how long the stream is and how many
trajectories wait for their scoring; when the records end, how long it takes
until nothing is left. CPU time per process is what to trust on a busy machine.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson

# As a script this file's folder is first on the path; its gateway.py would hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.gateway_bench.compiling import compiled_packages  # noqa: E402
from benchmarks.gateway_bench.errors import BenchmarkError  # noqa: E402
from benchmarks.gateway_bench.machine import this_machine  # noqa: E402
from benchmarks.gateway_bench.ours import launch  # noqa: E402
from benchmarks.gateway_bench.page import markdown, origin, write  # noqa: E402
from benchmarks.gateway_bench.peers import KEY  # noqa: E402
from benchmarks.gateway_bench.ports import free_port  # noqa: E402
from benchmarks.gateway_bench.running import started  # noqa: E402
from benchmarks.gateway_bench.wire import (  # noqa: E402
    Load,
    compiled,
    queue_command,
    upstream,
)
from benchmarks.ingest_bench.offering import (  # noqa: E402
    ANSWER_TOKENS,
    RECORDS_PER_TRANSITION,
    feed,
    make,
)
from ratchet.redis_server import EmbeddedRedis  # noqa: E402
from trajectories import keys  # noqa: E402
from trajectories.connection import connect  # noqa: E402
from trajectories.settings import RedisSettings, Settings  # noqa: E402
from trajectories.store import Store  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
LABEL_WINDOW_SECONDS = 20
HTTP_CLIENTS = 32
CACHE = Path("~/.cache/ratchet-benchmark").expanduser()


@dataclass(frozen=True, slots=True)
class Look:
    """How things stood at one moment."""

    seconds: float
    stored: int
    stream: int
    scoring: int
    jobs: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1_500, help="transitions a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--http", action="store_true", help="begin at the port of a gateway")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where programs are compiled")
    parser.add_argument("--unnamed", action="store_true", help="calls that name no session")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="write them to docs/benchmarks.md")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        asyncio.run(feed(options.feed, options.rate * RECORDS_PER_TRANSITION))
        return
    found = measure(options)
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    if options.json:
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    if options.write:
        words = f"--rate {options.rate:g} --seconds {options.seconds:g} --write"
        command = f"python benchmarks/ingest.py {'--http ' if options.http else ''}{words}"
        text = f"{origin(this_machine(), command, date.today())}\n\n{section(found)}"
        write(PAGE, "ingest-http" if options.http else "ingest", text)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run from the first record, or request, to the last reward."""
    with tempfile.TemporaryDirectory(prefix="rt") as name, ExitStack() as stack:
        directory = Path(name)
        server = EmbeddedRedis(
            Settings(data_dir=directory, redis=RedisSettings(timeout_seconds=30))
        )
        server.start()
        stack.callback(server.stop)
        (directory / "ratchet.toml").write_text(
            f'[redis]\nurl = "{server.settings.url}"\ntimeout_seconds = 5\n'
            f"[rewards]\nlabel_window_seconds = {LABEL_WINDOW_SECONDS}\n"
        )
        records, pace = directory / "records", options.rate * RECORDS_PER_TRANSITION
        count, size = make(
            records,
            rate=pace,
            wanted=int(pace * options.seconds),
            is_named=not options.unnamed,
            key=KEY if options.http else "",
        )
        pids: dict[str, int] = {}

        def run(label: str, process: "subprocess.Popen[bytes]") -> None:
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            pids[label] = process.pid

        run("dispatcher", start(directory, "-m", "workers", "dispatcher"))
        for number in range(options.workers):
            run(f"worker {number + 1}", start(directory, "-m", "workers", "worker"))
        redis: Any = connect(server.settings)
        pids["Redis"] = redis.info("server")["process_id"]
        if options.http:
            program = compiled(options.cache)
            serving = upstream(program, tokens=ANSWER_TOKENS)
            upstream_port, port = stack.enter_context(serving), free_port()
            folder = directory / "gateway"
            plan = launch(
                port=port,
                upstream_port=upstream_port,
                folder=folder,
                redis_url=server.settings.url,
                packages=compiled_packages(options.cache),
            )
            gateway = stack.enter_context(started("ratchet", plan, port=port, folder=folder))
            assert gateway.server is not None
            pids["gateway"] = gateway.server.pid
            load = subprocess.Popen(
                queue_command(
                    program,
                    records,
                    port=port,
                    clients=HTTP_CLIENTS,
                    rate=pace,
                    limit_seconds=4 * options.seconds,
                ),
                stdout=subprocess.PIPE,
            )
            run("client", load)
            found = watch(redis, count, size, pids, options)
            seen = Load(**orjson.loads(load.communicate()[0]))
            if seen.errors:
                raise BenchmarkError(f"{seen.errors} of the requests failed: {seen.first_error}")
            return {**found, "http_p50_us": seen.p50_us, "http_p99_us": seen.p99_us}
        time.sleep(3)
        feeding = start(directory, __file__, "--feed", str(records), "--rate", str(options.rate))
        run("spool and shipper", feeding)
        return watch(redis, count, size, pids, options)


def start(directory: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {name: text for name, text in os.environ.items() if "RATCHET_" not in name}
    environment |= {"PYTHONPATH": str(ROOT), "RATCHET_CONFIG": str(directory / "ratchet.toml")}
    return subprocess.Popen([sys.executable, *arguments], cwd=directory, env=environment)


def watch(
    redis: Any, count: int, size: float, pids: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    """Look once a second until everything is scored; at most four times as long as planned."""
    begin = time.monotonic()
    before = {label: cpu_seconds(pid) for label, pid in pids.items()}
    looks: list[Look] = []
    sizes: list[int] = []  # of what was seen on its way
    while time.monotonic() - begin < 4 * options.seconds + 60:
        time.sleep(1)
        looks.append(look(redis, time.monotonic() - begin))
        sizes += record_sizes(redis)
        last = looks[-1]
        if last.stored >= count and not last.stream:
            break
    feeding = [entry for entry in looks if entry.stored < count] or looks
    cpu = {label: cpu_seconds(pid) - before[label] for label, pid in pids.items()}
    while look(redis, 0).scoring or int(redis.zcard(keys.OPEN)):
        time.sleep(1)
        if time.monotonic() - begin > 5 * options.seconds + 120:
            break
    rewarded = time.monotonic() - begin
    half = feeding[len(feeding) // 2 :]
    steady = [entry for entry in feeding if entry.seconds > 5] or feeding
    rate = (steady[-1].stored - steady[0].stored) / max(
        1e-9, steady[-1].seconds - steady[0].seconds
    )
    counts = Store(redis).counts()
    return {
        "transitions": count,
        "record_bytes": round(sum(sizes) / len(sizes)) if sizes else round(size),
        "offered_per_second": options.rate,
        "transitions_per_second": round(rate, 1),
        "stream_most": max(entry.stream for entry in feeding),
        "stream_growth_per_second": round(slope([(e.seconds, e.stream) for e in half]), 2),
        "scoring_most": max(entry.scoring for entry in feeding),
        "scoring_growth_per_second": round(slope([(e.seconds, e.scoring) for e in half]), 2),
        "jobs_most": max(entry.jobs for entry in looks),
        "stored_seconds": round(looks[-1].seconds, 1),
        "rewarded_seconds": round(rewarded, 1),
        "left_to_score": look(redis, 0).scoring,
        "rewarded": int(counts["rewarded"]),
        "quarantined": int(counts["quarantined"]),
        "bytes_per_transition": round(int(redis.info("memory")["used_memory"]) / count),
        "cpu_us_per_transition": {label: round(t / count * 1e6) for label, t in cpu.items()},
        "looks": [asdict(entry) for entry in looks],
    }


def look(redis: Any, seconds: float) -> Look:
    pipe = redis.pipeline(transaction=False)
    pipe.hget(keys.COUNTS, "transitions")
    pipe.zcount(keys.SCORING, "-inf", time.time())
    pipe.llen("rq:queue:rewards")
    pipe.smembers(keys.GATEWAYS)
    stored, scoring, jobs, gateways = pipe.execute()
    stream = sum(redis.xlen(keys.traffic(name.decode())) for name in gateways)
    return Look(round(seconds, 2), int(stored or 0), stream, scoring, jobs)


def record_sizes(redis: Any) -> list[int]:
    """Bytes of the newest few records of each stream."""
    return [
        len(fields[b"r"])
        for name in redis.smembers(keys.GATEWAYS)
        for _, fields in redis.xrevrange(keys.traffic(name.decode()), count=5)
    ]


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares: by how much the second grows with the first."""
    count = len(points)
    if count < 2:
        return 0.0
    middle = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - middle[0]) ** 2 for x, _ in points)
    return sum((x - middle[0]) * (y - middle[1]) for x, y in points) / spread if spread else 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def section(found: dict[str, Any]) -> str:
    """The section of the page."""
    shown = {
        "transitions a second, sustained": f"{found['transitions_per_second']:,.0f}",
        "offered": f"{found['offered_per_second']:,.0f}",
        "bytes a record": f"{found['record_bytes']:,}",
        "longest stream, entries": f"{found['stream_most']:,}",
        "growth of the stream a second, second half": f"{found['stream_growth_per_second']:,}",
        "most trajectories due for scoring": f"{found['scoring_most']:,}",
        "growth of those a second, second half": f"{found['scoring_growth_per_second']:,}",
        "most jobs in RQ's queue": f"{found['jobs_most']:,}",
    }
    shown |= {
        f"CPU us a transition, {label}": f"{spent:,}"
        for label, spent in found["cpu_us_per_transition"].items()
    }
    return markdown(("what", "figure"), [[name, text] for name, text in shown.items()])


if __name__ == "__main__":
    main()
