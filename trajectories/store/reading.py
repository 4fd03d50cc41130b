"""What everybody reads: trajectories, where they are found, and the totals."""

from collections.abc import Iterable

from trajectories import keys
from trajectories.agents import name_agents
from trajectories.attempts import Attempt
from trajectories.model import Breakdown, Reward, Trajectory, Transition
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room

COUNTS = (
    "transitions",
    "trajectories",
    "rewarded",
    "labelled",
    "feedback",
    "expired",
    "quarantined",
    "archived",
    "archive_failures",
    "archive_missed",
    "groups_moved",
)


class Reading(Room):
    """Reads of trajectories; changes nothing."""

    def locate(self, ref: TrajectoryRef) -> TrajectoryRef | None:
        """The recorded trajectory of that id, else the one that has it as another name."""
        if self._redis.hexists(keys.trajectory(ref.tenant, ref.id), "started_at"):
            return ref
        found = self._redis.get(keys.alias(ref.tenant, ref.id))
        return TrajectoryRef(ref.tenant, found.decode()) if found else None

    def transition_of_response(self, tenant: str, response_id: str) -> str | None:
        """The transition a response id belongs to."""
        found = self._redis.get(keys.response(tenant, response_id))
        return found.split()[1].decode() if found else None

    def trajectory(self, ref: TrajectoryRef) -> Trajectory | None:
        """A trajectory with its transitions and rewards, or None."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(keys.trajectory(ref.tenant, ref.id))
        pipe.zrange(keys.transitions_of(ref.tenant, ref.id), 0, -1)
        pipe.hvals(keys.rewards_of(ref.tenant, ref.id))
        fields, transition_ids, rewards = pipe.execute()
        if b"started_at" not in fields:
            return None
        names = [keys.transition(ref.tenant, member.decode()) for member in transition_ids]
        found = self._redis.mget(names) if names else []
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return Trajectory(
            id=ref.id,
            tenant=ref.tenant,
            session_id=text.get("session_id"),
            task=text.get("task"),
            agent=text.get("agent"),
            policy=text.get("policy") or None,
            started_at=float(text["started_at"]),
            updated_at=float(text["updated_at"]),
            is_closed="closed" in text,
            reward=float(text["reward"]) if "reward" in text else None,
            breakdown=(Breakdown.from_json(text["breakdown"]) if "breakdown" in text else None),
            transitions=name_agents(
                [Transition.from_json(raw) for raw in found if raw is not None]
            ),
            rewards=tuple(
                sorted((Reward.from_json(raw) for raw in rewards), key=lambda reward: reward.id)
            ),
        )

    def all_trajectories(self) -> Iterable[TrajectoryRef]:
        """Every trajectory in the hot window, in no order."""
        for name in self._redis.scan_iter(match="trajectory:*", count=1000):
            parts = name.decode().split(":")
            if len(parts) == 3:
                yield TrajectoryRef(parts[1], parts[2])

    def counts(self) -> dict[str, float]:
        """Totals since the store was made, with `reward_sum` over rewarded trajectories."""
        totals = self._redis.hgetall(keys.COUNTS)
        stored = {name.decode(): float(value) for name, value in totals.items()}
        return {name: stored.get(name, 0.0) for name in (*COUNTS, "reward_sum")}

    def attempts(self, tenant: str, call: str) -> list[Attempt]:
        """The attempts at one call that were recorded lately, in order."""
        found = self._redis.zrange(keys.attempts(tenant, call), 0, -1, withscores=True)
        return [Attempt.parse(member, started_at) for member, started_at in found]
