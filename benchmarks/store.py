#!/usr/bin/env python3
"""How much of Redis' memory a transition takes, and how long it is packed and unpacked.

    python benchmarks/store.py [--conversations 1000] [--json FILE] [--write]

Conversations of 20 turns are stored by the dispatcher and scored, in a Redis of
their own, whose `used_memory` before and after is the figure: everything counts
(messages, transitions, index, rewards), but what the traffic stream held while
it passed. The layout of before, one JSON for each transition, is measured beside.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any

import orjson

# As a script this file's folder is first on the path; its gateway.py would hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.conversations import conversation  # noqa: E402
from benchmarks.gateway_bench.machine import this_machine  # noqa: E402
from benchmarks.gateway_bench.page import markdown, origin, write  # noqa: E402
from ratchet.redis_server import EmbeddedRedis  # noqa: E402
from trajectories import keys  # noqa: E402
from trajectories.attempts import Attempt  # noqa: E402
from trajectories.connection import connect  # noqa: E402
from trajectories.model import Transition, pack_record  # noqa: E402
from trajectories.settings import RedisSettings, RewardSettings, Settings  # noqa: E402
from trajectories.store import Store  # noqa: E402
from workers.dispatcher import build_dispatcher  # noqa: E402
from workers.jobs import Scorer  # noqa: E402
from workers.linking import call_digest, marks_of  # noqa: E402
from workers.timing import Timing  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
WEEK = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of traffic."""

    name: str
    is_named: bool
    has_tokens: bool
    turns: int = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """What one layout took of one shape."""

    case: str
    layout: str
    transitions: int
    record_bytes: float  # as JSON, on average
    bytes_per_transition: float
    put_us: float  # CPU of the process that writes
    get_us: float  # CPU of the process that reads whole trajectories, per transition


