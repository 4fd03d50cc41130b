"""The figures for a terminal, with rich."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.gateway_bench.rows import Figure, Row, verdicts

COLUMNS = (
    "gateway",
    "CPU µs",
    "+p50 µs",
    "+p99 µs",
    "requests/s",
    "chunks/s",
    "RSS MB",
    "errors",
)


def spread(found: Figure, digits: int = 0) -> str:
    """`median (least..most)`."""
    if found.least == found.most:
        return f"{found.median:,.{digits}f}"
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f}..{found.most:,.{digits}f})"


def digits_of(found: Figure) -> int:
    """One more digit for small figures."""
    return 1 if abs(found.median) < 100 else 0


def cells(row: Row, *, is_short: bool = False) -> list[str]:
    """A row's columns, as text; when short, only CPU and p50 have their spread."""
    is_stream = row.scenario != "json"
    is_gateway = row.gateway != "direct"

    def less(found: Figure, digits: int = 0) -> str:
        return f"{found.median:,.{digits}f}" if is_short else spread(found, digits)

    return [
        row.gateway,
        spread(row.cpu_us, digits_of(row.cpu_us)) if is_gateway else "",
        spread(row.added_p50_us) if is_gateway else "",
        less(row.added_p99_us) if is_gateway else "",
        less(row.rps),
        less(row.chunks_per_second) if is_stream else "",
        less(row.rss_mb, digits_of(row.rss_mb)) if is_gateway else "",
        str(row.errors),
    ]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Rows by traffic, in order."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.scenario, row.clients), []).append(row)
    return groups


def title(scenario: str, clients: int) -> str:
    """What a table is about."""
    kinds = {
        "json": "JSON answers of 1 KB",
        "burst": "streams of 51 events, all at once",
        "paced": "streams of 51 events, one at a time",
    }
    return f"{kinds[scenario]}, {clients} client{'s' if clients > 1 else ''}"


def tables(rows: Sequence[Row], missing: Mapping[str, str]) -> list[Table]:
    """One table for each traffic; a gateway that is missing is named in each."""
    found = []
    for (scenario, clients), group in grouped(rows).items():
        table = Table(title=title(scenario, clients))
        for column in COLUMNS:
            table.add_column(
                column, justify="left" if column == "gateway" else "right", no_wrap=True
            )
        for row in group:
            table.add_row(*cells(row, is_short=True))
        for name in missing:
            table.add_row(name, "missing")
        found.append(table)
    return found


VERDICT_COLUMNS = ("Ratchet's", "line", "divided by that of", "is", "at most", "holds")


def verdict_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The claims and whether they hold; those without a measurement are not in it."""
    names = {"cpu_us": "CPU", "added_p50_us": "added p50"}
    lines = []
    for verdict in verdicts(rows):
        claim = verdict.claim
        unit = " µs" if claim.other is None else ""
        if verdict.ratio is not None:
            lines.append(
                [
                    f"{names[claim.figure]}, {claim.scenario} x {claim.clients}",
                    verdict.line,
                    claim.other or "nobody",
                    f"{verdict.ratio:.3g}{unit}",
                    f"{claim.most:.3g}{unit}" if verdict.holds is not None else "",
                    {True: "yes", False: "no", None: ""}[verdict.holds],
                ]
            )
    return lines


def verdict_table(rows: Sequence[Row]) -> Table:
    """The claims, for a terminal."""
    table = Table(title="What was promised")
    for column in VERDICT_COLUMNS:
        table.add_column(column, no_wrap=True)
    for line in verdict_cells(rows):
        table.add_row(*line)
    return table
