"""Where a vote belongs: from what its client named to a transition or a trajectory."""

from dataclasses import dataclass

from trajectories import keys, names
from trajectories.model import Feedback, Transition
from trajectories.names import names_of_vote
from trajectories.store.index import Index
from trajectories.store.items import Items
from trajectories.store.refs import TrajectoryRef


@dataclass(frozen=True, slots=True)
class Place:
    """A trajectory, and the transition in it that is meant; None: all of it, or a step."""

    ref: TrajectoryRef
    transition_id: str | None = None

    def __str__(self) -> str:
        return f"{self.ref.id} {self.transition_id or ''}"


class Targets(Items, Index):
    """Looks up what votes are about; changes nothing."""

    def places(self, vote: Feedback) -> list[Place]:
        """Every place a vote may mean: none is unknown, several are ambiguous.

        Of what several transitions may share, those count that began before the
        vote and were not replaced by a retry.
        """
        found: dict[Place, None] = {}
        for kind, value in names_of_vote(vote):
            for place in self._places(vote, kind, value):
                found[place] = None
        if vote.within is None:
            return list(found)
        within = self.locate(TrajectoryRef(vote.tenant, vote.within))
        return [place for place in found if place.ref == within]

    def resolve(self, vote: Feedback) -> TrajectoryRef | None:
        """The trajectory a vote is about, if it was recorded and is the only one it can mean."""
        found = self.places(vote)
        return found[0].ref if len(found) == 1 else None

    def transition(self, tenant: str, transition_id: str) -> Transition | None:
        """One transition, as it was recorded."""
        raw = self._redis.get(keys.transition(tenant, transition_id))
        return Transition.from_json(raw) if raw else None

    def _places(self, vote: Feedback, kind: str, value: str) -> list[Place]:
        tenant = vote.tenant
        if kind == names.TRAJECTORY:
            ref = self.locate(TrajectoryRef(tenant, value))
            return [Place(ref)] if ref else []
        if kind == names.RESPONSE:
            found = self._redis.get(keys.response(tenant, value))
            return [_place(tenant, found.decode())] if found else []
        if kind == names.TRANSITION:
            transition = self.transition(tenant, value)
            if transition is None:
                return []
            return [Place(TrajectoryRef(tenant, transition.trajectory_id), transition.id)]
        noted = self.find(tenant, kind, [value]).get(value, [])
        if kind in names.SHARED:
            noted = [entry for entry in noted if entry.at <= vote.received_at]
        places = [_place(tenant, entry.member) for entry in noted]
        return [place for place in places if self._is_current(place)] if places[1:] else places

    def _is_current(self, place: Place) -> bool:
        """Whether a transition is still part of its trajectory."""
        key = keys.transitions_of(place.ref.tenant, place.ref.id)
        return self._redis.zscore(key, place.transition_id) is not None


def _place(tenant: str, member: str) -> Place:
    trajectory, transition = member.split(" ")
    return Place(TrajectoryRef(tenant, trajectory), transition)
