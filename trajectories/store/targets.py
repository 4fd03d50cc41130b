"""Where a vote belongs: from what its client named to a transition or a trajectory."""

from dataclasses import dataclass

from trajectories import keys, names
from trajectories.model import Feedback, Transition
from trajectories.names import names_of_vote
from trajectories.standing import step_of
from trajectories.store.items import Items
from trajectories.store.packing import pack
from trajectories.store.refs import TrajectoryRef


@dataclass(frozen=True, slots=True)
class Place:
    """A trajectory, and the transition in it that is meant; None: all of it, or a step."""

    ref: TrajectoryRef
    transition_id: str | None = None

    def __str__(self) -> str:
        return f"{self.ref.id} {self.transition_id or ''}"


class Targets(Items):
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
        ref = self.trajectory_of(tenant, transition_id)
        found = self.recorded(ref) if ref else ()
        return next((entry for entry in found if entry.id == transition_id), None)

    def meant(self, place: Place, vote: Feedback) -> tuple[int, Transition] | None:
        """The transition that is meant, and its index in its trajectory; None: there is none.

        For a vote on a whole trajectory the last transition.
        """
        trajectory = self.trajectory(place.ref)
        if trajectory is None or not trajectory.transitions:
            return None
        transitions = trajectory.transitions
        if vote.trajectory_id is not None and vote.step is None:
            return len(transitions) - 1, transitions[-1]
        index = step_of(transitions, vote.model_copy(update={"transition_id": place.transition_id}))
        return None if index is None else (index, transitions[index])

    def _places(self, vote: Feedback, kind: str, value: str) -> list[Place]:
        tenant = vote.tenant
        if kind == names.TRAJECTORY:
            ref = self.locate(TrajectoryRef(tenant, value))
            return [Place(ref)] if ref else []
        if kind == names.RESPONSE:
            member = self.newest(tenant, kind, value)
            return [_place(tenant, member)] if member else []
        if kind == names.TRANSITION:
            ref = self.trajectory_of(tenant, value)
            return [Place(ref, value)] if ref else []
        noted = self.find(tenant, kind, [value]).get(value, [])
        if kind in names.SHARED:
            noted = [entry for entry in noted if entry.at <= vote.received_at]
        places = [_place(tenant, entry.member) for entry in noted]
        return [place for place in places if self._is_current(place)] if places[1:] else places

    def _is_current(self, place: Place) -> bool:
        """Whether a transition is still part of its trajectory."""
        ref, id = place.ref, place.transition_id or ""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hexists(keys.transitions_of(ref.tenant, ref.id), pack(id))
        pipe.zscore(keys.superseded_of(ref.tenant, ref.id), id)
        is_there, superseded_at = pipe.execute()
        return bool(is_there) and superseded_at is None


def _place(tenant: str, member: str) -> Place:
    trajectory, transition = member.split(" ")
    return Place(TrajectoryRef(tenant, trajectory), transition)
