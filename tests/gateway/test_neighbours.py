"""Counts of several processes as one, whoever is asked and whoever has died."""

import os
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.neighbours import Neighbours, merged


def counted(chats: int, revision: int) -> bytes:
    metrics = Metrics()
    for _ in range(chats):
        metrics.calls.add("chat", 200, 0.3, 0.2)
    metrics.in_flight.labels("policy", "0").set(chats)
    metrics.feedback.labels("reward", "user", "accepted").inc(chats)
    metrics.revision.labels("policy").set(revision)
    return metrics.render()


def samples(text: bytes) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, ",".join(sorted(sample.labels.values()))): sample.value
        for family in families
        for sample in family.samples
    }


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_counts_and_gauges_add_up_and_the_revision_is_the_oldest() -> None:
    found = samples(merged([counted(2, 7), counted(3, 5)]))
    assert found["ratchet_requests_total", "200,chat"] == 5
    assert found["ratchet_request_seconds_count", "chat"] == 5
    assert found["ratchet_request_seconds_bucket", "0.5,chat"] == 5
    assert found["ratchet_request_seconds_bucket", "0.1,chat"] == 0
    assert found["ratchet_upstream_seconds_sum", "chat"] == pytest.approx(1.0)
    assert found["ratchet_in_flight", "0,policy"] == 5
    assert found["ratchet_feedback_total", "accepted,reward,user"] == 5
    assert found["ratchet_registry_revision", "policy"] == 5
    assert found["ratchet_records_dropped_total", ""] == 0


def test_one_exposition_stays_as_it_is() -> None:
    text = counted(2, 7)
    assert samples(merged([text])) == samples(text)


async def test_whoever_is_asked_counts_for_all(tmp_path: Path) -> None:
    one = Neighbours(tmp_path, lambda: counted(1, 1))
    await one.open()
    other = Neighbours(tmp_path, lambda: counted(2, 1))
    other._path = tmp_path / "0.sock"  # as if it were another process
    await other.open()
    for asked in (one, other):
        found = samples(await asked.render_all())
        assert found["ratchet_requests_total", "200,chat"] == 3
    await other.close()
    assert samples(await one.render_all())["ratchet_requests_total", "200,chat"] == 1
    await one.close()
    assert names(tmp_path) == []


async def test_a_process_that_was_killed_is_forgotten(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "1.sock"))
    one = Neighbours(tmp_path, lambda: counted(1, 1))
    await one.open()
    assert samples(await one.render_all())["ratchet_requests_total", "200,chat"] == 1
    assert names(tmp_path) == [f"{os.getpid()}.sock"]
    await one.close()


async def test_a_directory_that_takes_no_socket_leaves_the_own_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = Neighbours(tmp_path / ("x" * 120), lambda: counted(1, 1))
    await one.open()
    assert "counts alone" in caplog.text
    assert samples(await one.render_all())["ratchet_requests_total", "200,chat"] == 1
    await one.close()
