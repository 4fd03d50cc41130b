"""What the archiver writes: without what identifies people, and read back as the same edition."""

from pathlib import Path
from typing import Any

import pytest

from tests.trajectories.archive.records import conversation
from tests.workers.records import vote
from tests.workers.test_archiver import archive_all, rescore
from trajectories import keys
from trajectories.archive import Archive, Place
from trajectories.archive.scrubbing import open_scrub
from trajectories.errors import SettingsError
from trajectories.privacy.users import pseudonym, users_of
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef


def test_people_are_gone_from_the_archive_and_stay_in_redis(redis: Any, tmp_path: Path) -> None:
    place, store = Place(str(tmp_path / "archive")), Store(redis)
    (step,) = conversation("traj_a", 1)
    messages = [{"role": "user", "content": "I am ann@example.org, +49 30 901820"}]
    request = {"messages": messages, "user": "ann@example.org"}
    store.add_transition(step.model_copy(update={"request": request}))
    said = vote(0.5, trajectory="traj_a").model_copy(update={"comment": "ask ann@example.org"})
    store.add_feedback(said)
    rescore(store)
    scrub = open_scrub(Settings(), redis)
    archive_all(redis, place, scrub=scrub)
    for path in (tmp_path / "archive").rglob("*"):
        assert path.is_dir() or b"ann@example.org" not in path.read_bytes()
    cold = Archive(place).read(TrajectoryRef("default", "traj_a"))
    assert cold is not None
    (found,) = cold.trajectory.transitions
    assert found.request["messages"][0]["content"] == "I am <EMAIL_1>, <PHONE_1>"
    assert cold.feedback[0].comment == "ask <EMAIL_1>"
    assert list(users_of(found.request)) == [pseudonym("ann@example.org", redis.get(keys.USER_KEY))]
    hot = store.trajectory(TrajectoryRef("default", "traj_a"))
    assert hot is not None
    assert hot.transitions[0].request == request
    # Killed between the manifest and the note of it: it is known again, and not written twice.
    rescore(store)
    before = len(Archive(place).manifests())
    redis.hset(keys.trajectory("default", "traj_a"), mapping={"edition": 1, "archived": 0})
    archive_all(redis, place, scrub=scrub)
    assert len(Archive(place).manifests()) == before
    assert store.count_archiving() == 0


def test_a_finder_that_is_not_there_stops_the_archiver(redis: Any) -> None:
    with pytest.raises(SettingsError, match="nobody"):
        open_scrub(Settings(privacy={"scrub": ["nobody"]}), redis)
