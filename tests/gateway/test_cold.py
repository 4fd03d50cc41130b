"""A trajectory is shown alike, whether Redis still has it or only the archive."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.conftest import Running
from tests.gateway.test_feedback import deliver
from tests.trajectories.archive.conftest import closed_port
from trajectories.archive import Archive, Archived, Place, Writer
from trajectories.store import TrajectoryRef


def test_a_trajectory_is_read_from_the_archive_once_redis_lost_it(running: Running) -> None:
    running.chat(session_id="s1")
    deliver(running)
    store = running.services.store
    hot = running.client.get("/v1/trajectories?session_id=s1").json()
    ref = TrajectoryRef("default", hot["id"])
    found = store.archivable(ref)
    assert found is not None
    place = Place(running.services.settings.archive_url)
    writer = Writer(place, 1)
    writer.add(Archived.of(found))
    list(writer.seal())
    running.redis.flushall()
    assert running.client.get("/v1/trajectories?session_id=s1").json() == hot
    assert running.client.get(f"/v1/trajectories/{hot['id']}").json() == hot
    assert Archive(place).read(TrajectoryRef("acme", hot["id"])) is None, "nobody else's"
    unknown = running.client.get("/v1/trajectories/nope")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_trajectory")


def test_an_archive_that_cannot_be_read_is_a_503_and_not_a_404(running: Running) -> None:
    root = Path(running.services.settings.archive_url)
    (root / "date=2026-01-01").mkdir(parents=True)
    (root / "date=2026-01-01" / "x.manifest.json").write_text("{")
    answer = running.client.get("/v1/trajectories/nope")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_archive")
    assert "retry-after" in answer.headers


def test_a_store_that_is_away_is_a_503_and_is_not_asked_again_at_once(
    start: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed_port(monkeypatch)
    running = start(archive={"url": "s3://bucket-that-is-away/ratchet"})
    asked: list[str] = []
    find = Place.find
    monkeypatch.setattr(Place, "find", lambda place, end: asked.append(end) or find(place, end))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            answer = running.client.get("/v1/trajectories/nope")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_archive")
    assert len(asked) == 1
    assert "EndpointConnectionError" in caplog.text
    running.services.cold._away_until = 0
    assert running.client.get("/v1/trajectories/nope").status_code == 503
    assert len(asked) > 1
