"""The archiver: whatever happens to it, each edition lies in the archive, and readers see one."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import fakeredis
import pytest

from tests.trajectories.archive.records import conversation
from tests.workers.records import vote
from tests.workers.redis_server import RedisServer
from trajectories import keys
from trajectories.archive import Archive, Place
from trajectories.archive.merged import read, scan
from trajectories.archive.scrubbing import scrub_with
from trajectories.errors import ScrubError
from trajectories.lease import LeaseHeld
from trajectories.model import Transition
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import ArchiveSettings, RewardSettings
from trajectories.store import Store, TrajectoryRef
from workers.archiver import Archiver, Pace
from workers.jobs import Scorer
from workers.retention import delete_days, sweep

ROOT = Path(__file__).parents[2]
SCORER = Scorer.from_settings(RewardSettings())
EAGER = ArchiveSettings(settle_seconds=0, roll_seconds=0.001)
A = TrajectoryRef("default", "traj_a")


def record(redis: Any, name: str = "traj_a", turns: int = 2, *, at: float = 1.7e9) -> Store:
    """A trajectory that was recorded, closed and scored."""
    store = Store(redis)
    for step in conversation(name, turns, at=at):
        store.add_transition(step)
    return rescore(store, TrajectoryRef("default", name))


def rescore(store: Store, ref: TrajectoryRef = A) -> Store:
    store.close(ref)
    SCORER.score(store, ref)
    return store


def archiver(redis: Any, place: Place, settings: ArchiveSettings = EAGER, **options: Any) -> Any:
    made = Archiver(redis, place, settings, SCORER, **options)
    made._lease.acquire()
    return made


class Once:
    """An event that is set after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def wait(self, seconds: float) -> bool:
        time.sleep(min(seconds, 0.002))
        return self.is_set()


def archive_all(redis: Any, place: Place, **options: Any) -> None:
    """What a run of the archiver does until nothing is left."""
    stop: Any = Once(12)
    Archiver(redis, place, EAGER, SCORER, pace=Pace(idle=0.002), **options).run(stop)


def ids(steps: tuple[Transition, ...]) -> list[str]:
    return [step.id for step in steps]


def test_what_was_closed_and_scored_is_archived_equal_to_what_redis_has(
    redis: Any, tmp_path: Path
) -> None:
    place = Place(str(tmp_path / "archive"))
    store = record(redis, turns=4)
    store.add_feedback(vote(0.5, trajectory="traj_a"))
    rescore(store)
    hot = store.trajectory(A)
    archive_all(redis, place)
    assert store.count_archiving() == 0
    cold = Archive(place).read(A)
    assert cold is not None
    assert cold.trajectory == hot
    assert [entry.reward for entry in cold.feedback] == [0.5]
    assert store.counts()["archived"] == 1


def test_an_open_trajectory_waits(redis: Any, tmp_path: Path) -> None:
    store = Store(redis)
    store.add_transition(conversation("traj_a", 1)[0])
    SCORER.score(store, A)
    archive_all(redis, Place(str(tmp_path)))
    assert Archive(Place(str(tmp_path))).read(A) is None


