"""From visits to rows, claims and JSON."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gateway_bench.rows import (
    CLAIMS,
    Visit,
    as_json,
    as_sample,
    rotated,
    rows_of,
    verdicts,
)
from benchmarks.gateway_bench.table import cells, spread, tables, verdict_cells

DIRECT = Visit(
    round=0,
    gateway="direct",
    scenario="json",
    clients=32,
    cpu_us=0,
    p50_us=100,
    p99_us=400,
    first_p50_us=90,
    rps=50_000,
    chunks_per_second=0,
    rss_mb=0,
    errors=0,
)
OURS = replace(DIRECT, gateway="ratchet", cpu_us=30, p50_us=180, p99_us=600, rss_mb=60, rps=9000)


def test_what_a_gateway_adds_is_its_percentile_minus_that_of_direct_in_the_same_round() -> None:
    slow_direct = replace(DIRECT, round=1, p50_us=1000)
    visits = [DIRECT, OURS, slow_direct, replace(OURS, round=1, p50_us=1100)]

    row = rows_of(visits)[1]

    assert (row.gateway, row.rounds) == ("ratchet", 2)
    assert (row.added_p50_us.least, row.added_p50_us.median, row.added_p50_us.most) == (80, 90, 100)


def test_a_row_is_the_median_over_the_rounds_with_least_and_most() -> None:
    visits = [replace(DIRECT, round=turn) for turn in range(3)]
    visits += [replace(OURS, round=turn, cpu_us=cpu) for turn, cpu in enumerate((30.0, 90.0, 31.0))]

    figure = rows_of(visits)[1].cpu_us

    assert (figure.median, figure.least, figure.most) == (31, 30, 90)
    assert spread(figure) == "31 (30..90)"


def test_a_visit_whose_round_has_no_direct_is_not_in_a_row() -> None:
    assert [row.rounds for row in rows_of([DIRECT, OURS, replace(OURS, round=1)])] == [1, 1]
    assert rows_of([OURS]) == []


def test_errors_are_summed_and_the_first_one_is_kept() -> None:
    visits = [DIRECT, replace(DIRECT, round=1)]
    visits += [OURS, replace(OURS, round=1, errors=3, first_error="no [DONE]")]

    row = rows_of(visits)[1]

    assert (row.errors, row.first_error) == (3, "no [DONE]")
    assert cells(row)[-1] == "3"


def test_a_json_row_has_the_promised_keys_and_nothing_else() -> None:
    row = json.loads(json.dumps(as_json(rows_of([DIRECT, OURS])[1])))

    assert row == {
        "gateway": "ratchet",
        "scenario": "json",
        "clients": 32,
        "cpu_us": 30,
        "added_p50_us": 80,
        "added_p99_us": 200,
        "rps": 9000,
        "rss_mb": 60,
        "errors": 0,
    }


def test_a_sample_can_be_read_back() -> None:
    assert Visit(**json.loads(json.dumps(as_sample(OURS)))) == OURS


def test_a_claim_holds_when_the_ratio_is_within_its_limit() -> None:
    relay = replace(OURS, gateway="ratchet-relay")
    router = replace(OURS, gateway="vllm-router", cpu_us=60)
    nginx = replace(OURS, gateway="nginx", cpu_us=10)

    told = verdicts(rows_of([DIRECT, relay, router, nginx]))
    found = {verdict.claim: verdict for verdict in told if verdict.line == verdict.claim.ours}

    of = {(claim.other, claim.scenario): found[claim] for claim in CLAIMS}
    assert (of["vllm-router", "json"].ratio, of["nginx", "json"].ratio) != (None, None)
    by_router = found[next(c for c in CLAIMS if c.other == "vllm-router" and c.figure == "cpu_us")]
    assert (by_router.ratio, by_router.holds) == (0.5, True)
    assert (of["nginx", "json"].ratio, of["nginx", "json"].holds) == (3, False)


def test_a_claim_against_a_missing_gateway_is_neither_held_nor_broken() -> None:
    found = verdicts(rows_of([DIRECT, OURS]))

    assert all(verdict.ratio is None and verdict.holds is None for verdict in found)
    assert verdict_cells(rows_of([DIRECT, OURS])) == []


def test_the_line_that_a_claim_is_not_held_against_stands_beside_it_without_a_limit() -> None:
    dearer = replace(OURS, cpu_us=70)
    relay = replace(OURS, gateway="ratchet-relay")
    router = replace(OURS, gateway="vllm-router", cpu_us=60)

    assert verdict_cells(rows_of([DIRECT, dearer, relay, router])) == [
        ["CPU, json x 32", "ratchet-relay", "vllm-router", "0.5", "0.6", "yes"],
        ["CPU, json x 32", "ratchet", "vllm-router", "1.17", "", ""],
    ]


def test_the_claim_without_another_gateway_is_about_microseconds() -> None:
    alone = [replace(DIRECT, clients=1), replace(OURS, clients=1)]

    assert verdict_cells(rows_of(alone)) == [
        ["added p50, json x 1", "ratchet", "nobody", "80 µs", "300 µs", "yes"]
    ]


def test_a_missing_gateway_is_named_in_every_table() -> None:
    burst = [replace(visit, scenario="burst") for visit in (DIRECT, OURS)]

    found = tables(rows_of([DIRECT, OURS, *burst]), {"smg": "pip failed"})

    assert len(found) == 2
    assert all("smg" in list(table.columns[0].cells) for table in found)
    assert all("missing" in list(table.columns[1].cells) for table in found)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.integers(0, 20))
def test_each_round_visits_every_gateway_and_begins_with_the_next(
    names: list[str], turn: int
) -> None:
    order = rotated(names, turn)

    assert sorted(order) == sorted(names)
    assert order[0] == names[turn % len(names)]
