"""Counters for Prometheus, one registry per app, and the ASGI layer that feeds them.

What is counted for every call is a plain number in a dictionary, bumped in
place on the event loop and rendered when somebody asks.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.errors import Application, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_ADDED_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 1)
_ROUTES = {
    "/v1/feedback": "feedback",
    "/v1/models": "models",
    "/v1/deployments": "models",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/trajectories": "trajectories",
    "/training/status": "training",
    "/training/trigger": "training",
    "/healthz": "health",
    "/readyz": "health",
    "/metrics": "metrics",
}


class Tally(Collector):
    """A counter with one label."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._family = (name, documentation, label)
        self._counts: dict[str, float] = {}

    def add(self, value: str, count: float = 1) -> None:
        self._counts[value] = self._counts.get(value, 0) + count

    def collect(self) -> Iterator[Metric]:
        name, documentation, label = self._family
        family = CounterMetricFamily(name, documentation, labels=[label])
        for value, count in list(self._counts.items()):
            family.add_metric([value], count)
        yield family


class Times:
    """A histogram of seconds, by one label."""

    def __init__(self, name: str, documentation: str, buckets: tuple[float, ...]) -> None:
        self._family = (name, documentation)
        self._bounds = buckets
        self._found: dict[str, tuple[list[int], list[float]]] = {}

    def observe(self, value: str, seconds: float) -> None:
        found = self._found.get(value)
        if found is None:
            found = self._found[value] = ([0] * (len(self._bounds) + 1), [0.0])
        found[0][bisect_left(self._bounds, seconds)] += 1
        found[1][0] += seconds

    def family(self) -> Metric:
        family = HistogramMetricFamily(*self._family, labels=["route"])
        for value, (counts, total) in list(self._found.items()):
            below, buckets = 0, []
            for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric([value], buckets, total[0])
        return family


class Calls(Collector):
    """Requests by route and status, and where their time went."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._total = Times("ratchet_request_seconds", "Time to the last byte", _SECONDS)
        self._upstream = Times(
            "ratchet_upstream_seconds", "From asking an upstream to its last byte", _SECONDS
        )
        self._added = Times(
            "ratchet_added_seconds", "What the gateway added to the upstream's time", _ADDED_SECONDS
        )

    def add(self, route: str, status: int, seconds: float, upstream_seconds: float = 0.0) -> None:
        """A request was answered; without an upstream's time, none was asked."""
        key = (route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._total.observe(route, seconds)
        if upstream_seconds > 0:
            self._upstream.observe(route, upstream_seconds)
            self._added.observe(route, seconds - upstream_seconds)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "ratchet_requests", "Requests answered", labels=["route", "status"]
        )
        for (route, status), count in list(self._counts.items()):
            family.add_metric([route, str(status)], count)
        yield family
        yield from (self._total.family(), self._upstream.family(), self._added.family())


class Metrics:
    """Every metric of the gateway. Documented in docs/architecture.md."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.calls = Calls()
        self.recorded = Tally("ratchet_recorded", "Records written to the spool", "kind")
        self.outcomes = Tally("ratchet_transitions", "Transitions by outcome", "outcome")
        self.tokens = Tally("ratchet_tokens", "Tokens of answered calls", "kind")
        for collector in (self.calls, self.recorded, self.outcomes, self.tokens):
            registry.register(collector)
        self.in_flight = Gauge(
            "ratchet_in_flight",
            "Requests running, by policy and version",
            ["policy", "version"],
            registry=registry,
        )
        self.dropped = Counter(
            "ratchet_records_dropped", "Records that could not be written", registry=registry
        )
        self.mixed = Counter(
            "ratchet_mixed",
            "Calls that no version is stamped on: an engine's weights changed meanwhile",
            registry=registry,
        )
        self.fallbacks = Counter(
            "ratchet_fallbacks",
            "Calls sent on: to the base model for a lost adapter, or to a fallback",
            registry=registry,
        )
        self.retries = Counter(
            "ratchet_retries", "Calls asked again of another replica", registry=registry
        )
        self.feedback = Counter(
            "ratchet_feedback", "Feedback accepted", ["name", "source", "status"], registry=registry
        )
        # Of the store, whichever process is asked: not added up, and left out without Redis.
        self.of_store = CollectorRegistry()
        self.feedback_pending = Gauge(
            "ratchet_feedback_pending",
            "Votes that wait for what they are about, of all tenants",
            registry=self.of_store,
        )
        self.feedback_expired = Gauge(
            "ratchet_feedback_expired_total",
            "Votes whose target never came, since the store was made",
            registry=self.of_store,
        )
        self.spool_unshipped = Gauge(
            "ratchet_spool_unshipped",
            "Records on disk that are not in Redis yet",
            registry=registry,
        )
        self.spool_bytes = Gauge("ratchet_spool_bytes", "Size of the spool", registry=registry)
        self.ship_failures = Counter(
            "ratchet_ship_failures", "Batches Redis did not take", registry=registry
        )
        self.adopted_batches = Counter(
            "ratchet_adopted_batches", "Batches shipped for dead processes", registry=registry
        )
        self.producer_conflicts = Counter(
            "ratchet_producer_conflicts",
            "Times another gateway was found to write under our id",
            registry=registry,
        )
        self.corrupt_segments = Counter(
            "ratchet_corrupt_segments", "Spool segments set aside as broken", registry=registry
        )
        self.revision = Gauge(
            "ratchet_registry_revision",
            "Registry revision routed by",
            ["policy"],
            registry=registry,
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def render_store(self, *, pending: int, expired: int) -> bytes:
        """The exposition text of what the store counts."""
        self.feedback_pending.set(pending)
        self.feedback_expired.set(expired)
        return generate_latest(self.of_store)


def route_label(path: str) -> str:
    """A bounded name for a path: clients must not be able to make new series."""
    found = _ROUTES.get(path)
    if found is not None:
        return found
    if path.startswith("/f/"):
        return "thumbs"
    if path.startswith("/v1/responses/"):
        return "stored_responses"
    if path.startswith(("/v1/feedback/", "/v1/trajectories/", "/v1/models/")):
        return path.split("/")[2]
    return "v1" if path.startswith("/v1/") else "other"


class Measured:
    """ASGI layer: counts requests and times them to their last byte. Calls count themselves."""

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # nothing was answered: the client left

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            # Inner layers may have rewritten the path; by now it is the canonical one.
            route = route_label(scope["path"])
            self._metrics.calls.add(route, status, time.perf_counter() - started)
