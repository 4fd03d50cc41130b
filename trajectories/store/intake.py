"""Intake: transitions into their trajectories, each with one effect however often it comes.

One script for each transition does all of it, in Redis and in one: the
transition, what it refers to, what it can be found by, the trajectory's times
and its place among what is to be scored. A batch of them is one round trip.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis, WatchError

from trajectories import keys
from trajectories.attempts import Attempt, superseded
from trajectories.errors import RecordError
from trajectories.ids import trajectory_id
from trajectories.model import Transition
from trajectories.names import TRAJECTORY, indexed_names, name_digest, names_of_transition
from trajectories.store.adding import ADD
from trajectories.store.compression import Dictionary
from trajectories.store.contents import message_name
from trajectories.store.index import LIVES, Entry, noting, read_member, slices
from trajectories.store.packed import Parts
from trajectories.store.packer import Observer, Packer
from trajectories.store.packing import pack
from trajectories.store.refs import Linkage, TrajectoryRef
from trajectories.store.votes import Votes

_KNOWN, _STORED, _NO_BASE, _NO_DICTIONARY, _NO_CONTENT = range(5)
_COUNTED = {False: ("transitions", "trajectories"), True: ("", "rollouts")}  # by `is a rollout`
_ATTEMPTS = 3
_MOST_PACKERS = 256  # tenants


class Intake(Votes):
    """Stores transitions, and what they are recognised by."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._packers: dict[str, Packer] = {}
        self.observe: Observer | None = None  # told of all that is new, to learn how to compress it

    def add_transition(self, transition: Transition, linkage: Linkage | None = None) -> bool:
        """Store a transition under its trajectory; False when it was already there.

        The trajectory it was first stored under stays, whatever a repetition says.
        """
        return self.add_transitions([(transition, linkage or Linkage())])[0]

    def add_transitions(
        self, additions: Sequence[tuple[Transition, Linkage]], *, settle_seconds: float = 0.0
    ) -> list[bool]:
        """Store several, each whole or not at all, in about one round trip.

        `settle_seconds` is how long a trajectory that only goes on may wait for its
        scoring. Raises RecordError, before anything is stored, when a body holds
        what JSON cannot.
        """
        due_at = time.time() + settle_seconds
        prepared = []
        for transition, linkage in additions:
            packer = self._packer(transition.tenant)
            prepared.append(
                Addition(transition, linkage, packer, packer.take_apart(transition), due_at)
            )
        replies = ADD.run_all(self._redis, [addition.arguments() for addition in prepared])
        for number, addition in enumerate(prepared):
            for _ in range(_ATTEMPTS):
                if replies[number][0] in (_STORED, _KNOWN):
                    break
                replies[number] = self._again(addition, replies[number][0])
            else:
                raise RecordError(f"transition {addition.transition.id} cannot be stored")
        # Also when it was there: a dispatcher killed in between leaves these undone. Votes come
        # last: what a retry replaced is no target.
        pairs = list(zip(prepared, replies, strict=True))
        for addition, reply in pairs:
            if addition.linkage.call is not None and (reply[0] == _KNOWN or reply[2] > 0):
                self._settle_attempts(addition.transition.tenant, addition.linkage.call)
        for addition, reply in pairs:
            if reply[0] == _KNOWN or reply[1]:
                known_as = dict.fromkeys([*_stored_under(addition, reply), *addition.known_as])
                self._join_pending(addition.transition, known_as)
        return [reply[0] == _STORED for reply in replies]

    def use_dictionary(self, tenant: str, dictionary: Dictionary) -> None:
        """Compress what this tenant writes with a new dictionary, everywhere, from now on."""
        self.put_dictionary(tenant, dictionary, is_current=True)
        self._packer(tenant).dictionary = dictionary

    def forget_written(self) -> None:
        """Redis may have lost what was written: send everything again."""
        self._packers.clear()

    def _again(self, addition: "Addition", reason: int) -> Any:
        """Send a transition once more, with what Redis turned out to lack."""
        if reason == _NO_DICTIONARY and addition.packer.dictionary is not None:
            tenant = addition.transition.tenant
            self.put_dictionary(tenant, addition.packer.dictionary, is_current=False)
        return ADD.run_all(self._redis, [addition.arguments(is_whole=True)])[0]

    def _packer(self, tenant: str) -> Packer:
        packer = self._packers.get(tenant)
        if packer is None:
            if len(self._packers) >= _MOST_PACKERS:
                self._packers.clear()
            packer = self._packers[tenant] = Packer(self.compression, self.secret(tenant))
            packer.dictionary = self.dictionary(tenant)
        packer.observe = self.observe
        return packer

    def _settle_attempts(self, tenant: str, call: str) -> None:
        """Take attempts that a retry replaced out of their trajectories."""
        for earlier, _ in superseded(self.attempts(tenant, call)):
            self._supersede(TrajectoryRef(tenant, earlier.trajectory), earlier)

    def _supersede(self, ref: TrajectoryRef, attempt: Attempt) -> None:
        transitions_key = keys.transitions_of(ref.tenant, ref.id)
        superseded_key = keys.superseded_of(ref.tenant, ref.id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(transitions_key, superseded_key)
                    if (
                        not pipe.hexists(transitions_key, pack(attempt.transition))
                        or pipe.zscore(superseded_key, attempt.transition) is not None
                    ):
                        return
                    pipe.multi()
                    pipe.zadd(superseded_key, {attempt.transition: attempt.started_at})
                    pipe.hincrby(keys.trajectory(ref.tenant, ref.id), "revision", 1)
                    pipe.zadd(keys.SCORING, {str(ref): time.time()}, nx=True)
                    self._expire(pipe, ref)
                    pipe.execute()
                    return
                except WatchError:
                    continue


@dataclass(frozen=True, slots=True)
class Addition:
    """A transition on its way into the store."""

    transition: Transition
    linkage: Linkage
    packer: Packer
    parts: Parts
    due_at: float

    @property
    def known_as(self) -> list[str]:
        """Ids that its trajectory may be called by."""
        names = (self.transition.trajectory_id, _task_id(self.transition), self.linkage.given_id)
        return [name for name in dict.fromkeys(names) if name]

    def arguments(self, *, is_whole: bool = False) -> list[Any]:
        """What the script is told, in its order."""
        this = self.transition
        ref = TrajectoryRef(this.tenant, this.trajectory_id)
        written = self.packer.pack(ref.tenant, ref.id, self.parts, is_whole=is_whole)
        own = Entry("transition", this.id, ref.id, this.started_at)
        current, seconds, digest, member = noting(this.tenant, own)
        dictionary = written.dictionary.id if written.dictionary else b""
        names = _names(this)
        waited_for = names_of_transition(this)
        waited_for += [name_digest(TRAJECTORY, name) for name in self.known_as]
        notes = [part for entry in self._entries(ref) for part in noting(this.tenant, entry)]
        return [
            keys.trajectory(ref.tenant, ref.id),
            keys.messages(ref.tenant),
            str(ref),
            pack(this.id),
            written.value,
            written.base,
            keys.dictionaries(ref.tenant),
            dictionary,
            digest,
            seconds,
            member,
            current,
            slices(this.tenant, LIVES["transition"])[1],
            len(written.contents),
            *(part for name, value in written.contents for part in (message_name(name), value)),
            repr(this.started_at),
            repr(this.started_at + this.latency_seconds),
            len(names),
            *(part for pair in names for part in pair),
            *_COUNTED[this.rollout is not None],
            repr(self.due_at),
            len(notes) // 4,
            *notes,
            len(waited_for),
            *(keys.pending_of(ref.tenant, name) for name in waited_for),
        ]

    def _entries(self, ref: TrajectoryRef) -> Iterator[Entry]:
        """What it can be found by; last, which attempt it is at its call."""
        this, at = self.transition, self.transition.started_at
        member = f"{ref.id} {this.id}"
        for digest, seen in self.linkage.marks:
            yield Entry("link", digest, seen, at)
        for name in self.known_as:
            if name != ref.id:
                yield Entry("alias", name, ref.id, at)
        if this.response_id:
            yield Entry("response", this.response_id, member, at)
        for kind, value in indexed_names(this):
            yield Entry(kind, value, member, at)
        if self.linkage.call is not None:
            yield Entry("attempt", self.linkage.call, Attempt.of(this).member, at)


def _stored_under(addition: Addition, reply: Any) -> list[str]:
    """The trajectory that a transition was stored under, if it was not erased since."""
    if reply[0] == _STORED:
        return [addition.transition.trajectory_id]
    return read_member(reply[1])


def _names(transition: Transition) -> list[tuple[str, str]]:
    """What a trajectory is called after its transitions."""
    names = ("session_id", "task", "agent", "policy", "rollout")
    return [(name, value) for name in names if (value := getattr(transition, name)) is not None]


def _task_id(transition: Transition) -> str | None:
    """What the trajectory would be called if the call had named its task and no session."""
    if transition.session_id is None or transition.task is None:
        return None
    return trajectory_id(transition.tenant, session=None, task=transition.task)
