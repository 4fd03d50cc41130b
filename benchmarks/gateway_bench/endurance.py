"""What Ratchet's memory does over a long run, and under many streams that say nothing."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.gauges import peak_rss_mb
from benchmarks.gateway_bench.running import Running
from benchmarks.gateway_bench.traffic import STREAM_EVENTS, Scenario, scenario_named
from benchmarks.gateway_bench.wire import Load, run_load

CLIENTS = 32
SLICES = 50  # of each kind of traffic: memory is read after each
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Soak:
    """Memory over a long run. `samples` are (calls so far, MB); the halves are of all calls."""

    requests: int
    streams: int
    errors: int
    seconds: float
    rss_start_mb: float
    rss_half_mb: float
    rss_end_mb: float
    rss_most_mb: float
    samples: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class IdleStreams:
    """Many streams open at once, silent after their first event."""

    streams: int
    seconds: float
    served: int
    errors: int
    first_error: str
    rss_start_mb: float
    rss_most_mb: float
    cpu_seconds: float
    first_event_p99_ms: float


def slices(total: int, count: int = SLICES) -> list[int]:
    """`total` in at most `count` parts of about one size."""
    count = min(count, total)
    return [total * (i + 1) // count - total * i // count for i in range(count)]


def half_way(samples: list[tuple[int, float]]) -> float:
    """Memory at the first sample that is not in the first half of all calls."""
    total = samples[-1][0]
    return next(rss for calls, rss in samples if calls * 2 >= total)


def soak(
    gateway: Running,
    program: Path,
    *,
    requests: int,
    streams: int,
    tell: Callable[[str, int], None],
) -> Soak:
    """So many JSON requests, then so many streams in bursts. Raises BenchmarkError.

    `tell` hears what is being done, and how many calls are behind it.
    """
    assert gateway.server is not None
    start = gateway.gauge().rss_mb
    samples: list[tuple[int, float]] = []
    calls, errors, seconds = 0, 0, 0.0
    for scenario, total in (
        (scenario_named("json", 0), requests),
        (scenario_named("burst", 0), streams),
    ):
        for part in slices(total):
            found = _load(gateway, program, scenario, clients=CLIENTS, requests=part)
            gateway.settle(found.count)
            gateway.check()
            calls, errors, seconds = calls + part, errors + found.errors, seconds + found.seconds
            rss = gateway.gauge().rss_mb
            samples.append((calls, round(rss, 1)))
            tell(f"{scenario.name}: {rss:.0f} MB", calls)
    if not samples:
        raise BenchmarkError("a soak without a call says nothing")
    return Soak(
        requests=requests,
        streams=streams,
        errors=errors,
        seconds=round(seconds, 1),
        rss_start_mb=round(start, 1),
        rss_half_mb=half_way(samples),
        rss_end_mb=samples[-1][1],
        rss_most_mb=round(peak_rss_mb(gateway.server.pid), 1),
        samples=tuple(samples),
    )


def idle_streams(
    gateway: Running, program: Path, *, streams: int, seconds: float, tell: Callable[[str], None]
) -> IdleStreams:
    """So many streams at once, each silent for `seconds` after its first event."""
    assert gateway.server is not None
    before = gateway.gauge()
    is_over = threading.Event()
    readings: list[float] = []

    def watch() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            readings.append(gateway.gauge().rss_mb)
            tell(f"{streams} streams are open: {readings[-1]:.0f} MB")

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    scenario = Scenario("idle", is_stream=True, hold_us=int(seconds * 1e6))
    try:
        found = _load(
            gateway, program, scenario, clients=streams, requests=streams, silence=seconds
        )
    finally:
        is_over.set()
        watcher.join()
    gateway.settle(found.count)
    return IdleStreams(
        streams=streams,
        seconds=seconds,
        served=found.count,
        errors=found.errors,
        first_error=found.first_error,
        rss_start_mb=round(before.rss_mb, 1),
        rss_most_mb=round(max([*readings, peak_rss_mb(gateway.server.pid)]), 1),
        cpu_seconds=round(gateway.gauge().cpu_seconds - before.cpu_seconds, 2),
        first_event_p99_ms=round(found.first_p99_us / 1000, 1),
    )


def _load(
    gateway: Running,
    program: Path,
    scenario: Scenario,
    *,
    clients: int,
    requests: int,
    silence: float = 0,
) -> Load:
    return run_load(
        program,
        gateway.request(scenario),
        port=gateway.port,
        clients=clients,
        is_stream=scenario.is_stream,
        requests=requests,
        events=STREAM_EVENTS,
        limit_seconds=silence + 300,
    )
