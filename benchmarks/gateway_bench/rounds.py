"""The measuring: interleaved rounds over running gateways, one visit at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_bench import traffic
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.peers import PEERS
from benchmarks.gateway_bench.rows import DIRECT, Visit, rotated
from benchmarks.gateway_bench.running import Running
from benchmarks.gateway_bench.traffic import Scenario
from benchmarks.gateway_bench.wire import Load, run_load

FIRST_WARM_UP = 4
LEAST_EVENTS = traffic.STREAM_EVENTS - 2  # LiteLLM joins some; none may lose a word


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` is one visit's length, warm-up not counted."""

    scenarios: tuple[Scenario, ...]
    clients: tuple[int, ...]
    rounds: int
    seconds: float
    warm_up_seconds: float

    @property
    def traffics(self) -> list[tuple[Scenario, int]]:
        """Every scenario with every number of clients.

        A lone paced stream says nothing: the processor is idle nearly all the time,
        and its clock has ticks of 10 ms. So it is left out when there are more clients.
        """
        return [
            (scenario, clients)
            for scenario in self.scenarios
            for clients in self.clients
            if not (scenario.name == "paced" and clients < max(self.clients))
        ]


def visits(
    plan: Plan,
    gateways: Sequence[Running],
    program: Path,
    *,
    lost: dict[str, str],
    tell: Callable[[str], None],
) -> Iterator[Visit]:
    """Each round visits every gateway in turn, under one traffic after the other.

    A peer that fails is noted in `lost` and left out from then on. Raises
    BenchmarkError when the failure is Ratchet's or the bench's own.
    """
    by_name = {gateway.name: gateway for gateway in gateways}
    for turn in range(plan.rounds):
        for scenario, clients in plan.traffics:
            for name in rotated(list(by_name), turn):
                if name in lost:
                    continue
                tell(f"round {turn + 1}/{plan.rounds} · {scenario.name} x {clients} · {name}")
                try:
                    yield visit(plan, by_name[name], program, scenario, clients, turn)
                except BenchmarkError as error:
                    if name not in PEERS:
                        raise
                    lost[name] = str(error)


def visit(
    plan: Plan, gateway: Running, program: Path, scenario: Scenario, clients: int, turn: int
) -> Visit:
    """Warm up, measure, wait for what follows the answers, and read the clocks."""
    gateway.check()

    def load(seconds: float) -> Load:
        found = run_load(
            program,
            gateway.request(scenario),
            port=gateway.port,
            clients=clients,
            is_stream=scenario.is_stream,
            seconds=seconds,
            events=LEAST_EVENTS,
        )
        gateway.settle(found.count)
        return found

    # The first round also pays for caches that fill and code that is compiled while it runs.
    load(plan.warm_up_seconds * (FIRST_WARM_UP if turn == 0 else 1))
    before = gateway.gauge()
    found = load(plan.seconds)
    after = gateway.gauge()
    gateway.check()
    return Visit(
        round=turn,
        gateway=gateway.name,
        scenario=scenario.name,
        clients=clients,
        cpu_us=(after.cpu_seconds - before.cpu_seconds) / max(1, found.count + found.errors) * 1e6,
        p50_us=found.p50_us,
        p99_us=found.p99_us,
        first_p50_us=found.first_p50_us,
        rps=found.rps,
        chunks_per_second=found.chunks / found.seconds if found.seconds else 0.0,
        rss_mb=after.rss_mb,
        errors=found.errors,
        first_error=found.first_error,
    )


def idle_shares(gateways: Sequence[Running], seconds: float) -> dict[str, float]:
    """CPU seconds a second of each gateway while nobody asks."""
    running = [gateway for gateway in gateways if gateway.server is not None]
    before = [gateway.gauge().cpu_seconds for gateway in running]
    if running:
        time.sleep(seconds)
    return {
        gateway.name: (gateway.gauge().cpu_seconds - cpu) / seconds
        for gateway, cpu in zip(running, before, strict=True)
    }


def names_with_direct(only: Sequence[str]) -> list[str]:
    """The gateways to visit: direct is always among them, to subtract."""
    return list(dict.fromkeys((DIRECT, *only)))
