"""Spans: one for each call, a child of the client's, and nothing in it that was said."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from gateway.tracing import Tracer, provider_names
from tests.fakes.openai_server import ScriptedServer
from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, wait_for

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CONTEXT = {"traceparent": PARENT, "tracestate": "vendor=1"}
SECRET = "a canary that nobody may see"


class Traced:
    """A gateway whose spans stay in memory."""

    def __init__(self, running: Running) -> None:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        services = running.services
        names = provider_names(services.settings)
        self._services = services
        services.tracer = Tracer(self.exporter, gateway_id=services.gateway_id, providers=names)

    def spans(self) -> list[Any]:
        """Every span there was; no more are made afterwards."""
        tracer, self._services.tracer = self._services.tracer, None
        assert tracer is not None
        tracer.close()
        return list(self.exporter.get_finished_spans())


@pytest.mark.parametrize("shell", ["protocol", "twin"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_is_a_span_with_the_conventions_attributes(
    running: Running, is_streamed: bool
) -> None:
    traced = Traced(running)
    assert running.chat(stream=is_streamed, headers={"x-session-id": "s1"}).status_code == 200
    (span,) = traced.spans()
    (record,) = running.records()
    assert (span.name, span.kind.name, span.status.status_code.name) == (
        "chat policy",
        "CLIENT",
        "UNSET",
    )
    host, _, port = running.fake.url.removeprefix("http://").partition(":")
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "policy",
        "gen_ai.request.stream": is_streamed,
        "gen_ai.response.model": "base",
        "gen_ai.response.id": record.response_id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": record.usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": record.usage["completion_tokens"],
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
        "ratchet.dialect": "chat",
        "ratchet.policy": "policy",
        "ratchet.policy.version": 0,
        "ratchet.trajectory.id": record.trajectory_id,
        "ratchet.transition.id": record.id,
        "ratchet.upstream": "policy",
    }
    assert span.resource.attributes["service.name"] == "ratchet-gateway"
    assert span.resource.attributes["service.instance.id"] == running.services.gateway_id
    assert 0 < span.end_time - span.start_time < record.latency_seconds * 1e9 + 1e9


def test_it_is_a_child_of_the_clients_span_and_the_upstreams_parent(running: Running) -> None:
    traced = Traced(running)
    running.chat(headers=CONTEXT)
    running.chat()
    child, root = traced.spans()
    assert f"{child.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{child.parent.span_id:016x}" == PARENT.split("-")[2]
    assert root.parent is None
    passed = [seen.headers for seen in running.fake.requests]
    for span, headers in zip((child, root), passed, strict=True):
        found = span.context
        expected = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        assert headers["traceparent"] == expected
    assert passed[0]["tracestate"] == "vendor=1"
    assert "tracestate" not in passed[1]
    # Whose call it is is still read from what the client sent.
    assert running.records()[0].session_id == PARENT.split("-")[1]


def test_a_client_that_does_not_sample_is_not_sampled(running: Running) -> None:
    traced = Traced(running)
    running.chat(headers={"traceparent": PARENT[:-1] + "0"})
    assert traced.spans() == []
    (seen,) = running.fake.requests
    assert re.fullmatch(f"00-{PARENT.split('-')[1]}-[0-9a-f]{{16}}-00", seen.headers["traceparent"])


@pytest.mark.parametrize("parent", ["odd", "00-0-0-00", "", PARENT + "x"])
def test_a_broken_parent_begins_a_new_trace(running: Running, parent: str) -> None:
    traced = Traced(running)
    assert running.chat(headers={"traceparent": parent}).status_code == 200
    (span,) = traced.spans()
    assert span.parent is None


def test_without_tracing_the_context_passes_untouched(running: Running) -> None:
    assert running.services.tracer is None
    running.chat(headers=CONTEXT)
    (seen,) = running.fake.requests
    assert {name: seen.headers[name] for name in CONTEXT} == CONTEXT


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/responses", {"input": "hi"}, "chat policy"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}, "chat policy"),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 3}, "text_completion policy"),
        ("/v1/responses", {"input": "hi", "stream": True}, "chat policy"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "hi"}], "stream": True},
            "chat policy",
        ),
        ("/v1/completions", {"prompt": "hi", "stream": True}, "text_completion policy"),
    ],
)
def test_each_dialect_has_its_operation_and_its_usage(
    running: Running, path: str, body: dict[str, Any], name: str
) -> None:
    traced = Traced(running)
    answer = running.client.post(path, json={"model": "policy", "max_tokens": 100, **body})
    assert answer.status_code == 200
    (span,) = traced.spans()
    assert span.name == name
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert span.attributes["gen_ai.response.finish_reasons"]
    assert span.attributes["ratchet.trajectory.id"] == running.records()[0].trajectory_id


def test_embeddings_are_a_span_too(start: Callable[..., Running]) -> None:
    with ScriptedServer().serve() as other:
        route = {"upstream": "other"}
        running = start(upstreams={"other": {"url": other.url}}, routes={"e5": route})
        traced = Traced(running)
        body = {"model": "e5", "input": "hi"}
        assert running.client.post("/v1/embeddings", json=body).status_code == 200
        (span,) = traced.spans()
        assert (span.name, span.attributes["gen_ai.provider.name"]) == ("embeddings e5", "openai")
        assert span.status.status_code.name == "UNSET"


def test_an_upstream_that_answers_for_another_is_the_one_named(
    start: Callable[..., Running],
) -> None:
    with ScriptedServer().serve() as other:
        running = start(
            upstream={"url": "http://127.0.0.1:9"},
            upstreams={"other": {"url": other.url}},
            routes={
                "policy": {"upstream": "policy", "fallbacks": ["gpt"]},
                "gpt": {"upstream": "other", "model": "gpt-4o-mini"},
            },
        )
        traced = Traced(running)
        assert running.chat().status_code == 200
        (span,) = traced.spans()
        attributes = span.attributes
        assert attributes["ratchet.upstream"] == "other"
        assert attributes["gen_ai.provider.name"] == "openai"
        assert attributes["gen_ai.response.model"] == "gpt-4o-mini"
        assert attributes["server.port"] == int(other.url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("fault", "is_streamed", "error"),
    [
        ("500", False, "500"),
        ("crash_before", False, "502"),
        ("crash_after", True, "incomplete"),
        ("error_object", True, "incomplete"),
    ],
)
def test_a_failure_is_an_error_of_few_words(
    running: Running, fault: str, is_streamed: bool, error: str
) -> None:
    running.fake.fault = fault
    traced = Traced(running)
    running.chat(stream=is_streamed)
    (span,) = traced.spans()
    assert span.attributes["error.type"] == error
    assert (span.status.status_code.name, span.status.description) == ("ERROR", None)


def test_a_client_that_leaves_ends_its_span(running: Running) -> None:
    running.fake.hold()
    traced = Traced(running)
    body = {"model": "policy", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_bytes())
    wait_for(running.records)
    (span,) = traced.spans()
    assert span.attributes["error.type"] == "client_disconnect"


def test_nothing_that_was_said_is_in_a_span(running: Running) -> None:
    running.fake.reply = lambda model, messages: SECRET
    traced = Traced(running)
    said = {"messages": [{"role": "user", "content": SECRET}], "user": SECRET}
    for is_streamed in (False, True):
        assert running.chat(stream=is_streamed, **said).status_code == 200
    running.fake.fault = "500"
    running.chat(**said)
    spans = traced.spans()
    assert len(spans) == 3
    assert all(SECRET not in span.to_json() and "canary" not in span.to_json() for span in spans)


def test_spans_go_where_the_settings_say(start: Callable[..., Running]) -> None:
    with FakeVLLM().serve() as collector:
        running = start(tracing={"endpoint": f"{collector.url}/v1/traces"})
        assert running.chat(messages=[{"role": "user", "content": SECRET}]).status_code == 200
        assert running.services.tracer is not None
        running.services.tracer.close()
        (sent,) = [seen for seen in collector.requests if seen.path == "/v1/traces"]
        assert b"gen_ai.operation.name" in sent.raw
        assert SECRET.encode() not in sent.raw


def test_a_collector_that_is_away_costs_no_call(start: Callable[..., Running]) -> None:
    running = start(tracing={"endpoint": "http://127.0.0.1:9/v1/traces"})
    assert running.chat().status_code == 200
    assert len(running.records()) == 1
