"""Replay: old traffic under new settings, the same each time, hot and cold."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.workers.records import transition, vote
from tests.workers.redis_server import RedisServer
from tests.workers.test_archiver import archive_all, rescore
from trajectories.archive import Archive, Filters, Place
from trajectories.privacy.forget import Forgetting, Wanted
from trajectories.settings import RewardSettings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer
from workers.replay import replay

HARSH = Scorer.from_settings(RewardSettings.model_validate({"air": {"truncated": -0.9}}))


def traffic(redis: Any, place: Place) -> Store:
    """Three trajectories that were cut short: in the archive, in both, in Redis."""
    store = Store(redis)
    for name in ("cold", "both", "hot"):
        if name == "hot":
            archive_all(redis, place)
            for key in redis.scan_iter("*cold*"):
                redis.delete(key)
        cut = transition(0, trajectory=name, content="a", finish_reason="length")
        store.add_transition(cut.model_copy(update={"started_at": 1.7e9}))
        store.add_feedback(vote(1.0, trajectory=name))
        rescore(store, TrajectoryRef("default", name))
    return store


def test_a_replay_shows_what_would_change_and_changes_nothing(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = traffic(redis, place)
    first = replay(redis, place, HARSH, Filters()).figures()
    assert first == replay(redis, place, HARSH, Filters()).figures()
    assert (first["trajectories"], first["changed"]) == (3, 3)
    assert (first["mean_before"], first["mean_after"]) == (0.7, 0.1)
    assert first["signals"]["air:truncated"] == {
        "before": 3, "after": 3, "mean_before": -0.3, "mean_after": -0.9,
    }  # fmt: skip
    found = store.trajectory(TrajectoryRef("default", "hot"))
    assert found is not None
    assert found.reward == 0.7


def test_siblings_are_replayed_and_are_in_no_figure(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = traffic(redis, place)
    alone = replay(redis, place, HARSH, Filters()).figures()
    ref = TrajectoryRef("default", "sibling")
    cut = transition(0, trajectory=ref.id, content="a", finish_reason="length")
    store.add_transition(cut.model_copy(update={"rollout": "tr_hot_0"}))
    store.add_feedback(vote(1.0, trajectory=ref.id))
    rescore(store, ref)
    assert replay(redis, place, HARSH, Filters(), is_written=True).figures() == alone
    found = store.trajectory(ref)
    assert found is not None
    assert found.reward == pytest.approx(0.1)


def test_a_written_replay_is_read_and_a_second_one_finds_nothing(
    redis: Any, tmp_path: Path
) -> None:
    place = Place(str(tmp_path))
    store = traffic(redis, place)
    assert replay(redis, place, HARSH, Filters(), is_written=True).changed == 3
    archive_all(redis, place)
    again = replay(redis, place, HARSH, Filters(), is_written=True)
    assert (again.changed, again.rewritten, again.trajectories) == (0, 0, 3)
    (cold,) = [r for r in Archive(place).scan() if r.trajectory.id == "cold"]
    assert cold.trajectory.reward is not None
    assert abs(cold.trajectory.reward - 0.1) < 1e-9
    for name in ("both", "hot"):
        found = store.trajectory(TrajectoryRef("default", name))
        assert found is not None
        assert found.reward == cold.trajectory.reward


def test_a_replay_with_the_settings_of_then_finds_nothing(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    traffic(redis, place)
    same = Scorer.from_settings(RewardSettings())
    assert replay(redis, place, same, Filters()).rewritten == 0


def test_a_replay_is_of_what_was_asked_for(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    traffic(redis, place)
    assert replay(redis, place, HARSH, Filters(since=1.8e9)).trajectories == 0
    assert replay(redis, place, HARSH, Filters(agent="nobody")).trajectories == 0


def test_the_command_shows_a_table_and_writes_figures(
    server: RedisServer, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RATCHET_REDIS_URL", server.url)
    monkeypatch.setenv("RATCHET_REWARDS_AIR", '{"truncated": -0.9}')
    place = Place(str(tmp_path / "data" / "archive"))
    with server.client() as redis:
        traffic(redis, place)
    report = tmp_path / "report.json"
    for is_written, changed in (([], 3), (["--write"], 3), ([], 0)):
        done = subprocess.run(
            [sys.executable, "-m", "ratchet.cli", "rewards", "replay",
             "--data-dir", str(tmp_path / "data"), "--json", str(report), *is_written],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert orjson.loads(report.read_bytes())["changed"] == changed
        assert f"3 trajectories, {changed} with another reward" in done.stdout


def test_what_is_forgotten_during_a_replay_does_not_come_back(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = traffic(redis, place)
    ref = TrajectoryRef("default", "cold")
    forgetting = Forgetting(redis, place, tmp_path / "runs")
    looked: list[int] = []

    def forget() -> None:
        """Once the last one was read: the new edition of `cold` is drafted by then."""
        looked.append(1)
        if len(looked) == 3:
            forgetting.forget(Wanted("default", frozenset({ref})), settle_seconds=0)

    replay(redis, place, HARSH, Filters(), is_written=True, advance=forget)
    assert len(looked) == 3
    assert Archive(place).read(ref) is None
    assert store.trajectory(ref) is None
