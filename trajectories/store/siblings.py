"""What stands in a trajectory about its siblings: that somebody asks for them, once."""

from collections.abc import Iterator, Sequence

from trajectories import keys
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room

_PAGE = 500
# Only where the trajectory is still there: a claim must not bring back what was forgotten.
_CLAIM = """
if redis.call('HEXISTS', KEYS[1], 'started_at') == 0 then return 0 end
return redis.call('HSETNX', KEYS[1], 'asked_anew', 1)
"""


class Siblings(Room):
    """Claims trajectories for those who ask for siblings."""

    def without_siblings(self, policy: str) -> Iterator[TrajectoryRef]:
        """Closed, rewarded trajectories of users that nobody claimed or trained on, oldest first.

        A rollout has no siblings of its own.
        """
        start = 0
        while members := self._redis.zrange(keys.trainable(policy), start, start + _PAGE - 1):
            start += len(members)
            refs = [TrajectoryRef.parse(member) for member in members]
            for ref, is_free in zip(refs, self._free(refs), strict=True):
                if is_free:
                    yield ref

    def unjudged(self, tenant: str) -> Iterator[TrajectoryRef]:
        """Those of a tenant that somebody is still to judge: a group may be what is waited for."""
        start = 0
        seen: set[str] = set()
        while members := self._redis.zrange(keys.VERDICTS, start, start + _PAGE - 1):
            start += len(members)
            names = dict.fromkeys(member.decode().partition(" ")[2] for member in members)
            refs = [TrajectoryRef.parse(name) for name in names if name not in seen]
            seen.update(names)
            own = [ref for ref in refs if ref.tenant == tenant]
            for ref, is_free in zip(own, self._free(own), strict=True):
                if is_free:
                    yield ref

    def claim_for_siblings(self, ref: TrajectoryRef) -> bool:
        """Whether the caller is the one who asks; before it asks, so that it is done once."""
        return bool(self._redis.eval(_CLAIM, 1, keys.trajectory(ref.tenant, ref.id)))

    def has_calls(self, ref: TrajectoryRef, count: int) -> bool:
        """Whether so many calls of a trajectory have arrived."""
        return int(self._redis.hlen(keys.transitions_of(ref.tenant, ref.id))) >= count

    def _free(self, refs: Sequence[TrajectoryRef]) -> list[bool]:
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            pipe.hmget(keys.trajectory(ref.tenant, ref.id), "rollout", "asked_anew")
        return [found == [None, None] for found in (pipe.execute() if refs else ())]