CASES = (
    Case("text, session named", True, False),
    Case("text, session not named", False, False),
    Case("ids and logprobs, session named", True, True),
    Case("ids and logprobs, session not named", False, True),
    Case("single turns, session not named", False, False, turns=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="write them to docs/benchmarks.md")
    options = parser.parse_args()
    found = []
    for case in CASES:
        count = options.conversations if case.turns > 1 else options.conversations * 10
        if case.has_tokens:
            count = max(1, count // 3)
        for layout, measure in (("JSON", before), ("now", now)):
            found.append(run(case, layout, count, measure))
            print(" | ".join(cells(found[-1])), flush=True)
    headline = next(f.bytes_per_transition for f in found if f.layout == "now")
    with_ids = next(f for f in found if f.layout == "now" and f.case == CASES[2].name)
    if options.json:
        figures = {
            "bytes_per_transition": headline,
            "bytes_per_transition_with_ids": with_ids.bytes_per_transition,
            "rows": [asdict(entry) for entry in found],
        }
        options.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    if options.write:
        how = origin(
            this_machine(),
            f"python benchmarks/store.py --conversations {options.conversations} --write",
            date.today(),
        )
        write(PAGE, "store", f"{how}\n\n{markdown(COLUMNS, [cells(f) for f in found])}")


COLUMNS = (
    "traffic",
    "layout",
    "transitions",
    "JSON, bytes",
    "Redis, bytes",
    "put, CPU us",
    "get, CPU us",
)


def cells(found: Figures) -> list[str]:
    return [
        found.case,
        found.layout,
        f"{found.transitions:,}",
        f"{found.record_bytes:,.0f}",
        f"{found.bytes_per_transition:,.0f}",
        f"{found.put_us:,.0f}",
        f"{found.get_us:,.0f}",
    ]


Measure = Callable[[Settings, Iterable[list[Transition]]], tuple[float, float]]


def run(case: Case, layout: str, conversations: int, measure: Measure) -> Figures:
    """Measure one layout in a Redis of its own."""
    with tempfile.TemporaryDirectory(prefix="rt") as directory:
        patient = RedisSettings(timeout_seconds=30)
        server = EmbeddedRedis(Settings(data_dir=Path(directory), redis=patient))
        server.start()
        try:
            settings = Settings(data_dir=Path(directory), redis=server.settings)
            redis: Any = connect(server.settings)
            redis.config_set("appendonly", "no")
            count, size = 0, 0

            def counted() -> Iterator[list[Transition]]:
                nonlocal count, size
                for batch in batches(case, conversations):
                    count += len(batch)
                    size += sum(len(entry.to_json()) for entry in batch)
                    yield batch

            start = used(redis)
            put, get = measure(settings, counted())
            taken = used(redis) - start
            redis.close()
        finally:
            server.stop()
    return Figures(
        case.name, layout, count, size / count, taken / count, put / count * 1e6, get / count * 1e6
    )


def batches(case: Case, conversations: int, at_a_time: int = 50) -> Iterator[list[Transition]]:
    """Turn by turn of some conversations, then of the next: as they come from many clients."""
    for first in range(0, conversations, at_a_time):
        begun = [
            conversation(
                number,
                turns=case.turns,
                is_named=case.is_named,
                has_tokens=case.has_tokens,
                started_at=time.time(),
            )
            for number in range(first, min(first + at_a_time, conversations))
        ]
        for turn in zip(*begun, strict=True):
            yield list(turn)


def used(redis: Any) -> int:
    redis.memory_purge()
    return int(redis.info("memory")["used_memory"])


def now(settings: Settings, batches: Iterable[list[Transition]]) -> tuple[float, float]:
    """By the dispatcher, from a stream; then scored as a worker does."""
    redis: Any = connect(settings.redis)
    redis.sadd(keys.GATEWAYS, "gw_benchmark")
    timing = Timing(block=0.001, trim_every=0, debounce=1e9)  # scored below
    dispatcher = build_dispatcher(settings, timing)
    stop, sequence, taken = Event(), 0, 0.0
    for batch in batches:
        pipe = redis.pipeline(transaction=False)
        for entry in batch:
            sequence += 1
            pipe.xadd(keys.traffic("gw_benchmark"), {"r": pack_record(entry)}, id=f"{sequence}-0")
        pipe.execute()
        start = time.process_time()
        dispatcher.step(stop)
        taken += time.process_time() - start
    while redis.xlen(keys.traffic("gw_benchmark")):
        dispatcher.step(stop)
    if jobs := redis.keys("rq:*"):
        redis.delete(*jobs)
    store = Store(redis)
    refs = list(store.all_trajectories())
    scorer = Scorer.from_settings(RewardSettings())
    for ref in refs:
        store.close(ref)
        scorer.score(store, ref)
    reader = Store(redis)
    start = time.process_time()
    for first in range(0, len(refs), 50):
        reader.trajectories(refs[first : first + 50])
    return taken, time.process_time() - start


def before(settings: Settings, batches: Iterable[list[Transition]]) -> tuple[float, float]:
    """As it was: a JSON for each transition, and a key for each thing it is known by."""
    redis: Any = connect(settings.redis)
    trajectories: dict[str, list[str]] = {}
    linked: dict[str | None, str] = {}
    taken = 0.0
    for batch in batches:
        start = time.process_time()
        for entry in batch:
            # Where nobody named a session the linker found it; here the benchmark knows.
            owner = (
                (entry.request["messages"][1]["content"])
                if entry.session_id is None
                else entry.session_id
            )
            own = linked.setdefault(owner, entry.trajectory_id)
            trajectories.setdefault(own, []).append(entry.id)
            pipe = redis.pipeline(transaction=True)
            pipe.set(f"transition:default:{entry.id}", entry.to_json(), ex=WEEK)
            key = keys.trajectory("default", own)
            pipe.zadd(f"{key}:transitions", {entry.id: entry.started_at})
            pipe.hset(
                key,
                mapping={
                    "started_at": 1.5,
                    "updated_at": 1.5,
                    "policy": "policy",
                    "revision": 1,
                    "closed": 1,
                    "scored": 1,
                },
            )
            pipe.set(f"response:default:{entry.response_id}", f"{own} {entry.id}", ex=WEEK)
            if entry.session_id is None:
                pipe.set(f"alias:default:{entry.trajectory_id}", own, ex=WEEK)
            for mark in marks_of(entry):
                pipe.zadd(f"link:default:{mark.digest}", {mark.member: entry.started_at})
                pipe.expire(f"link:default:{mark.digest}", 86_400)
            call = call_digest(entry)
            pipe.zadd(f"attempts:default:{call}", {Attempt.of(entry).member: entry.started_at})
            pipe.expire(f"attempts:default:{call}", 3_600)
            pipe.expire(key, WEEK)
            pipe.expire(f"{key}:transitions", WEEK)
            pipe.execute()
        taken += time.process_time() - start
    start = time.process_time()
    for ids in trajectories.values():
        for raw in redis.mget([f"transition:default:{name}" for name in ids]):
            Transition.from_json(raw)
    return taken, time.process_time() - start


if __name__ == "__main__":
    main()
