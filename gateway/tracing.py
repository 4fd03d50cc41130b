"""One OpenTelemetry span for each call, by the conventions for generative AI; off by default.

A span says who answered, how long it took, how it ended and what it used, and
never what was said. It is a child of the client's span, if the client sent one,
and the upstream gets ours as its parent. What needs a stream to be folded
happens in a thread. Built on the SDK, which is imported only when tracing is on.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from gateway.call import Call
from gateway.dialects.fold import Folded
from gateway.routing import Route
from gateway.upstreams.table import Target
from trajectories.errors import SettingsError
from trajectories.model import Outcome
from trajectories.settings import Dialect, Settings

INSTALL = "pip install 'ratchet-gateway[gateway,otel]'"
_OPERATIONS: dict[Dialect, str] = {"completions": "text_completion", "embeddings": "embeddings"}
_CONTEXT = ("traceparent", "tracestate")
_PORTS = {"http": 80, "https": 443}
_EXPORT_SECONDS = 5.0
_CLOSING_SECONDS = 3.0


class Tracer:
    """Makes spans. `start` belongs to the event loop."""

    def __init__(self, exporter: Any, *, gateway_id: str, providers: dict[str, str]) -> None:
        """`exporter` is a SpanExporter; `providers` the names of those upstreams that have one."""
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {"service.name": "ratchet-gateway", "service.instance.id": gateway_id}
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        resource = Resource.create(named).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ratchet")
        self._kind = SpanKind.CLIENT
        self._propagator = TraceContextTextMapPropagator()
        self._context_of = set_span_in_context
        self._providers = providers
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="tracing")

    def start(self, call: Call) -> "CallSpan":
        """The span of a call; the call's headers then carry it upstream."""
        carried, others = _split_context(call.passed_on)
        operation = _OPERATIONS.get(call.dialect, "chat")
        span = self._tracer.start_span(
            f"{operation} {call.model}",
            context=self._propagator.extract(carried),
            kind=self._kind,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": call.model,
                "gen_ai.request.stream": call.body.get("stream") is True,
                "ratchet.dialect": call.dialect,
                "ratchet.transition.id": call.id,
            },
        )
        own: dict[str, str] = {}
        self._propagator.inject(own, context=self._context_of(span))
        lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in own.items()]
        call.passed_on = b"".join([others, *lines])
        return CallSpan(span, call, self._providers, self._threads)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._threads.shutdown()
        # A thread that nobody has to wait for: the collector may be away.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)


class CallSpan:
    """The span of one call."""

    __slots__ = ("_call", "_providers", "_span", "_threads")

    def __init__(
        self, span: Any, call: Call, providers: dict[str, str], threads: ThreadPoolExecutor
    ) -> None:
        self._span = span
        self._call = call
        self._providers = providers
        self._threads = threads

    def ask(self, target: Target, route: Route, url: str) -> None:
        """An upstream is asked; of several the last one stays."""
        self._span.set_attributes(
            {
                "gen_ai.provider.name": self._providers.get(target.upstream, target.kind),
                "gen_ai.response.model": route.model,
                "ratchet.upstream": target.upstream,
                **_version(route),
                **_server(url),
            }
        )

    def end(
        self,
        status: int,
        outcome: Outcome | None,
        usage: dict[str, Any] | None,
        answer: Callable[[], Folded],
    ) -> None:
        """The call has ended; `answer` is called in a thread. None: it ended well."""
        self._threads.submit(self._end, time.time_ns(), status, outcome, usage, answer)

    def _end(
        self,
        ended_ns: int,
        status: int,
        outcome: Outcome | None,
        usage: dict[str, Any] | None,
        answer: Callable[[], Folded],
    ) -> None:
        from opentelemetry.trace import StatusCode

        span = self._span
        try:
            folded = answer()
            span.set_attributes(
                {
                    "http.response.status_code": status,
                    "ratchet.trajectory.id": self._call.trajectory_id,
                    **_answer(folded, usage or folded.usage or {}),
                }
            )
            error = _error_type(status, outcome, folded)
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR)  # without words: they may quote a prompt
        finally:
            span.end(ended_ns)


def open_tracer(settings: Settings, gateway_id: str) -> Tracer | None:
    """The tracer of the settings; None: tracing is off.

    Raises SettingsError when OpenTelemetry is not there.
    """
    endpoint = settings.tracing.endpoint
    if endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SettingsError(f"tracing.endpoint needs OpenTelemetry: {INSTALL}") from error
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
    return Tracer(exporter, gateway_id=gateway_id, providers=provider_names(settings))


def provider_names(settings: Settings) -> dict[str, str]:
    """Upstreams that are providers by name, as litellm calls them."""
    return {
        name: upstream.provider
        for name, upstream in settings.upstreams.items()
        if upstream.provider is not None
    }


def _split_context(passed_on: bytes) -> tuple[dict[str, str], bytes]:
    """The trace context that header lines carry, and the other lines."""
    carried: dict[str, str] = {}
    others: list[bytes] = []
    for line in passed_on.splitlines(keepends=True):
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() in _CONTEXT:
            carried[name.lower()] = value.strip()
        else:
            others.append(line)
    return carried, b"".join(others)


def _version(route: Route) -> dict[str, Any]:
    if route.version is None or route.policy is None:
        return {}
    return {"ratchet.policy": route.policy, "ratchet.policy.version": route.version}


def _server(url: str) -> dict[str, Any]:
    """Nothing for a provider whose address only its library knows."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return {}
    return {
        "server.address": parts.hostname,
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
    }


def _answer(folded: Folded, usage: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if folded.response_id is not None:
        found["gen_ai.response.id"] = folded.response_id
    reasons = [choice.finish_reason for choice in folded.choices if choice.finish_reason]
    if reasons:
        found["gen_ai.response.finish_reasons"] = reasons
    for name, counted in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        if type(usage.get(counted)) is int:
            found[f"gen_ai.usage.{name}_tokens"] = usage[counted]
    return found


def _error_type(status: int, outcome: Outcome | None, folded: Folded) -> str | None:
    """One of few words, as the conventions ask."""
    if status >= 400:
        return str(status)
    if outcome is not None:
        return None if outcome is Outcome.COMPLETE else outcome.value
    return Outcome.INCOMPLETE.value if folded.error is not None else None
