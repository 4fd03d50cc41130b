"""Stores transitions; one whose session nobody named goes where its content says.

The Redis side of `linking`. What an answer can be recognised by is written
together with it, so the two are never apart. The link of a record is decided
once: whoever stores it first. A record that is processed before the answer it
goes on with stays a trajectory of its own. A batch is looked up in one round
trip; what its own records leave for one another is known without asking.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from trajectories.attempts import Attempt, superseded
from trajectories.model import Transition
from trajectories.store import Linkage, Store
from workers.linking import Found, Probe, call_digest, decide, marks_of, probes_of


@dataclass(frozen=True, slots=True)
class _Known:
    """What is noted of one tenant's records, the batch at hand included."""

    links: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)  # transition -> its trajectory


class Linker:
    """Adds transitions to the store. Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, transition: Transition) -> bool:
        """Store a transition under the trajectory it belongs to; False when it was there."""
        return self.add_all([transition])[0]

    def add_all(
        self, transitions: Sequence[Transition], *, settle_seconds: float = 0.0
    ) -> list[bool]:
        """The same for several, in the order of their calls."""
        calls = [call_digest(transition) for transition in transitions]
        unnamed = [entry.session_source == "new" for entry in transitions]
        probes = [
            probes_of(transition) if is_unnamed else []
            for transition, is_unnamed in zip(transitions, unnamed, strict=True)
        ]
        known = self._look_up(transitions, unnamed, probes, calls)
        additions = []
        for transition, is_unnamed, sought, call in zip(
            transitions, unnamed, probes, calls, strict=True
        ):
            here = known[transition.tenant]
            kept = _linked(transition, sought, call, here) if is_unnamed else transition
            marks = [(mark.digest, mark.member) for mark in marks_of(kept)]
            for digest, member in marks:
                here.links.setdefault(digest, []).append((member, kept.started_at))
            here.attempts.setdefault(call, []).append(Attempt.of(kept))
            additions.append((kept, Linkage(transition.trajectory_id, marks, call)))
        return self._store.add_transitions(additions, settle_seconds=settle_seconds)

    def _look_up(
        self,
        transitions: Sequence[Transition],
        unnamed: Sequence[bool],
        probes: Sequence[Sequence[Probe]],
        calls: Sequence[str],
    ) -> dict[str, _Known]:
        """All that is noted of the calls that name no session: one round trip."""
        known: dict[str, _Known] = defaultdict(_Known)
        names: dict[str, tuple[list[str], list[str], list[str]]] = defaultdict(lambda: ([], [], []))
        for transition, is_unnamed, sought, call in zip(
            transitions, unnamed, probes, calls, strict=True
        ):
            if is_unnamed:
                links, attempts, ids = names[transition.tenant]
                links += [probe.digest for probe in sought]
                attempts.append(call)
                ids.append(transition.id)
        asked = [
            (tenant, kind, wanted)
            for tenant, lists in names.items()
            for kind, wanted in zip(("link", "attempt", "transition"), lists, strict=True)
        ]
        found = iter(self._store.find_all(asked))
        for tenant in names:
            here = known[tenant]
            for digest, noted in next(found).items():
                here.links[digest] = [(entry.member, entry.at) for entry in noted]
            for call, noted in next(found).items():
                here.attempts[call] = [Attempt.parse(n.member.encode(), n.at) for n in noted]
            for name, noted in next(found).items():
                here.stored[name] = noted[-1].member
        return known


def _linked(
    transition: Transition, probes: Sequence[Probe], call: str, known: _Known
) -> Transition:
    """The transition in the trajectory it goes on with, if there is one."""
    if transition.id in known.stored:
        return transition.model_copy(update={"trajectory_id": known.stored[transition.id]})
    found: Found = {
        probe.digest: known.links[probe.digest] for probe in probes if probe.digest in known.links
    }
    link = decide(transition, probes, found)
    if link is not None:
        update = {"trajectory_id": link.trajectory, "session_source": link.source}
        return transition.model_copy(update=update)
    tried = _tried_in(transition, known.attempts.get(call, ()))
    return transition.model_copy(update={"trajectory_id": tried}) if tried else transition


def _tried_in(transition: Transition, attempts: Sequence[Attempt]) -> str | None:
    """The trajectory of the attempt that this one replaced, or that replaced this one."""
    this = Attempt.of(transition)
    others = [entry for entry in attempts if entry.transition != transition.id]
    for earlier, retry in superseded([*others, this]):
        if retry is this:
            return earlier.trajectory
        if earlier is this:
            return retry.trajectory
    return None
