#!/usr/bin/env python3
"""How many transitions a second get from the spool to a reward, and whether the lag stays bounded.

    python benchmarks/ingest.py [--rate 1500] [--seconds 60] [--json FILE] [--write]

The processes are those of a deployment: a gateway's own spool and shipper (fed
with records that were made beforehand), a Redis, one dispatcher, one worker.
Conversations of six turns, 4 KB a record, many at a time; one in ten gets a
vote. Once a second it is looked how long the stream is and how many
trajectories wait for their scoring; when the records end, how long it takes
until nothing is left. CPU time per process is what to trust on a busy machine.
"""

import argparse
import asyncio
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

# As a script this file's folder is first on the path; its gateway.py would hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.conversations import conversation  # noqa: E402
from benchmarks.gateway_bench.machine import this_machine  # noqa: E402
from benchmarks.gateway_bench.page import markdown, origin, write  # noqa: E402
from gateway.metrics import Metrics  # noqa: E402
from gateway.spool.shipper import Shipper  # noqa: E402
from gateway.spool.writer import Spool  # noqa: E402
from ratchet.redis_server import EmbeddedRedis  # noqa: E402
from trajectories import keys  # noqa: E402
from trajectories.connection import connect, connect_async  # noqa: E402
from trajectories.model import Feedback, pack_record  # noqa: E402
from trajectories.settings import RedisSettings, Settings  # noqa: E402
from trajectories.store import Store  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
TURNS = 6
GAP_SECONDS = 3.0  # between two turns of a conversation
SYSTEM_BYTES, MESSAGE_BYTES = 1_024, 300
VOTED = 10  # one conversation in as many gets a vote
LABEL_WINDOW_SECONDS = 20
TICK_SECONDS = 0.02
_LENGTH = struct.Struct("<I")


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
    parser.add_argument("--unnamed", action="store_true", help="calls that name no session")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="write them to docs/benchmarks.md")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        asyncio.run(feed(options.feed, options.rate))
        return
    found = measure(options)
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    if options.json:
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    if options.write:
        command = (
            f"python benchmarks/ingest.py --rate {options.rate:g} --seconds {options.seconds:g}"
        )
        text = f"{origin(this_machine(), command + ' --write', date.today())}\n\n{section(found)}"
        write(PAGE, "ingest", text)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One run from the first record to the last reward."""
    with tempfile.TemporaryDirectory(prefix="rt") as name:
        directory = Path(name)
        server = EmbeddedRedis(
            Settings(data_dir=directory, redis=RedisSettings(timeout_seconds=30))
        )
        server.start()
        (directory / "ratchet.toml").write_text(
            f'[redis]\nurl = "{server.settings.url}"\ntimeout_seconds = 5\n'
            f"[rewards]\nlabel_window_seconds = {LABEL_WINDOW_SECONDS}\n"
        )
        records = directory / "records"
        count, size = make(records, options)
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            processes["dispatcher"] = start(directory, "-m", "workers", "dispatcher")
            for number in range(options.workers):
                processes[f"worker {number + 1}"] = start(directory, "-m", "workers", "worker")
            time.sleep(3)
            processes["spool and shipper"] = start(
                directory, __file__, "--feed", str(records), "--rate", str(options.rate)
            )
            redis: Any = connect(server.settings)
            pids = {label: process.pid for label, process in processes.items()}
            pids["Redis"] = redis.info("server")["process_id"]
            return watch(redis, count, size, pids, options)
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(20)
            server.stop()


def start(directory: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environment = {name: text for name, text in os.environ.items() if "RATCHET_" not in name}
    environment |= {"PYTHONPATH": str(ROOT), "RATCHET_CONFIG": str(directory / "ratchet.toml")}
    return subprocess.Popen([sys.executable, *arguments], cwd=directory, env=environment)


def make(path: Path, options: argparse.Namespace) -> tuple[int, float]:
    """Write the records to a file; returns how many transitions, and their bytes on average."""
    wanted, count, size = int(options.rate * options.seconds), 0, 0
    begin = time.time() + 0.0012 * wanted + 5  # about when they will be sent
    with path.open("wb") as file:
        for payload, is_transition in islice(payloads(options, begin), wanted):
            file.write(_LENGTH.pack(len(payload)) + payload)
            count += is_transition
            size += len(payload) * is_transition
    return count, size / count


def payloads(options: argparse.Namespace, begin: float) -> Iterator[tuple[bytes, bool]]:
    """Groups of conversations, turn by turn: each goes on after `GAP_SECONDS` of traffic."""
    together = max(1, int(options.rate * GAP_SECONDS))
    sent, number = 0, 0
    while True:
        talks = []
        for _ in range(together):
            talks.append(
                conversation(
                    number,
                    turns=TURNS,
                    system_bytes=SYSTEM_BYTES,
                    message_bytes=MESSAGE_BYTES,
                    is_named=not options.unnamed,
                )
            )
            number += 1
        for turn in range(TURNS):
            for place, talk in enumerate(talks):
                at = begin + sent / options.rate
                entry = next(talk).model_copy(update={"started_at": at})
                yield pack_record(entry), True
                sent += 1
                if turn == TURNS - 1 and place % VOTED == 0:
                    vote = Feedback(
                        id=f"fb_{entry.id}",
                        identity=f"fb_{entry.id}",
                        response_id=entry.response_id,
                        reward=1.0,
                        received_at=at + 1,
                    )
                    yield pack_record(vote), False


async def feed(path: Path, rate: float) -> None:
    """A gateway's spool and shipper: records at an even rate, until all of them are in Redis."""
    from trajectories.settings import load_settings

    settings = load_settings()
    spool = Spool.open(Path.cwd() / "spool", budget_bytes=1 << 34)
    shipper = Shipper(connect_async(settings.redis), spool, Metrics())
    shipper.start()
    begin, sent = time.monotonic(), 0
    with path.open("rb") as file:
        is_over = False
        while not is_over:
            due = int((time.monotonic() - begin) * rate)
            while sent < due:
                head = file.read(_LENGTH.size)
                if not head:
                    is_over = True
                    break
                spool.put(file.read(_LENGTH.unpack(head)[0]))
                sent += 1
            shipper.hurry()
            await asyncio.sleep(TICK_SECONDS)
    await shipper.stop(grace_seconds=600)


def watch(
    redis: Any, count: int, size: float, pids: dict[str, int], options: argparse.Namespace
) -> dict[str, Any]:
    """Look once a second until everything is scored; at most four times as long as planned."""
    begin = time.monotonic()
    before = {label: cpu_seconds(pid) for label, pid in pids.items()}
    looks: list[Look] = []
    while time.monotonic() - begin < 4 * options.seconds + 60:
        time.sleep(1)
        looks.append(look(redis, time.monotonic() - begin))
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
        "record_bytes": round(size),
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
