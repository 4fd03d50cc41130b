#!/usr/bin/env python3
"""What recording costs on the event loop: our spool beside SQLite in WAL mode, same run.

    python benchmarks/spool.py [--records 5000] [--bytes 4096]

Rounds alternate between the two, and CPU time is what to compare: wall times
depend on whatever else the machine is doing.
"""

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

# As a script this file's folder is first on the path; its gateway.py would hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gateway.spool.writer import Spool  # noqa: E402

ROUNDS = 5


def spool_writer(directory: Path) -> tuple[Callable[[bytes], object], Callable[[], None]]:
    spool = Spool.open(directory, budget_bytes=1 << 32)
    return spool.put, spool.close


def sqlite_writer(directory: Path) -> tuple[Callable[[bytes], object], Callable[[], None]]:
    """One commit a record, as durable against a killed process as the spool is."""
    connection = sqlite3.connect(directory / "queue.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, payload BLOB)")

    def put(payload: bytes) -> object:
        return connection.execute("INSERT INTO records (payload) VALUES (?)", (payload,))

    return put, connection.close


WRITERS = {"ratchet spool": spool_writer, "sqlite, WAL": sqlite_writer}


def measure(name: str, records: int, size: int) -> tuple[float, float]:
    """CPU microseconds a record, and the 99th percentile of one call in microseconds."""
    payload = b"x" * size
    with tempfile.TemporaryDirectory() as directory:
        put, close = WRITERS[name](Path(directory))
        calls = []
        cpu = time.thread_time()
        for _ in range(records):
            started = time.perf_counter()
            put(payload)
            calls.append(time.perf_counter() - started)
        used = time.thread_time() - cpu
        close()
    return used / records * 1e6, statistics.quantiles(calls, n=100)[98] * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=4096)
    arguments = parser.parse_args()
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in WRITERS}
    for _ in range(ROUNDS):
        for name, found in rounds.items():
            found.append(measure(name, arguments.records, arguments.bytes))
    table = Table(title=f"{arguments.records} records of {arguments.bytes} B, {ROUNDS} rounds")
    for column in ("", "CPU µs a record", "p99 µs of one call"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in rounds.items():
        cpu = statistics.median(row[0] for row in found)
        tail = statistics.median(row[1] for row in found)
        table.add_row(name, f"{cpu:.1f}", f"{tail:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
