"""What stands in a trajectory about its siblings: that somebody asks for them, once."""

from collections.abc import Callable, Iterable, Iterator

from trajectories import keys
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room

_PAGE = 500
_MOST = 10_000  # members of a queue that are looked through: this is done every few seconds
# Only where the trajectory is still there: a claim must not bring back what was forgotten.
_CLAIM = """
if redis.call('HEXISTS', KEYS[1], 'started_at') == 0 then return 0 end
return redis.call('HSETNX', KEYS[1], 'asked_anew', 1)
"""


class Siblings(Room):
    """Claims trajectories for those who ask for siblings."""

    def without_siblings(
        self, policy: str, is_wanted: Callable[[TrajectoryRef], bool] = lambda _: True
    ) -> Iterator[TrajectoryRef]:
        """Closed, rewarded trajectories of users that nobody claimed or trained on, oldest first.

        A rollout has no siblings of its own. Of the oldest 10,000.
        """
        for members in self._pages(keys.trainable(policy)):
            yield from self._free([TrajectoryRef.parse(member) for member in members], is_wanted)

    def unjudged(
        self, tenant: str, is_wanted: Callable[[TrajectoryRef], bool] = lambda _: True
    ) -> Iterator[TrajectoryRef]:
        """Those of a tenant that somebody is still to judge: a group may be what is waited for."""
        seen: set[TrajectoryRef] = set()
        for members in self._pages(keys.VERDICTS):
            names = (member.decode().partition(" ")[2] for member in members)
            refs = dict.fromkeys(TrajectoryRef.parse(name) for name in names)
            own = [ref for ref in refs if ref.tenant == tenant and ref not in seen]
            seen.update(own)
            yield from self._free(own, is_wanted)

    def claim_for_siblings(self, ref: TrajectoryRef) -> bool:
        """Whether the caller is the one who asks; before it asks, so that it is done once."""
        return bool(self._redis.eval(_CLAIM, 1, keys.trajectory(ref.tenant, ref.id)))

    def release_for_siblings(self, ref: TrajectoryRef) -> None:
        """Give back a claim under which nothing was asked."""
        self._redis.hdel(keys.trajectory(ref.tenant, ref.id), "asked_anew")

    def has_calls(self, ref: TrajectoryRef, count: int) -> bool:
        """Whether so many calls of a trajectory have arrived."""
        return int(self._redis.hlen(keys.transitions_of(ref.tenant, ref.id))) >= count

    def _pages(self, key: str) -> Iterator[list[bytes]]:
        for start in range(0, _MOST, _PAGE):
            members = self._redis.zrange(key, start, start + _PAGE - 1)
            if not members:
                return
            yield members

    def _free(
        self, refs: Iterable[TrajectoryRef], is_wanted: Callable[[TrajectoryRef], bool]
    ) -> Iterator[TrajectoryRef]:
        """Those that are wanted, and neither claimed nor rollouts."""
        wanted = [ref for ref in refs if is_wanted(ref)]
        pipe = self._redis.pipeline(transaction=False)
        for ref in wanted:
            pipe.hmget(keys.trajectory(ref.tenant, ref.id), "rollout", "asked_anew")
        found = pipe.execute() if wanted else []
        return (ref for ref, had in zip(wanted, found, strict=True) if had == [None, None])
