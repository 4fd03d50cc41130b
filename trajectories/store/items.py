"""Votes as their clients see them: one by its id, all of a tenant by time, those that wait."""

import math
from dataclasses import dataclass

from trajectories import keys
from trajectories.model import Feedback
from trajectories.store.reading import Reading
from trajectories.store.refs import TrajectoryRef

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Item:
    """A vote and what became of it. `vote` is None where only its retraction has come."""

    id: str
    vote: Feedback | None
    digest: str | None  # of the body as it was posted
    ref: TrajectoryRef | None  # where it is attached
    transition_id: str | None
    retracted_at: float | None
    expired_at: float | None

    @property
    def status(self) -> str:
        """attached, pending, retracted or expired."""
        if self.retracted_at is not None:
            return "retracted"
        if self.expired_at is not None:
            return "expired"
        return "attached" if self.ref is not None else "pending"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a tenant's list of votes; written `time:id`."""

    received_at: float
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError when `text` is no cursor."""
        written, found, vote_id = text.partition(":")
        received_at = float(written)
        if not found or not math.isfinite(received_at):
            raise ValueError("no cursor")
        return cls(received_at, vote_id)

    def __str__(self) -> str:
        return f"{self.received_at!r}:{self.id}"


class Items(Reading):
    """Reads of votes; changes nothing."""

    def item(self, tenant: str, feedback_id: str) -> Item | None:
        """A vote and what became of it; None when nothing of it has come."""
        fields = self._redis.hgetall(keys.feedback(tenant, feedback_id))
        return read_item(tenant, feedback_id, fields) if fields else None

    def items(self, tenant: str, feedback_ids: list[str]) -> list[Item]:
        """Those of them that are known, in the same order."""
        pipe = self._redis.pipeline(transaction=False)
        for feedback_id in feedback_ids:
            pipe.hgetall(keys.feedback(tenant, feedback_id))
        found = zip(feedback_ids, pipe.execute() if feedback_ids else (), strict=True)
        return [read_item(tenant, name, fields) for name, fields in found if fields]

    def feedback(self, tenant: str, feedback_id: str) -> Feedback | None:
        """One vote as it was posted, or what is left of it."""
        found = self.item(tenant, feedback_id)
        return found.vote if found else None

    def votes_before(self, tenant: str, after: Cursor | None, limit: int) -> list[Cursor]:
        """Up to `limit` votes of a tenant, newest first, that come after a place in the list."""
        found: list[Cursor] = []
        highest = "+inf" if after is None else repr(after.received_at)
        start = 0
        while len(found) < limit:
            members = self._redis.zrevrangebyscore(
                keys.votes(tenant), highest, "-inf", start=start, num=_PAGE, withscores=True
            )
            places = [Cursor(received_at, member.decode()) for member, received_at in members]
            found += [place for place in places if after is None or place < after]
            if len(members) < _PAGE:
                break
            start += _PAGE
        return found[:limit]

    def votes_on(self, ref: TrajectoryRef) -> list[Feedback]:
        """Every vote on a trajectory, those that others replaced included, by time."""
        raw = self._redis.hvals(keys.feedback_of(ref.tenant, ref.id))
        votes = (Feedback.from_json(entry) for entry in raw)
        return sorted(votes, key=lambda vote: (vote.received_at, vote.id))

    def count_pending(self, tenant: str | None = None) -> int:
        """How many votes wait for what they are about, of one tenant or of all."""
        if tenant is not None:
            return int(self._redis.zcard(keys.pending(tenant)))
        tenants = self._redis.zrange(keys.PENDING, 0, -1)
        return sum(self.count_pending(name.decode()) for name in tenants)


def read_item(tenant: str, feedback_id: str, fields: dict[bytes, bytes]) -> Item:
    """An item as it stands in Redis."""
    raw, place = fields.get(b"vote"), fields.get(b"place")
    trajectory, _, transition = place.decode().partition(" ") if place else ("", "", "")
    return Item(
        id=feedback_id,
        vote=Feedback.from_json(raw) if raw else None,
        digest=fields[b"digest"].decode() if b"digest" in fields else None,
        ref=TrajectoryRef(tenant, trajectory) if trajectory else None,
        transition_id=transition or None,
        retracted_at=_time(fields.get(b"retracted_at")),
        expired_at=_time(fields.get(b"expired_at")),
    )


def _time(raw: bytes | None) -> float | None:
    return float(raw) if raw is not None else None
