"""A run as a whole: without a gateway, with one that fails, and with records that are missing."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.gateway_bench import traffic
from benchmarks.gateway_bench.cli import command_line, main
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.ours import Consumer, Ratchet
from benchmarks.gateway_bench.peers import Launch
from benchmarks.gateway_bench.ports import free_port
from benchmarks.gateway_bench.rounds import Plan, visits
from benchmarks.gateway_bench.running import Running, started
from benchmarks.gateway_bench.wire import compiled, upstream
from trajectories import keys
from trajectories.connection import Redis

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)
PLAN = Plan(
    (traffic.scenario_named("json", 0),), (1,), rounds=2, seconds=0.05, warm_up_seconds=0.01
)


def record(redis: Redis, producer: str, sequences: range) -> None:
    redis.sadd(keys.GATEWAYS, producer)
    for sequence in sequences:
        redis.xadd(keys.traffic(producer), {"r": b"{}"}, id=f"{sequence}-0")


@needs_compiler
def test_one_command_writes_rows_samples_and_page(tmp_path: Path) -> None:
    rows, samples, page = (tmp_path / name for name in ("rows.json", "samples.jsonl", "page.md"))
    short = "--only direct --scenarios json --clients 1 --rounds 2 --seconds 0.05 --warm-up 0.01"

    status = main(
        [
            *short.split(),
            *("--cache", str(tmp_path / "cache")),
            *("--json", str(rows)),
            *("--samples", str(samples)),
            *("--page", str(page)),
        ]
    )

    assert status == 0
    found = json.loads(rows.read_text())
    assert [(row["gateway"], row["scenario"], row["clients"]) for row in found] == [
        ("direct", "json", 1)
    ]
    assert found[0]["errors"] == 0
    assert len(samples.read_text().splitlines()) == 2
    assert "--only direct" in page.read_text()


@needs_compiler
def test_a_peer_that_fails_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    program = compiled(tmp_path)
    lost: dict[str, str] = {}
    with upstream(program) as port:
        bench = [Running("direct", port, Launch(())), Running("smg", free_port(), Launch(()))]

        found = list(visits(PLAN, bench, program, lost=lost, tell=lambda text: None))

    assert [visit.gateway for visit in found] == ["direct", "direct"]
    assert "Connection refused" in lost["smg"]


@needs_compiler
def test_a_failure_of_our_own_ends_the_run(tmp_path: Path) -> None:
    program = compiled(tmp_path)
    ours = Running("ratchet", free_port(), Launch(()))

    with pytest.raises(BenchmarkError, match="refused"):
        list(visits(PLAN, [ours], program, lost={}, tell=lambda text: None))


def test_a_gateway_that_ends_at_once_fails_with_the_end_of_its_log(tmp_path: Path) -> None:
    launch = Launch(("sh", "-c", "echo no such option >&2; exit 3"))

    with pytest.raises(BenchmarkError, match=r"smg: .* status 3 .* no such option"):
        with started("smg", launch, port=free_port(), folder=tmp_path):
            pass


def test_records_of_every_producer_are_taken_off_and_counted(redis: Redis) -> None:
    consumer = Consumer(redis)
    record(redis, "gw_a", range(1, 4))
    record(redis, "gw_b", range(1, 3))

    assert consumer.count() == 5
    assert redis.xlen(keys.traffic("gw_a")) == 0
    record(redis, "gw_a", range(4, 6))
    assert consumer.count() == 7
    consumer.stop()


@pytest.mark.parametrize("arrived", [2, 4])
def test_figures_without_the_right_number_of_records_are_refused(
    redis: Redis, arrived: int
) -> None:
    consumer = Consumer(redis)
    record(redis, "gw_a", range(1, arrived + 1))
    ours = Ratchet("ratchet", 1, Launch(()), consumer=consumer, patience_seconds=0.1)

    with pytest.raises(BenchmarkError, match=f"{arrived} records of 3 answered calls"):
        ours.settle(3)
    consumer.stop()


def test_figures_stand_when_every_answered_call_was_recorded(redis: Redis) -> None:
    consumer = Consumer(redis)
    record(redis, "gw_a", range(1, 4))
    ours = Ratchet("ratchet", 1, Launch(()), consumer=consumer, patience_seconds=0.1)

    ours.settle(3)

    assert ours.answered == 3
    consumer.stop()


def test_the_page_names_the_command_without_the_places_of_files() -> None:
    given = ["--soak", "--json", "somewhere/rows.json", "--requests", "10"]
    assert command_line(given) == "python benchmarks/gateway.py --soak --requests 10"
