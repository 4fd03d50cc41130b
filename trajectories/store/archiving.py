"""Archiving: which trajectories are to be written to the archive, and what is written of them.

Each scoring of a closed trajectory raises its `edition` and puts it into
`archiving`; it leaves only when that very edition lies in the archive.
"""

import time
from collections.abc import Iterable, Sequence

from redis import WatchError

from trajectories import keys
from trajectories.store.refs import Archivable, TrajectoryRef
from trajectories.store.scoring import Scoring


class Archiving(Scoring):
    """Hands trajectories out for the archive, and notes what lies there."""

    def due_for_archive(
        self, after: float, before: float, limit: int
    ) -> list[tuple[TrajectoryRef, float]]:
        """Trajectories scored in `after`..`before` (unix seconds) and when, oldest first."""
        found = self._redis.zrangebyscore(
            keys.ARCHIVING, after, before, start=0, num=limit, withscores=True
        )
        return [(TrajectoryRef.parse(member), float(score)) for member, score in found]

    def edition(self, ref: TrajectoryRef) -> int | None:
        """How often it was scored; None when Redis does not have it."""
        key = keys.trajectory(ref.tenant, ref.id)
        started_at, edition = self._redis.hmget(key, "started_at", "edition")
        return None if started_at is None else int(edition or 0)

    def archivable(self, ref: TrajectoryRef) -> Archivable | None:
        """All that is known of a trajectory, or None when it is gone."""
        # The edition first: what is read after it may be newer, and is then archived again.
        key = keys.trajectory(ref.tenant, ref.id)
        edition, archived, labelled, joined = self._redis.hmget(
            key, "edition", "archived", "labelled", "joined"
        )
        scorable = self.scorable(ref)
        if scorable is None:
            return None
        superseded_ids = self._redis.zrange(keys.superseded_of(ref.tenant, ref.id), 0, -1)
        names = {member.decode() for member in superseded_ids}
        replaced = [entry for entry in self.recorded(ref) if entry.id in names] if names else []
        return Archivable(
            trajectory=scorable.trajectory,
            feedback=scorable.feedback,
            superseded=tuple(replaced),
            edition=int(edition or 0),
            archived=int(archived or 0),
            is_labelled=labelled == b"1",
            is_joined=joined == b"1",
        )

    def note_archived(
        self, ref: TrajectoryRef, edition: int, archived: int, *, is_joined: bool = False
    ) -> bool:
        """`edition` of a trajectory lies in the archive, as its edition `archived` there.

        `is_joined`: with a part that only the archive has, as all that follow must be.
        False when it was scored again meanwhile: then it stays in `archiving`.
        """
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(trajectory_key)
                    found = pipe.hget(trajectory_key, "edition")
                    is_there = pipe.exists(trajectory_key)
                    is_last = not is_there or int(found or 0) == edition
                    pipe.multi()
                    if is_there:
                        # Never below what the archive has: the highest edition is the one read.
                        pipe.hincrby(trajectory_key, "edition", archived - edition)
                        pipe.hset(trajectory_key, "archived", archived)
                        if is_joined:
                            pipe.hset(trajectory_key, "joined", 1)
                    if is_last:
                        pipe.zrem(keys.ARCHIVING, str(ref))
                    pipe.hincrby(keys.COUNTS, "archived", 1)
                    pipe.execute()
                    return is_last
                except WatchError:
                    continue

    def stop_archiving(self, ref: TrajectoryRef) -> None:
        """Ask no more for a trajectory that is gone before it was archived, and count it."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zrem(keys.ARCHIVING, str(ref))
        pipe.hincrby(keys.COUNTS, "archive_missed", 1)
        pipe.execute()

    def note_sealing(self, refs: Iterable[TrajectoryRef]) -> None:
        """From now on these may be in the archive, and are looked for until `end_sealing`."""
        members = [str(ref) for ref in refs]
        if members:
            self._redis.sadd(keys.SEALING, *members)

    def sealing(self) -> list[TrajectoryRef]:
        """What was sealed, or was about to be, and not yet looked for among the forgotten."""
        return [TrajectoryRef.parse(member) for member in self._redis.smembers(keys.SEALING)]

    def end_sealing(self, refs: Iterable[TrajectoryRef]) -> None:
        """These were looked at."""
        members = [str(ref) for ref in refs]
        if members:
            self._redis.srem(keys.SEALING, *members)

    def count_archiving(self) -> int:
        """How many trajectories wait for the archive."""
        return int(self._redis.zcard(keys.ARCHIVING))

    def count_archive_failure(self) -> None:
        """The archive could not be written."""
        self._redis.hincrby(keys.COUNTS, "archive_failures", 1)

    def expire_archiving(self, now: float) -> int:
        """Forget what expired without an archiver that would have taken it; returns how many."""
        before = now - keys.TRAJECTORY_TTL_SECONDS
        missed = int(self._redis.zremrangebyscore(keys.ARCHIVING, "-inf", before))
        if missed:
            self._redis.hincrby(keys.COUNTS, "archive_missed", missed)
        return missed

    def about_to_expire(self, within_seconds: float) -> list[TrajectoryRef]:
        """Trajectories that never closed, or were never scored, and expire this soon."""
        found: set[TrajectoryRef] = set()
        for key in (keys.OPEN, keys.SCORING):
            cursor = 0
            while True:
                cursor, members = self._redis.zscan(key, cursor, count=1000)
                refs = [TrajectoryRef.parse(member) for member, _ in members]
                pipe = self._redis.pipeline(transaction=False)
                for ref in refs:
                    pipe.ttl(keys.trajectory(ref.tenant, ref.id))
                limits = pipe.execute() if refs else []
                found.update(
                    ref for ref, ttl in zip(refs, limits, strict=True) if 0 <= ttl < within_seconds
                )
                if cursor == 0:
                    break
        return sorted(found, key=str)

    def hold(self, refs: Sequence[TrajectoryRef]) -> None:
        """Keep trajectories for a whole time to live more: the archive cannot take them now."""
        now = time.time()
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            self._expire(pipe, ref)
            pipe.zadd(keys.ARCHIVING, {str(ref): now}, xx=True)  # else `expire_archiving` drops it
        pipe.execute()
