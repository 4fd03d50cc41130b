"""From visits to rows: what a gateway added, medians over rounds, and how they compare. Pure."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DIRECT = "direct"
ORDER = ("json", "burst", "paced")


@dataclass(frozen=True, slots=True)
class Visit:
    """One measurement: a gateway under one traffic in one round. Times of whole answers."""

    round: int
    gateway: str
    scenario: str
    clients: int
    cpu_us: float
    p50_us: float
    p99_us: float
    first_p50_us: float
    rps: float
    chunks_per_second: float
    rss_mb: float
    errors: int
    first_error: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with its spread."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """A gateway under one traffic, over all rounds. `added_*` is against direct, round by round."""

    gateway: str
    scenario: str
    clients: int
    rounds: int
    cpu_us: Figure
    added_p50_us: Figure
    added_p99_us: Figure
    added_first_p50_us: Figure
    rps: Figure
    chunks_per_second: Figure
    rss_mb: Figure
    errors: int
    first_error: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What we promise: CPU or latency as a share of another's (or in µs), and its limit.

    It is held against the line `ours`; the other line of Ratchet's is shown beside it.
    """

    ours: str
    other: str | None
    scenario: str
    clients: int
    figure: str  # "cpu_us" or "added_p50_us"
    most: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim beside what was measured of a line; None where one of the two is missing."""

    claim: Claim
    line: str
    ours: float | None
    theirs: float | None

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs; ours itself where the claim names nobody."""
        if self.ours is None or (self.claim.other is not None and not self.theirs):
            return None
        return self.ours / (self.theirs or 1)

    @property
    def holds(self) -> bool | None:
        """None, too, for the line that the claim is not held against."""
        if self.ratio is None or self.line != self.claim.ours:
            return None
        return self.ratio <= self.claim.most


LINES = ("ratchet", "ratchet-relay")  # with token ids and log probabilities, and without
_IDS, _RELAY = LINES
CLAIMS = (
    Claim(_RELAY, "vllm-router", "json", 32, "cpu_us", 0.6),
    Claim(_RELAY, "nginx", "json", 32, "cpu_us", 2.5),
    Claim(_RELAY, "portkey", "json", 32, "cpu_us", 1 / 20),
    Claim(_RELAY, "litellm", "json", 32, "cpu_us", 1 / 200),
    Claim(_IDS, None, "json", 1, "added_p50_us", 300),
    Claim(_RELAY, "vllm-router", "json", 1, "added_p50_us", 1.0),
    Claim(_IDS, "vllm-router", "burst", 32, "cpu_us", 0.8),
    Claim(_IDS, "vllm-router", "paced", 32, "cpu_us", 0.85),
    Claim(_IDS, "litellm", "paced", 32, "cpu_us", 1 / 25),
)


def figure(values: Sequence[float]) -> Figure:
    """Median, least and most of at least one value."""
    return Figure(statistics.median(values), min(values), max(values))


def rows_of(visits: Iterable[Visit]) -> list[Row]:
    """One row for each gateway and traffic, in the order in which they were first visited.

    A visit counts only when direct was visited under the same traffic in the
    same round: what an interrupted round left over is dropped.
    """
    found = list(visits)
    direct = {(v.round, v.scenario, v.clients): v for v in found if v.gateway == DIRECT}
    groups: dict[tuple[str, str, int], list[tuple[Visit, Visit]]] = defaultdict(list)
    for visit in found:
        base = direct.get((visit.round, visit.scenario, visit.clients))
        if base is not None:
            groups[visit.gateway, visit.scenario, visit.clients].append((visit, base))
    rows = [_row(pairs) for pairs in groups.values()]
    return sorted(rows, key=lambda row: (ORDER.index(row.scenario), -row.clients))


def _row(pairs: Sequence[tuple[Visit, Visit]]) -> Row:
    def over(value: Callable[[Visit], float]) -> Figure:
        return figure([value(visit) for visit, _ in pairs])

    def added(value: Callable[[Visit], float]) -> Figure:
        return figure([value(visit) - value(base) for visit, base in pairs])

    first = pairs[0][0]
    return Row(
        gateway=first.gateway,
        scenario=first.scenario,
        clients=first.clients,
        rounds=len(pairs),
        cpu_us=over(lambda visit: visit.cpu_us),
        added_p50_us=added(lambda visit: visit.p50_us),
        added_p99_us=added(lambda visit: visit.p99_us),
        added_first_p50_us=added(lambda visit: visit.first_p50_us),
        rps=over(lambda visit: visit.rps),
        chunks_per_second=over(lambda visit: visit.chunks_per_second),
        rss_mb=over(lambda visit: visit.rss_mb),
        errors=sum(visit.errors for visit, _ in pairs),
        first_error=next((visit.first_error for visit, _ in pairs if visit.first_error), ""),
    )


def as_json(row: Row) -> dict[str, Any]:
    """The row as `--json` writes it: medians only."""
    return {
        "gateway": row.gateway,
        "scenario": row.scenario,
        "clients": row.clients,
        "cpu_us": round(row.cpu_us.median, 2),
        "added_p50_us": round(row.added_p50_us.median, 2),
        "added_p99_us": round(row.added_p99_us.median, 2),
        "rps": round(row.rps.median, 1),
        "rss_mb": round(row.rss_mb.median, 1),
        "errors": row.errors,
    }


def as_sample(visit: Visit) -> dict[str, Any]:
    """A visit as `--samples` writes it, one line of JSON each."""
    return asdict(visit)


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Every claim beside what the rows say: of the line it is held against, then of the other."""
    found = {(row.gateway, row.scenario, row.clients): row for row in rows}

    def value(gateway: str | None, claim: Claim) -> float | None:
        row = found.get((gateway or "", claim.scenario, claim.clients))
        if row is None:
            return None
        measured = row.cpu_us if claim.figure == "cpu_us" else row.added_p50_us
        return measured.median

    return [
        Verdict(claim, line, value(line, claim), value(claim.other, claim))
        for claim in CLAIMS
        for line in sorted(LINES, key=lambda line: line != claim.ours)
    ]


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The order of one round: each begins with another gateway."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]
