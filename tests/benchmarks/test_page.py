"""docs/benchmarks.md, and what is measured of a process tree and a long run."""

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gateway_bench import gauges, page
from benchmarks.gateway_bench.endurance import IdleStreams, Soak, half_way, slices
from benchmarks.gateway_bench.machine import Machine, processor_name
from benchmarks.gateway_bench.rows import Visit, rows_of

SOAK = Soak(200_000, 20_000, 0, 60.0, 70, 81, 82, 83, ((1, 81.0),))
IDLE = IdleStreams(1000, 60.0, 1000, 0, "", 70, 150, 1.5, 200)
DIRECT = Visit(0, "direct", "json", 32, 0, 100, 400, 90, 50_000, 0, 0, 0)


def test_a_run_replaces_its_own_section_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    page.write(path, "soak", page.long_run(SOAK, "an old run"))
    page.write(path, "idle", page.silent_streams(IDLE, "second"))
    page.write(path, "soak", page.long_run(SOAK, "third"))

    found = page.sections(path.read_text())

    assert "third" in found["soak"]
    assert "an old run" not in path.read_text()
    assert "200,000 JSON requests" in found["soak"]
    assert "1,000 were served whole" in found["idle"]
    assert "Not measured yet" in found["gateways"]


def test_the_words_around_the_sections_come_from_the_program(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    page.write(path, "idle", "kept")
    path.write_text(path.read_text().replace("# Benchmarks", "# Old words"))

    page.write(path, "soak", "new")

    assert path.read_text() == page.replaced(
        page.replaced(page.SKELETON, "idle", "kept"), "soak", "new"
    )


def test_text_with_a_backslash_is_written_as_it_is() -> None:
    assert "a\\1b" in page.replaced(page.SKELETON, "soak", "a\\1b")


def test_a_page_without_the_section_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="no section soak"):
        page.replaced("# Something else\n", "soak", "text")


def test_the_comparison_names_versions_command_missing_peers_and_errors() -> None:
    ours = replace(DIRECT, gateway="ratchet", cpu_us=30, errors=2, first_error="status: 500")
    how = page.origin(Machine("A CPU", 2, 24, "Linux 6"), "make it", date(2026, 1, 2))

    text = page.comparison(
        rows_of([DIRECT, ours]),
        missing={"smg": "pip failed: no such package"},
        versions={"ratchet": "0.1.0"},
        idle={"ratchet": 0.004},
        how=how,
    )

    assert "`make it` on 2026-01-02: A CPU, 2 cores" in text
    assert "ratchet 0.1.0" in text
    assert "| smg | missing |" in text
    assert "- smg: pip failed: no such package" in text
    assert "ratchet, json x 32: 2 errors, the first `status: 500`" in text
    assert "ratchet 4" in text


def test_every_line_of_a_table_has_as_many_columns() -> None:
    text = page.comparison(rows_of([DIRECT]), missing={"smg": "no"}, versions={}, idle={}, how="")

    table = [
        line for line in text.splitlines() if line.startswith(("| gateway", "| direct", "| smg"))
    ]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 3


def test_the_time_of_reaped_children_counts() -> None:
    fields = "S 7 1 1 0 -1 4194560 1 1 1 1 100 20 3 4 20 0 1 0 5 6 7"

    assert gauges.parse_stat(f"42 (a (b) c) {fields}") == (7, 127)


def test_a_tree_is_the_root_with_all_below_it() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 6}

    assert gauges.tree(2, parents) == {2, 3, 4}


def test_a_living_process_has_memory_and_a_peak_not_below_it() -> None:
    found = gauges.measure(os.getpid())

    assert found.count >= 1
    assert found.cpu_seconds > 0
    assert gauges.peak_rss_mb(os.getpid()) > 10


@given(st.integers(1, 300_000), st.integers(1, 100))
def test_slices_are_the_whole_in_parts_of_one_size(total: int, count: int) -> None:
    parts = slices(total, count)

    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1
    assert len(parts) == min(total, count)


def test_half_way_is_of_the_calls_not_of_the_samples() -> None:
    assert half_way([(10, 1.0), (100, 2.0), (101, 3.0), (102, 4.0)]) == 2.0


def test_the_processor_has_the_name_the_kernel_gives_it() -> None:
    assert processor_name("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n") == "A CPU @ 2 GHz"
    assert processor_name("Hardware: none\n") == os.uname().machine