def test_a_late_vote_and_a_new_turn_are_new_editions(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = record(redis)
    archive_all(redis, place)
    store.add_feedback(vote(-1.0, trajectory="traj_a"))
    rescore(store)
    archive_all(redis, place)
    store.add_transition(conversation("traj_a", 3)[2])
    rescore(store)
    archive_all(redis, place)
    (cold,) = Archive(place).scan()
    assert cold.trajectory == store.trajectory(A)
    assert len(cold.trajectory.transitions) == 3
    assert cold.trajectory.reward == -1.0


def test_a_change_while_it_is_written_is_written_again(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = record(redis)
    changes = [vote(0.7, trajectory="traj_a")]

    def change(step: str) -> None:
        if step == "drafted" and changes:
            store.add_feedback(changes.pop())
            rescore(store)

    archive_all(redis, place, hook=change)
    (cold,) = Archive(place).scan()
    assert cold.trajectory.reward == 0.7
    assert store.count_archiving() == 0


def test_a_conversation_that_comes_back_after_redis_forgot_it_is_whole(
    redis: Any, tmp_path: Path
) -> None:
    place = Place(str(tmp_path))
    store = record(redis, turns=3)
    store.add_feedback(vote(1.0, response="chatcmpl-traj_a-0"))
    rescore(store)
    archive_all(redis, place)
    before = Archive(place).read(A)
    assert before is not None
    redis.flushall()
    store.add_transition(conversation("traj_a", 5)[4])
    rescore(store)
    archive_all(redis, place)
    (cold,) = Archive(place).scan()
    assert ids(cold.trajectory.transitions) == [f"tr_traj_a_{number}" for number in (0, 1, 2, 4)]
    assert cold.trajectory.reward == 1.0, "computed from the whole"
    assert cold.edition > before.edition
    assert store.edition(A) == cold.edition


def test_one_that_came_back_stays_whole_with_each_edition_that_follows(
    redis: Any, tmp_path: Path
) -> None:
    place = Place(str(tmp_path))
    store = record(redis, turns=2)
    store.add_feedback(vote(1.0, response="chatcmpl-traj_a-0"))
    rescore(store)
    archive_all(redis, place)
    redis.flushall()
    steps = conversation("traj_a", 6)
    everything = [step.id for step in steps]
    for number in (2, 3, 4):
        store.add_transition(steps[number])
        for _ in range(2):  # not scored yet, not archived yet; and then archived
            (entry,) = [entry for entry, _ in scan(store, Archive(place))]
            one = read(store, Archive(place), A)
            assert one == entry
            assert ids(entry.trajectory.transitions) == everything[: number + 1]
            rescore(store)
        archive_all(redis, place)
        (cold,) = Archive(place).scan()
        assert ids(cold.trajectory.transitions) == everything[: number + 1]
        assert cold.trajectory.reward == 1.0
        assert [entry for entry, _ in scan(store, Archive(place))] == [cold]
        assert store.count_archiving() == 0


def test_turns_that_expired_in_redis_stay_in_the_archive(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = record(redis, turns=2)
    archive_all(redis, place)
    redis.delete(*redis.keys("trajectory:default:traj_a*"))
    store.add_transition(conversation("traj_a", 3)[2])
    rescore(store)
    archive_all(redis, place)
    cold = Archive(place).read(A)
    assert cold is not None
    assert len(cold.trajectory.transitions) == 3


def test_what_never_closed_is_saved_before_it_expires(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = Store(redis)
    store.add_transition(conversation("traj_a", 1)[0])
    archive_all(redis, place)
    assert Archive(place).read(A) is None
    for key in redis.scan_iter("trajectory:*"):
        redis.expire(key, 3600)
    archive_all(redis, place)
    cold = Archive(place).read(A)
    assert cold is not None
    assert not cold.trajectory.is_closed
    rescore(store)
    archive_all(redis, place)
    (again,) = Archive(place).scan()
    assert again.trajectory.is_closed


def test_a_second_archiver_refuses(redis: Any, tmp_path: Path) -> None:
    archiver(redis, Place(str(tmp_path)))
    with pytest.raises(LeaseHeld, match="another archiver holds the lease"):
        Archiver(redis, Place(str(tmp_path)), EAGER, SCORER).run(Event())


def test_an_archiver_that_lost_its_lease_writes_no_manifest(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    store = record(redis)
    taken = [True]

    def take(step: str) -> None:
        if step == "indexed" and taken:
            redis.set(keys.ARCHIVER_LEASE, b"other", px=30_000)
            made._lease._renewed = float("-inf")  # as after a pause longer than the lease
            taken.clear()

    stop: Any = Once(9)
    made = Archiver(redis, place, EAGER, SCORER, hook=take, pace=Pace(idle=0.002))
    with pytest.raises(LeaseHeld):
        made.run(stop)
    assert list(Archive(place).scan()) == []
    assert store.count_archiving() == 1


class Full(Place):
    """A disk without room, for some steps."""

    failures = 0

    def put(self, *arguments: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().put(*arguments)


def test_a_full_disk_is_said_counted_and_waited_out_and_nothing_expires_meanwhile(
    redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Full(str(tmp_path))
    place.failures = 2
    store = record(redis)
    redis.zadd(keys.ARCHIVING, {str(A): time.time() - keys.TRAJECTORY_TTL_SECONDS + 3600})
    for key in redis.scan_iter("tr*"):
        redis.expire(key, 3600)
    stop: Any = Once(2)
    Archiver(redis, place, EAGER, SCORER, pace=Pace(idle=0.002)).run(stop)
    assert "No space left on device" in caplog.text
    assert store.counts()["archive_failures"] >= 1
    assert store.count_archiving() == 1
    assert min(redis.ttl(key) for key in redis.scan_iter("tr*")) > keys.DAY
    assert store.expire_archiving(time.time()) == 0
    place.failures = 0
    archive_all(redis, place)
    assert len(list(Archive(place).scan())) == 1
    assert not list(tmp_path.rglob(".drafts/*/*"))


def test_what_expired_without_an_archiver_is_counted(redis: Any) -> None:
    store = record(redis)
    assert store.expire_archiving(time.time() + keys.TRAJECTORY_TTL_SECONDS + 60) == 1
    assert store.counts()["archive_missed"] == 1


@pytest.mark.parametrize("step", ["drafted", "stored", "indexed", "named", "noted"])
def test_killed_at_any_step_nothing_is_lost_and_nothing_is_read_twice(
    server: RedisServer, tmp_path: Path, step: str
) -> None:
    directory = tmp_path / "archive"
    environment = {
        **{name: text for name, text in os.environ.items() if "RATCHET_" not in name},
        "PYTHONPATH": str(ROOT),
        "RATCHET_REDIS_URL": server.url,
        "RATCHET_ARCHIVE_URL": str(directory),
        "RATCHET_ARCHIVE_SETTLE_SECONDS": "0",
        "RATCHET_ARCHIVE_ROLL_SECONDS": "0.2",
    }
    with server.client() as redis:
        for number in range(3):
            store = record(redis, f"traj_{number}", at=1.7e9 + 86_400 * number)
        killed = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("archiver_process.py")), step, "2"],
            env=environment,
            cwd=tmp_path,
            timeout=30,
        )
        assert killed.returncode == -9
        archive_all(redis, Place(str(directory)))
        assert store.count_archiving() == 0
        place = Place(str(directory))
        cold = sorted(Archive(place).scan(), key=lambda entry: entry.trajectory.id)
        assert [entry.trajectory for entry in cold] == [
            store.trajectory(TrajectoryRef("default", f"traj_{number}")) for number in range(3)
        ]
        orphans = sweep(place, Archive(place), fence=99, now=time.time() + 2 * 86_400)
        assert orphans == {"drafted": 0, "stored": 1, "indexed": 2, "named": 0, "noted": 0}[step]
        assert len(list(Archive(place).scan())) == 3


def test_the_process_archives_and_leaves_on_sigterm(
    server: RedisServer, tmp_path: Path, spawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.client() as redis:
        store = record(redis)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RATCHET_REDIS_URL": server.url,
            "RATCHET_DATA_DIR": str(tmp_path),
            "RATCHET_ARCHIVE_SETTLE_SECONDS": "0",
        }
        process = subprocess.Popen([sys.executable, "-m", "workers", "archiver"], env=environment)
        deadline = time.monotonic() + 20
        while redis.get(keys.ARCHIVER_FENCE) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.terminate()
        assert process.wait(20) == 0
        assert store.count_archiving() == 0
        assert len(list(Archive(Place(str(tmp_path / "archive"))).scan())) == 1
        assert redis.get(keys.ARCHIVER_LEASE) is None


def test_days_that_are_over_are_deleted_when_asked_for(redis: Any, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    now = time.time()
    record(redis, "traj_old", at=now - 40 * 86_400)
    record(redis, "traj_new", at=now - 86_400)
    archive_all(redis, place)
    assert delete_days(place, Archive(place), 30, now=now) == 1
    assert [entry.trajectory.id for entry in Archive(place).scan()] == ["traj_new"]
    assert len(list(tmp_path.glob("date=*"))) == 1


def test_what_may_not_be_kept_is_taken_out_before(redis: Any, tmp_path: Path) -> None:
    record(redis)
    archive_all(
        redis,
        Place(str(tmp_path)),
        scrub=lambda found: replace(
            found, trajectory=found.trajectory.model_copy(update={"task": "scrubbed"})
        ),
    )
    (cold,) = Archive(Place(str(tmp_path))).scan()
    assert cold.trajectory.task == "scrubbed"


def test_what_identifies_people_is_not_in_the_archive(redis: Any, tmp_path: Path) -> None:
    steps = conversation("traj_a", 2)
    for step in steps:
        for message in step.request["messages"]:
            message["content"] += " I am jo.doe@example.org."
    store = Store(redis)
    for step in steps:
        store.add_transition(step)
    told = vote(1.0, trajectory="traj_a").model_copy(update={"comment": "ask jo.doe@example.org"})
    store.add_feedback(told)
    rescore(store)
    scrub = scrub_with(Scrubber(("emails",)))
    archive_all(redis, Place(str(tmp_path)), scrub=scrub)
    (cold,) = Archive(Place(str(tmp_path))).scan()
    line = cold.to_line(0.0)
    assert b"jo.doe" not in line
    assert b"<EMAIL_1>" in line
    assert cold.feedback[0].comment == "ask <EMAIL_1>"


def test_what_cannot_be_scrubbed_is_not_archived_and_not_lost(
    redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = record(redis)

    def broken(found: Any) -> Any:
        raise ScrubError("the finder failed")

    archive_all(redis, Place(str(tmp_path)), scrub=broken)
    assert list(Archive(Place(str(tmp_path))).scan()) == []
    assert store.count_archiving() == 1
    assert store.counts()["archive_failures"] == 1
    assert "could not be archived" in caplog.text


def test_one_record_that_nobody_can_read_does_not_stop_the_others(
    redis: Any, tmp_path: Path
) -> None:
    place = Place(str(tmp_path))
    record(redis, "traj_a")
    store = record(redis, "traj_b")
    for name in ("traj_o", "traj_p"):  # never closed
        store.add_transition(conversation(name, 1)[0])
        redis.expire(keys.trajectory("default", name), 3600)
    for name in ("traj_a", "traj_o"):
        redis.hset(keys.transitions_of("default", name), f"tr_{name}_0", b"garbage")
    archive_all(redis, place)
    found = sorted(entry.trajectory.id for entry in Archive(place).scan())
    assert found == ["traj_b", "traj_p"]
    assert store.counts()["archive_failures"] == 2
    assert store.count_archiving() == 1


def test_hot_and_cold_are_read_as_one(tmp_path: Path) -> None:
    redis: Any = fakeredis.FakeRedis()
    place = Place(str(tmp_path))
    store = record(redis, "traj_a")
    record(redis, "traj_b")
    archive_all(redis, place)
    for key in redis.scan_iter("*traj_b*"):
        redis.delete(key)
    record(redis, "traj_c")
    store.add_feedback(vote(0.9, trajectory="traj_a"))
    rescore(store)
    found = sorted(
        (entry.trajectory.id, is_hot, entry.trajectory.reward)
        for entry, is_hot in scan(store, Archive(place))
    )
    assert found == [("traj_a", True, 0.9), ("traj_b", False, None), ("traj_c", True, None)]
