"""Erasing: everything that Redis holds of some trajectories, and nothing that others need."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from redis import WatchError

from trajectories import keys
from trajectories.errors import RecordError
from trajectories.model import Transition
from trajectories.names import SHARED, indexed_names, name_digest, names_of_vote, plain_name
from trajectories.store.archiving import Archiving
from trajectories.store.contents import message_name
from trajectories.store.items import Item
from trajectories.store.packed import Packed
from trajectories.store.packing import unpack
from trajectories.store.refs import TrajectoryRef
from trajectories.store.unpacking import Stored
from trajectories.store.verdicts import Verdicts
from trajectories.store.votes import Votes

_PAGE = 500
# What may have to go is told by a shorter life. Not by much: whoever is killed in between
# must not have taken anything from those who share it.
_LEAVING_SECONDS = keys.MESSAGE_TTL_SECONDS - 3600


@dataclass(slots=True)
class Erased:
    """What was erased, or would be."""

    trajectories: int = 0
    transitions: int = 0
    votes: int = 0
    contents: int = 0  # messages and large fields that nobody else refers to
    names: set[str] = field(default_factory=set)  # ids of all of it


class Erasing(Votes, Archiving, Verdicts):
    """Erases trajectories with their transitions, contents, votes, rewards and names."""

    def erase(self, refs: Collection[TrajectoryRef], *, is_dry: bool = False) -> Erased:
        """Erase trajectories of one tenant. Repeating it changes nothing.

        Reads the references of all the tenant's trajectories, to keep contents that they share.
        """
        erased = Erased()
        if not refs:
            return erased
        (tenant,) = {ref.tenant for ref in refs}
        contents: set[bytes] = set()
        for ref in refs:
            stored = self._redis.hgetall(keys.transitions_of(tenant, ref.id))
            contents.update(_digests(stored.values()))
            erased.trajectories += int(self._redis.exists(keys.trajectory(tenant, ref.id)))
            erased.transitions += len(stored)
            erased.names |= {ref.id, *self._names(ref, stored)}
        votes = list(self._votes_about(tenant, refs, erased.names))
        erased.votes = len(votes)
        erased.names |= {item.id for item in votes}
        if is_dry:
            return erased
        for item in votes:
            self._erase_vote(tenant, item)
        for ref in refs:
            self.erase_votes(ref)
            self.forget_verdicts(ref)
            self._erase_keys(ref)
        self.erase_entries(tenant, refs)
        erased.contents = self._erase_contents(tenant, contents)
        return erased

    def _names(self, ref: TrajectoryRef, stored: Stored) -> set[str]:
        """What a trajectory's transitions are called; where they cannot be read, their ids."""
        try:
            (steps,) = self.unpack([(ref, stored)])
        except RecordError:
            ids = [unpack(name) for name in stored]
            return {name for id in ids for name in (id, "traj" + id[2:])}
        return set(names_of_steps(steps))

    def _votes_about(
        self, tenant: str, refs: Collection[TrajectoryRef], names: Collection[str]
    ) -> Iterator[Item]:
        """Votes on these trajectories, waiting, expired and retracted ones too."""
        seen: set[str] = set()
        for ref in refs:
            ids = [name.decode() for name in self._redis.hkeys(keys.feedback_of(tenant, ref.id))]
            seen.update(ids)
            yield from self.items(tenant, ids)
        start = 0
        while members := self._redis.zrange(keys.votes(tenant), start, start + _PAGE - 1):
            start += _PAGE
            ids = [name for member in members if (name := member.decode()) not in seen]
            for item in self.items(tenant, ids):
                if item.ref in refs or _is_about(item, names):
                    yield item

    def _erase_vote(self, tenant: str, item: Item) -> None:
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(keys.feedback(tenant, item.id))
        pipe.zrem(keys.votes(tenant), item.id)
        pipe.zrem(keys.pending(tenant), item.id)
        if item.vote is not None:
            for kind, value in names_of_vote(item.vote):
                pipe.srem(keys.pending_of(tenant, name_digest(kind, value)), item.id)
        pipe.execute()

    def _erase_keys(self, ref: TrajectoryRef) -> None:
        policies = self._redis.hget(keys.trajectory(ref.tenant, ref.id), "policy")
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(
            keys.trajectory(ref.tenant, ref.id),
            keys.transitions_of(ref.tenant, ref.id),
            keys.superseded_of(ref.tenant, ref.id),
            keys.feedback_of(ref.tenant, ref.id),
            keys.rewards_of(ref.tenant, ref.id),
        )
        for name in (keys.OPEN, keys.SCORING, keys.ARCHIVING):
            pipe.zrem(name, str(ref))
        if policies:
            pipe.zrem(keys.trainable(policies.decode()), str(ref))
        pipe.execute()

    def _erase_contents(self, tenant: str, digests: set[bytes]) -> int:
        """Erase contents that no other trajectory refers to, however many come meanwhile.

        Whoever stores a transition gives its contents a long life again. So those that may
        have to go get a short one first, and go if it is still short in the end.
        """
        prefix = keys.messages(tenant)
        names = {digest: prefix + message_name(digest) for digest in digests}
        pipe = self._redis.pipeline(transaction=False)
        for name in names.values():
            pipe.expire(name, _LEAVING_SECONDS)
        pipe.execute()
        needed = digests & self._referred(tenant)
        pipe = self._redis.pipeline(transaction=False)
        for digest in needed:
            pipe.expire(names[digest], keys.MESSAGE_TTL_SECONDS)
        pipe.execute()
        return sum(self._erase_if_leaving(names[digest]) for digest in digests - needed)

    def _referred(self, tenant: str) -> set[bytes]:
        """Every content that a trajectory of the tenant refers to."""
        found: set[bytes] = set()
        for ref in self.all_trajectories():
            if ref.tenant == tenant:
                stored: Iterable[bytes] = self._redis.hvals(keys.transitions_of(tenant, ref.id))
                found.update(_digests(stored))
        return found

    def _erase_if_leaving(self, name: str) -> int:
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(name)
                    if not 0 <= pipe.ttl(name) <= _LEAVING_SECONDS:
                        return 0
                    pipe.multi()
                    pipe.delete(name)
                    return int(pipe.execute()[0])
                except WatchError:
                    continue


def _digests(stored: Iterable[bytes]) -> Iterator[bytes]:
    """The contents that stored transitions refer to, but for what is no stored transition."""
    for value in stored:
        with suppress(RecordError):
            yield from Packed.parse(value).digests


def names_of_steps(steps: Iterable[Transition]) -> Iterator[str]:
    """Whatever votes may call transitions."""
    for step in steps:
        # The id its client was told where its session was not named: see gateway/reception.py.
        yield from (step.id, "traj" + step.id[2:])
        yield from (name for name in (step.response_id, step.request_id) if name)
        yield from (plain_name(*name) for name in indexed_names(step))


def _is_about(item: Item, names: Collection[str]) -> bool:
    """Whether a vote means one of these names, or waits and may mean it."""
    vote = item.vote
    if vote is None:
        return False
    targets = [vote.response_id, vote.trajectory_id, vote.within]
    if vote.named is not None:
        for kind, value in names_of_vote(vote):
            if kind not in SHARED or item.ref is None:  # else it is another one's of that name
                targets.append(plain_name(kind, value))
    return any(target in names for target in targets)
