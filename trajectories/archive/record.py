"""One archived trajectory: all that is known of it, as one line of JSON.

The same trajectory is written again as a new edition whenever anything about
it changed; readers take the highest. The line begins with what filters ask
for, so that other engines need not look into the rest.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import orjson
from pydantic import ValidationError

from trajectories.archive.bodies import Bodies, pack, unpack
from trajectories.errors import RecordError
from trajectories.model import Feedback, Trajectory, Transition
from trajectories.store.refs import Archivable, Scorable, TrajectoryRef

SCHEMA_VERSION = 1

Head = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Archived:
    """A trajectory with its votes and rewards, and which edition of it this is."""

    trajectory: Trajectory
    feedback: tuple[Feedback, ...] = ()
    superseded: tuple[Transition, ...] = ()  # attempts that a retry replaced
    edition: int = 1
    is_labelled: bool = False

    @classmethod
    def of(cls, found: Archivable) -> Self:
        """What Redis has of a trajectory."""
        return cls(
            found.trajectory, found.feedback, found.superseded, found.edition, found.is_labelled
        )

    @property
    def ref(self) -> TrajectoryRef:
        return TrajectoryRef(self.trajectory.tenant, self.trajectory.id)

    @property
    def scorable(self) -> Scorable:
        """What rewards are computed from."""
        return Scorable(self.trajectory, self.feedback, self.edition)

    def head(self) -> Head:
        """What filters and other engines ask for."""
        trajectory = self.trajectory
        steps = trajectory.transitions
        return {
            "schema": SCHEMA_VERSION,
            "tenant": trajectory.tenant,
            "id": trajectory.id,
            "edition": self.edition,
            "started_at": trajectory.started_at,
            "updated_at": trajectory.updated_at,
            "reward": trajectory.reward,
            "is_labelled": self.is_labelled,
            "agents": _distinct(trajectory.agent, *(step.agent for step in steps)),
            "tasks": _distinct(trajectory.task, *(step.task for step in steps)),
            "policies": _distinct(trajectory.policy, *(step.policy for step in steps)),
            "versions": sorted(
                {step.policy_version for step in steps if step.policy_version is not None}
            ),
            "sources": _distinct(*(reward.source for reward in trajectory.rewards)),
            "steps": len(steps),
        }

    def to_line(self, archived_at: float) -> bytes:
        """The line, without its end. Raises RecordError when a body holds what JSON cannot."""
        bodies = Bodies()
        row = {
            **self.head(),
            "archived_at": archived_at,
            "trajectory": self.trajectory.model_dump(mode="json", exclude={"transitions"}),
            "votes": [vote.model_dump(mode="json") for vote in self.feedback],
            "transitions": pack(self.trajectory.transitions, bodies),
            "superseded": pack(self.superseded, bodies),
            "bodies": bodies.values,
        }
        try:
            return orjson.dumps(row)
        except (orjson.JSONEncodeError, ValueError) as error:
            raise RecordError(f"not JSON: {error}") from error

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """A parsed line. Raises RecordError when it is none, or of a later schema."""
        try:
            if row["schema"] > SCHEMA_VERSION:
                raise RecordError(
                    f"an archived record of schema {row['schema']}: this Ratchet knows up to"
                    f" {SCHEMA_VERSION}, a newer one reads it"
                )
            bodies = row["bodies"]
            steps = unpack(row["transitions"], bodies)
            return cls(
                Trajectory.model_validate({**row["trajectory"], "transitions": steps}),
                tuple(Feedback.model_validate(vote) for vote in row["votes"]),
                tuple(unpack(row["superseded"], bodies)),
                row["edition"],
                row["is_labelled"],
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise RecordError(f"not an archived trajectory: {error!r}") from error


def join(cold: Archived, hot: Archived) -> Archived:
    """One whole trajectory of what the archive has and what Redis has of it.

    Redis may have lost its oldest part: a conversation that goes on for weeks,
    or one that comes back after its keys expired. What Redis has is newer. Its
    rewards were computed from a part: compute them anew.
    """
    superseded = {step.id: step for step in (*cold.superseded, *hot.superseded)}
    steps = {step.id: step for step in cold.trajectory.transitions if step.id not in superseded}
    steps |= {step.id: step for step in hot.trajectory.transitions}
    # All of them: which of them stand is for `standing_votes` to say.
    votes = {vote.id: vote for vote in (*cold.feedback, *hot.feedback)}
    rewards = {reward.id: reward for reward in (*cold.trajectory.rewards, *hot.trajectory.rewards)}
    reward = hot.trajectory.reward
    if reward is None:
        reward = cold.trajectory.reward
    names = {
        name: getattr(hot.trajectory, name) or getattr(cold.trajectory, name)
        for name in ("session_id", "task", "agent", "policy", "rollout")
    }
    trajectory = hot.trajectory.model_copy(
        update={
            **names,
            "started_at": min(cold.trajectory.started_at, hot.trajectory.started_at),
            "updated_at": max(cold.trajectory.updated_at, hot.trajectory.updated_at),
            "reward": reward,
            "rewards": tuple(rewards[name] for name in sorted(rewards)),
            "transitions": tuple(
                sorted(steps.values(), key=lambda step: (step.started_at, step.id))
            ),
        }
    )
    return replace(
        hot,
        trajectory=trajectory,
        feedback=tuple(sorted(votes.values(), key=lambda vote: vote.id)),
        superseded=tuple(sorted(superseded.values(), key=lambda step: (step.started_at, step.id))),
        is_labelled=hot.is_labelled or cold.is_labelled,
        edition=max(cold.edition + 1, hot.edition),
    )


def _distinct(*names: str | None) -> list[str]:
    return sorted({name for name in names if name is not None})
