"""What the trainer reads and claims."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from trajectories import keys
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room


class Training(Room):
    """Trajectories offered to a policy's trainer, each used once."""

    def trainable(self, policy: str, limit: int) -> list[TrajectoryRef]:
        """Closed, rewarded trajectories nobody trained on, oldest first."""
        members = self._redis.zrange(keys.trainable(policy), 0, limit - 1)
        return [TrajectoryRef.parse(member) for member in members]

    def count_trainable(self, policy: str) -> int:
        return int(self._redis.zcard(keys.trainable(policy)))

    def knows(self, policy: str, ref: TrajectoryRef) -> bool:
        """Whether it is in the hot store, or was used in the past 30 days."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hexists(keys.trajectory(ref.tenant, ref.id), "started_at")
        pipe.zscore(keys.used(policy), str(ref))
        is_hot, used_at = pipe.execute()
        return bool(is_hot) or used_at is not None

    def draw_trained(self, policy: str, versions: Sequence[int], count: int) -> list[TrajectoryRef]:
        """`count` trajectories that any of these versions were trained on, at random."""
        names = [keys.trained(policy, version) for version in versions]
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.scard(name)
        sizes = pipe.execute() if names else []
        if not any(sizes):
            return []
        drawn = Counter(random.sample(range(len(names)), k=min(count, sum(sizes)), counts=sizes))
        pipe = self._redis.pipeline(transaction=False)
        for at, some in sorted(drawn.items()):
            pipe.srandmember(names[at], some)
        members = {member for found in pipe.execute() for member in found}
        refs = [TrajectoryRef.parse(member) for member in sorted(members)]
        random.shuffle(refs)
        return refs

    def count_used(self, policy: str) -> int:
        """How many its rounds have used, or set aside, in the past 30 days."""
        return int(self._redis.zcard(keys.used(policy)))

    def count_labellers(self, policy: str) -> int:
        """How many principals labelled a trajectory of that policy in the past week."""
        since = time.time() - keys.LABELLERS_TTL_SECONDS
        return int(self._redis.zcount(keys.labellers(policy), since, "+inf"))

    def mark_used(self, policy: str, refs: Iterable[TrajectoryRef]) -> None:
        """Take trajectories out of every later round; repeating it changes nothing."""
        members = [str(ref) for ref in refs]
        if not members:
            return
        now = time.time()
        pipe = self._redis.pipeline(transaction=True)
        pipe.zadd(keys.used(policy), dict.fromkeys(members, now), nx=True)
        pipe.zrem(keys.trainable(policy), *members)
        pipe.zremrangebyscore(keys.used(policy), "-inf", now - keys.USED_TTL_SECONDS)
        for ref in members:
            parsed = TrajectoryRef.parse(ref)
            pipe.hset(keys.trajectory(parsed.tenant, parsed.id), keys.used(policy), 1)
            self._expire(pipe, parsed)
        pipe.execute()

    def give_back(self, policy: str, refs: Iterable[TrajectoryRef]) -> None:
        """Offer trajectories again that were marked used, and of which nothing was learned."""
        for ref in refs:
            key = keys.trajectory(ref.tenant, ref.id)
            reward, closed, updated_at = self._redis.hmget(key, "reward", "closed", "updated_at")
            pipe = self._redis.pipeline(transaction=True)
            pipe.zrem(keys.used(policy), str(ref))
            if reward is not None and closed is not None:
                pipe.hdel(key, keys.used(policy))
                pipe.zadd(keys.trainable(policy), {str(ref): float(updated_at or 0)})
            pipe.execute()

    def note_trained(self, policy: str, version: int, refs: Iterable[TrajectoryRef]) -> None:
        """Remember which trajectories a version was trained on; repeating it changes nothing."""
        members = [str(ref) for ref in refs]
        if members:
            key = keys.trained(policy, version)
            pipe = self._redis.pipeline(transaction=True)
            pipe.sadd(key, *members)
            pipe.expire(key, keys.USED_TTL_SECONDS)
            pipe.execute()

    def used_by(self, policy: str, versions: Iterable[int], ref: TrajectoryRef) -> list[int]:
        """Those of a policy's versions that were trained on a trajectory."""
        asked = sorted(versions)
        pipe = self._redis.pipeline(transaction=False)
        for version in asked:
            pipe.sismember(keys.trained(policy, version), str(ref))
        found = pipe.execute() if asked else []
        return [version for version, is_used in zip(asked, found, strict=True) if is_used]
