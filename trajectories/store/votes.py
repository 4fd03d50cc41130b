"""Votes: feedback, joined to what it is about or waiting for it.

Votes, their retractions and what they are about may arrive in any order and
more than once. So an item is what is known of it (a vote, a retraction, that it
expired), and `_settle` brings its effect to where that says it belongs: one
entry, under the vote's id, in the votes of one trajectory. Which votes stand
is decided when rewards are computed (`trajectories.standing`).
"""

import time
from collections.abc import Iterable
from typing import Any

from redis import WatchError

from trajectories import keys
from trajectories.model import Feedback, Retraction, Transition
from trajectories.names import (
    SHARED,
    TRAJECTORY,
    name_digest,
    names_of_transition,
    names_of_vote,
)
from trajectories.standing import said
from trajectories.store.items import Item, read_item
from trajectories.store.refs import TrajectoryRef
from trajectories.store.targets import Place, Targets

MANY_VOTES = 500  # on one trajectory, before those that were replaced are let go


class Votes(Targets):
    """Stores votes and joins them to their targets."""

    def add_feedback(self, feedback: Feedback) -> TrajectoryRef | None:
        """Store a vote and join it; None when its target is not known yet.

        Of two bodies under one id the one that was received first counts,
        whichever arrives first here.
        """
        self._admit(feedback)
        ref = self._settle(feedback.tenant, feedback.id)
        if ref is not None:
            self._thin_out(ref)
        return ref

    def retract(self, retraction: Retraction) -> None:
        """Erase what a vote said, and its effect. It may come before the vote, and twice."""
        key = keys.feedback(retraction.tenant, retraction.feedback_id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    fields = pipe.hgetall(key)
                    at = min(retraction.received_at, float(fields.get(b"retracted_at", "inf")))
                    pipe.multi()
                    pipe.hset(key, "retracted_at", repr(at))
                    pipe.hdel(key, "digest")  # of a short vote it would tell what it said
                    if b"vote" in fields:
                        vote = Feedback.from_json(fields[b"vote"])
                        pipe.hset(key, "vote", vote.erased(at).to_json())
                    pipe.expire(key, keys.FEEDBACK_TTL_SECONDS)
                    pipe.execute()
                    break
                except WatchError:
                    continue
        self._settle(retraction.tenant, retraction.feedback_id)

    def expire_pending(self, now: float) -> int:
        """Give up votes whose target never came; returns how many."""
        count = 0
        for member in self._redis.zrange(keys.PENDING, 0, -1):
            tenant = member.decode()
            for vote_id in self._redis.zrangebyscore(keys.pending(tenant), "-inf", now):
                count += self._give_up(tenant, vote_id.decode(), now)
        self._redis.zremrangebyscore(keys.PENDING, "-inf", now)
        return count

    def erase_votes(self, ref: TrajectoryRef) -> int:
        """Forget every vote on a trajectory and those that wait for it, as if never posted.

        Returns how many. For `forget`; what a client takes back is `retract`.
        """
        waiting = keys.pending_of(ref.tenant, name_digest(TRAJECTORY, ref.id))
        votes_key = keys.feedback_of(ref.tenant, ref.id)
        found = {*self._redis.hkeys(votes_key), *self._redis.smembers(waiting)}
        if not found:
            return 0
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(waiting, *(keys.feedback(ref.tenant, name.decode()) for name in found))
        pipe.hdel(votes_key, *found)
        pipe.zrem(keys.votes(ref.tenant), *found)
        pipe.zrem(keys.pending(ref.tenant), *found)
        pipe.hincrby(keys.trajectory(ref.tenant, ref.id), "revision", 1)
        self._expire(pipe, ref)
        pipe.execute()
        return len(found)

    def _admit(self, vote: Feedback) -> None:
        """Make a vote the body of its id, unless an earlier one is."""
        key, digest = keys.feedback(vote.tenant, vote.id), vote.digest
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    item = read_item(vote.tenant, vote.id, pipe.hgetall(key))
                    if item.vote is not None and (
                        (item.vote.received_at, item.digest or "") <= (vote.received_at, digest)
                    ):
                        return
                    kept = vote
                    if item.retracted_at is not None:
                        kept = vote.erased(item.retracted_at)
                    pipe.multi()
                    pipe.hset(key, "vote", kept.to_json())
                    if item.retracted_at is None:
                        pipe.hset(key, "digest", digest)
                    pipe.expire(key, keys.FEEDBACK_TTL_SECONDS)
                    self._list(pipe, vote)
                    if item.vote is None:
                        pipe.hincrby(keys.COUNTS, "feedback", 1)
                    pipe.execute()
                    return
                except WatchError:
                    continue

    def _list(self, pipe: Any, vote: Feedback) -> None:
        listed = keys.votes(vote.tenant)
        pipe.zadd(listed, {vote.id: vote.received_at})
        pipe.zremrangebyscore(listed, "-inf", time.time() - keys.FEEDBACK_TTL_SECONDS)
        pipe.expire(listed, keys.FEEDBACK_TTL_SECONDS)

    def _settle(self, tenant: str, vote_id: str) -> TrajectoryRef | None:
        """Bring a vote's effect to where it belongs now; returns where that is.

        Repeating it changes nothing. A vote whose target is unknown or ambiguous waits.
        """
        key = keys.feedback(tenant, vote_id)
        is_waiting = False  # and its target was looked for since
        joined: Place | None = None  # and whether it is the only one was looked at since
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    item = read_item(tenant, vote_id, pipe.hgetall(key))
                    if item.vote is None or item.expired_at is not None:
                        return None
                    found = self.places(item.vote)
                    place = found[0] if len(found) == 1 else None
                    if not found and item.ref is not None and self._was_about(pipe, item):
                        # What it was found by has left the store, perhaps before the rest.
                        place = Place(item.ref, item.transition_id)
                    if place is not None:
                        pipe.watch(keys.trajectory(tenant, place.ref.id))
                        if not pipe.hexists(keys.trajectory(tenant, place.ref.id), "started_at"):
                            # It expired; what leads to it may live a week longer.
                            if place.ref == item.ref:
                                return None
                            place = None
                    if place is None and is_waiting:
                        return None
                    changes = self._changes(pipe, item.vote, item.ref, place)
                    pipe.multi()
                    for ref, raw in changes:
                        self._apply(pipe, ref, item.vote, raw)
                    if place is None:
                        pipe.hdel(key, "place")
                        self._wait(pipe, item.vote)
                        is_waiting = True
                    else:
                        pipe.hset(key, "place", str(place))
                        self._stop_waiting(pipe, item.vote)
                    pipe.execute()
                    if place is not None and (place == joined or not _is_shared(item.vote)):
                        return place.ref
                    # Its target, or one more, may have arrived in between: look once more.
                    joined = place
                except WatchError:
                    is_waiting = False

    @staticmethod
    def _was_about(pipe: Any, item: Item) -> bool:
        """Whether what is attached is the item's vote, and not another body under its id."""
        if item.vote is None or item.ref is None:
            return False
        raw = pipe.hget(keys.feedback_of(item.ref.tenant, item.ref.id), item.id)
        if raw is None:
            return True  # the trajectory is gone
        kept = Feedback.from_json(raw)
        both = (kept.target, kept.received_at), (item.vote.target, item.vote.received_at)
        return both[0] == both[1]

    def _changes(
        self, pipe: Any, vote: Feedback, before: TrajectoryRef | None, place: Place | None
    ) -> list[tuple[TrajectoryRef, bytes | None]]:
        """What has to be written to which trajectory's votes; None takes the vote out."""
        changes: list[tuple[TrajectoryRef, bytes | None]] = []
        if before is not None and (place is None or place.ref != before):
            changes.append((before, None))
        if place is not None:
            raw = vote.model_copy(update={"transition_id": place.transition_id}).to_json()
            if pipe.hget(keys.feedback_of(vote.tenant, place.ref.id), vote.id) != raw:
                changes.append((place.ref, raw))
        return changes

    def _apply(self, pipe: Any, ref: TrajectoryRef, vote: Feedback, raw: bytes | None) -> None:
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        votes_key = keys.feedback_of(ref.tenant, ref.id)
        if raw is None:
            pipe.hdel(votes_key, vote.id)
        else:
            pipe.hset(votes_key, vote.id, raw)
        pipe.hincrby(trajectory_key, "revision", 1)
        if raw is not None and vote.is_final:
            pipe.hsetnx(trajectory_key, "closed", 1)  # one that had closed by itself did so then
            pipe.zrem(keys.OPEN, str(ref))
        pipe.zadd(keys.SCORING, {str(ref): time.time()}, lt=True)
        self._expire(pipe, ref)

    def _thin_out(self, ref: TrajectoryRef) -> None:
        """Of very many votes on a trajectory, let those go that a later one replaced.

        That changes nothing of which votes stand. Steps from the end stay: the same words
        may mean another answer each time.
        """
        votes_key = keys.feedback_of(ref.tenant, ref.id)
        # Now and then: each look reads all of them.
        count = int(self._redis.hlen(votes_key))
        if count <= MANY_VOTES or count % max(1, MANY_VOTES // 20):
            return
        last: dict[tuple[str, ...], Feedback] = {}
        replaced: list[str] = []
        for vote in self.votes_on(ref):  # by time
            if vote.has_own_id or (vote.step is not None and vote.step < 0):
                continue
            key = said(vote)
            if key in last:
                replaced.append(last[key].id)
            last[key] = vote
        if replaced:
            self._redis.hdel(votes_key, *replaced)

    @staticmethod
    def _wait(pipe: Any, vote: Feedback) -> None:
        for kind, value in names_of_vote(vote):
            waiting = keys.pending_of(vote.tenant, name_digest(kind, value))
            pipe.sadd(waiting, vote.id)
            pipe.expire(waiting, keys.PENDING_TTL_SECONDS)
        expires_at = time.time() + keys.PENDING_TTL_SECONDS
        pipe.zadd(keys.pending(vote.tenant), {vote.id: expires_at}, nx=True)
        # It outlives its members, so that every one of them can be given up.
        pipe.expire(keys.pending(vote.tenant), 2 * keys.PENDING_TTL_SECONDS)
        pipe.zadd(keys.PENDING, {vote.tenant: expires_at}, gt=True)

    @staticmethod
    def _stop_waiting(pipe: Any, vote: Feedback) -> None:
        for kind, value in names_of_vote(vote):
            waiting = keys.pending_of(vote.tenant, name_digest(kind, value))
            if kind in SHARED:  # one more of that name makes it ambiguous, when it comes late
                pipe.sadd(waiting, vote.id)
                pipe.expire(waiting, keys.PENDING_TTL_SECONDS)
            else:
                pipe.srem(waiting, vote.id)
        pipe.zrem(keys.pending(vote.tenant), vote.id)

    def _give_up(self, tenant: str, vote_id: str, now: float) -> int:
        key = keys.feedback(tenant, vote_id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    item = read_item(tenant, vote_id, pipe.hgetall(key))
                    is_lost = item.vote is not None and item.ref is None
                    pipe.multi()
                    pipe.zrem(keys.pending(tenant), vote_id)
                    if is_lost:
                        pipe.hset(key, "expired_at", repr(now))
                        pipe.hincrby(keys.COUNTS, "expired", 1)
                    pipe.execute()
                    return int(is_lost)
                except WatchError:
                    continue

    def _join_pending(self, transition: Transition, trajectory_ids: Iterable[str]) -> None:
        """Join the votes that came before what they are about."""
        tenant = transition.tenant
        names = names_of_transition(transition)
        names += [name_digest(TRAJECTORY, wanted) for wanted in trajectory_ids]
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.smembers(keys.pending_of(tenant, name))
        for vote_id in sorted({member for members in pipe.execute() for member in members}):
            self._settle(tenant, vote_id.decode())


def _is_shared(vote: Feedback) -> bool:
    """Whether several transitions may have what a vote names."""
    return any(kind in SHARED for kind, _ in names_of_vote(vote))
