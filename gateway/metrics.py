"""Counters for Prometheus, one registry per app, and the ASGI layer that feeds them."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.errors import Application, Message, Receive, Scope, Send

_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/feedback": "feedback",
    "/v1/models": "models",
    "/v1/trajectories": "trajectories",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/training/status": "training",
    "/training/trigger": "training",
    "/healthz": "health",
    "/readyz": "health",
    "/metrics": "metrics",
}


class Metrics:
    """Every metric of the gateway. Documented in docs/architecture.md."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ratchet_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "ratchet_request_seconds",
            "Time to the last byte",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "ratchet_in_flight",
            "Requests running, by policy version",
            ["version"],
            registry=registry,
        )
        self.recorded = Counter(
            "ratchet_recorded", "Records written to the spool", ["kind"], registry=registry
        )
        self.dropped = Counter(
            "ratchet_records_dropped", "Records that could not be written", registry=registry
        )
        self.outcomes = Counter(
            "ratchet_transitions", "Transitions by outcome", ["outcome"], registry=registry
        )
        self.fallbacks = Counter(
            "ratchet_fallbacks",
            "Calls answered by the base model because the engine had lost an adapter",
            registry=registry,
        )
        self.feedback = Counter(
            "ratchet_feedback", "Feedback accepted", ["source", "status"], registry=registry
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
            "ratchet_registry_revision", "Registry revision routed by", registry=registry
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


def route_label(path: str) -> str:
    """A bounded name for a path: clients must not be able to make new series."""
    found = _ROUTES.get(path)
    if found is not None:
        return found
    if path.startswith(("/v1/feedback/", "/v1/trajectories/")):
        return path.split("/")[2]
    return "v1" if path.startswith("/v1/") else "other"


class Measured:
    """ASGI layer: counts requests and times them to their last byte."""

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
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - started)
