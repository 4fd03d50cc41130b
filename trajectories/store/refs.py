"""What the store is asked about: a trajectory by whose it is, and what goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from trajectories.account import Account
from trajectories.model import Breakdown, Feedback, Reward, Trajectory, Transition


@dataclass(frozen=True, slots=True)
class TrajectoryRef:
    """A trajectory and whose it is; written `tenant/id`."""

    tenant: str
    id: str

    @classmethod
    def parse(cls, text: str | bytes) -> "TrajectoryRef":
        tenant, _, trajectory_id = (text.decode() if isinstance(text, bytes) else text).partition(
            "/"
        )
        return cls(tenant, trajectory_id)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.id}"


@dataclass(frozen=True, slots=True)
class Scorable:
    """What a reward job needs: the trajectory, the votes on it, and their revision."""

    trajectory: Trajectory
    feedback: tuple[Feedback, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What was computed from a revision of a trajectory: its rewards, and what they come to."""

    ref: TrajectoryRef
    rewards: Sequence[Reward]
    final: float | None
    is_labelled: bool
    revision: int
    breakdown: Breakdown | None = None
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Archivable:
    """What the archive keeps of a trajectory: all there is.

    `edition` says how often it was scored, `archived` which edition the archive
    has (0: none since Redis has it), `is_joined` that the archive has a part of
    it that Redis no longer has.
    """

    trajectory: Trajectory
    feedback: tuple[Feedback, ...]
    superseded: tuple[Transition, ...]
    edition: int
    archived: int
    is_labelled: bool
    is_joined: bool = False


@dataclass(frozen=True, slots=True)
class Linkage:
    """What is known of a transition's kin, and what they will be recognised by.

    `given_id` is the trajectory id that the client was told; `marks` are pairs
    of a digest and a member to note under it; `call` is equal for all attempts
    at one call.
    """

    given_id: str | None = None
    marks: Sequence[tuple[str, str]] = ()
    call: str | None = None
