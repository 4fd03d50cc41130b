"""What everybody reads: trajectories, where they are found, and the totals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trajectories import keys
from trajectories.agents import name_agents
from trajectories.attempts import Attempt
from trajectories.model import Breakdown, Reward, Trajectory, Transition
from trajectories.store.index import Index
from trajectories.store.refs import TrajectoryRef
from trajectories.store.unpacking import Unpacking

COUNTS = (
    "transitions",
    "trajectories",
    "rollouts",
    "rewarded",
    "labelled",
    "feedback",
    "expired",
    "late",
    "quarantined",
    "archived",
    "archive_failures",
    "archive_missed",
    "groups_moved",
)


class Reading(Unpacking, Index):
    """Reads of trajectories; changes nothing."""

    def locate(self, ref: TrajectoryRef) -> TrajectoryRef | None:
        """The recorded trajectory of that id, else the one that has it as another name."""
        if self._redis.hexists(keys.trajectory(ref.tenant, ref.id), "started_at"):
            return ref
        found = self.newest(ref.tenant, "alias", ref.id)
        return TrajectoryRef(ref.tenant, found) if found else None

    def newest(self, tenant: str, kind: str, name: str) -> str | None:
        """The member that was noted last under a name (`index`)."""
        found = self.find(tenant, kind, [name]).get(name)
        return found[-1].member if found else None

    def transition_of_response(self, tenant: str, response_id: str) -> str | None:
        """The transition a response id belongs to."""
        found = self.newest(tenant, "response", response_id)
        return found.split(" ")[1] if found else None

    def trajectory_of(self, tenant: str, transition_id: str) -> TrajectoryRef | None:
        """The trajectory that a transition was stored under."""
        found = self.newest(tenant, "transition", transition_id)
        return TrajectoryRef(tenant, found) if found else None

    def trajectory(self, ref: TrajectoryRef) -> Trajectory | None:
        """A trajectory with its transitions and rewards, or None.

        Raises RecordError when what is stored of it cannot be read.
        """
        return self.trajectories([ref])[0]

    def trajectories(self, refs: Sequence[TrajectoryRef]) -> list[Trajectory | None]:
        """Several at once, in two round trips; None for each that is not there."""
        pipe = self._redis.pipeline(transaction=True)
        for ref in refs:
            pipe.hgetall(keys.trajectory(ref.tenant, ref.id))
            pipe.hgetall(keys.transitions_of(ref.tenant, ref.id))
            pipe.zrange(keys.superseded_of(ref.tenant, ref.id), 0, -1)
            pipe.hvals(keys.rewards_of(ref.tenant, ref.id))
        replies = iter(pipe.execute() if refs else ())
        found = [
            Found(ref, *parts)
            for ref, parts in zip(refs, zip(*[replies] * 4, strict=True), strict=True)
        ]
        transitions = self.unpack([(entry.ref, entry.transitions) for entry in found])
        return [
            _trajectory(entry, own) if b"started_at" in entry.fields else None
            for entry, own in zip(found, transitions, strict=True)
        ]

    def recorded(self, ref: TrajectoryRef) -> list[Transition]:
        """All its transitions by time, those included that a retry replaced."""
        stored = self._redis.hgetall(keys.transitions_of(ref.tenant, ref.id))
        return self.unpack([(ref, stored)])[0]

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
        noted = self.find(tenant, "attempt", [call]).get(call, [])
        return [Attempt.parse(entry.member.encode(), entry.at) for entry in noted]


@dataclass(frozen=True, slots=True)
class Found:
    """A trajectory as it stands in Redis."""

    ref: TrajectoryRef
    fields: Mapping[bytes, bytes]
    transitions: Mapping[bytes, bytes]
    superseded: Sequence[bytes]
    rewards: Sequence[bytes]


def _trajectory(found: Found, transitions: Iterable[Transition]) -> Trajectory:
    text = {name.decode(): value.decode() for name, value in found.fields.items()}
    replaced = {name.decode() for name in found.superseded}
    rewards = (Reward.from_json(raw) for raw in found.rewards)
    return Trajectory(
        id=found.ref.id,
        tenant=found.ref.tenant,
        session_id=text.get("session_id"),
        task=text.get("task"),
        agent=text.get("agent"),
        policy=text.get("policy") or None,
        rollout=text.get("rollout"),
        started_at=float(text["started_at"]),
        updated_at=float(text["updated_at"]),
        is_closed="closed" in text,
        closed_at=_closed_at(text.get("closed")),
        labels=text.get("labels", "pending") if "closed" in text else "pending",
        reward=float(text["reward"]) if "reward" in text else None,
        breakdown=Breakdown.from_json(text["breakdown"]) if "breakdown" in text else None,
        transitions=name_agents([entry for entry in transitions if entry.id not in replaced]),
        rewards=tuple(sorted(rewards, key=lambda reward: reward.id)),
    )


def _closed_at(written: str | None) -> float | None:
    """When it closed. A vote that closes a trajectory only says that it did."""
    return None if written in (None, "1") else float(written)
