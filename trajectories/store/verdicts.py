"""Verdicts: which are due, what became of each, and what judges spent.

A verdict is asked for when a trajectory is closed and scored; `verdicts` holds
the ask until it was given, refused for good, or made void. What a judge said is
no subject of this room: it enters as a vote, like everybody's.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from trajectories import keys
from trajectories.model import Feedback, Record
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room

_TAKE_BACK = """
local now = redis.call('ZSCORE', KEYS[1], ARGV[1])
if now and tonumber(now) == tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
"""


class VerdictState(Record):
    """What became of one judge's verdict on one trajectory.

    `stamp` says of which content and by which version of the judge; another one
    is a verdict that was not given yet.
    """

    stamp: str
    state: Literal["given", "abstained", "failed", "retried", "waiting"]
    attempts: int = 0
    reason: str = ""
    votes: tuple[tuple[str, str | None, str], ...] = ()  # identity, response id, reward name
    at: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in ("given", "abstained", "failed")


class Verdicts(Room):
    """Asks for verdicts and their states."""

    def ask_verdicts(self, ref: TrajectoryRef, judges: Sequence[str], at: float) -> None:
        """Ask for these judges' verdicts from `at` on; asking again makes it no later."""
        if judges:
            self._redis.zadd(keys.VERDICTS, {f"{judge} {ref}": at for judge in judges}, lt=True)

    def claim_verdicts(self, due_before: float, again_at: float, limit: int = 200) -> list[str]:
        """Asks (`judge tenant/trajectory`) that are due, oldest first; due again at `again_at`."""
        found = self._redis.zrangebyscore(keys.VERDICTS, "-inf", due_before, start=0, num=limit)
        asks = [member.decode() for member in found]
        if asks:
            self._redis.zadd(keys.VERDICTS, dict.fromkeys(asks, again_at), xx=True)
        return asks

    def trim_verdicts(self, now: float) -> int:
        """Drop asks that nobody takes: as old as trajectories get, or above a million."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.zremrangebyscore(keys.VERDICTS, "-inf", now - keys.TRAJECTORY_TTL_SECONDS)
        pipe.zremrangebyrank(keys.VERDICTS, 0, -keys.VERDICTS_KEPT - 1)
        return sum(pipe.execute())

    def verdict_due(self, judge: str, ref: TrajectoryRef) -> str | None:
        """When this verdict is due, as `settle_verdict` wants it back; None: nobody asks."""
        found = self._redis.zscore(keys.VERDICTS, f"{judge} {ref}")
        return None if found is None else repr(float(found))

    def settle_verdict(
        self, judge: str, ref: TrajectoryRef, due: str, again_at: float | None = None
    ) -> None:
        """Take an ask back, or put it off; not when somebody asked again since `due` was read."""
        member = f"{judge} {ref}"
        if again_at is not None:
            self._redis.zadd(keys.VERDICTS, {member: again_at}, xx=True)
            return
        self._redis.eval(_TAKE_BACK, 1, keys.VERDICTS, member, due)

    def verdict_states(self, ref: TrajectoryRef) -> dict[str, VerdictState]:
        """Judge -> what became of its verdict."""
        found = self._redis.hgetall(keys.verdicts_of(ref.tenant, ref.id))
        return {name.decode(): VerdictState.from_json(raw) for name, raw in found.items()}

    def put_verdict_state(self, judge: str, ref: TrajectoryRef, state: VerdictState) -> None:
        """Note what became of a verdict; with the trajectory it goes away."""
        # A judge is compared with people, and people say nothing of siblings.
        is_rollout = self._redis.hexists(keys.trajectory(ref.tenant, ref.id), "rollout")
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(keys.verdicts_of(ref.tenant, ref.id), judge, state.to_json())
        pipe.expire(keys.verdicts_of(ref.tenant, ref.id), keys.TRAJECTORY_TTL_SECONDS)
        if state.is_over:  # whoever waited for it is scored again; nobody else is
            pipe.zadd(keys.WINDOWS, {str(ref): time.time()}, xx=True)
        if state.state == "given" and not is_rollout:
            now = time.time()
            judged_key = keys.judged(ref.tenant, judge)
            pipe.zadd(judged_key, {ref.id: now})
            pipe.zremrangebyrank(judged_key, 0, -keys.JUDGED_KEPT - 1)
            pipe.expire(judged_key, keys.JUDGE_TTL_SECONDS)
            pipe.zadd(keys.JUDGED, {f"{judge} {ref.tenant}": now})
            pipe.zremrangebyscore(keys.JUDGED, "-inf", now - keys.JUDGE_TTL_SECONDS)
        pipe.execute()

    def count_verdict(self, judge: str, tenant: str, counts: dict[str, int]) -> None:
        """Add to what `ratchet judges` shows: verdicts, calls, tokens, failures by reason."""
        key = keys.judge(tenant, judge)
        pipe = self._redis.pipeline(transaction=True)
        for name, number in counts.items():
            pipe.hincrby(key, name, number)
        pipe.expire(key, keys.JUDGE_TTL_SECONDS)
        pipe.execute()

    def forget_verdicts(self, ref: TrajectoryRef) -> None:
        """Erase what is known of one trajectory's verdicts; its votes go with the trajectory."""
        states_key = keys.verdicts_of(ref.tenant, ref.id)
        judges = {name.decode() for name in self._redis.hkeys(states_key)}
        asks = [
            member
            for member, _ in self._redis.zscan_iter(keys.VERDICTS, match=f"* {ref}", count=1000)
        ]
        judges |= {ask.decode().partition(" ")[0] for ask in asks}
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(states_key)
        if asks:
            pipe.zrem(keys.VERDICTS, *asks)
        for judge in judges:
            pipe.zrem(keys.judged(ref.tenant, judge), ref.id)
            groups = keys.judge_group(ref.tenant, judge, "*")
            for group in self._redis.scan_iter(match=groups, count=1000):
                pipe.zrem(group, ref.id)
        pipe.execute()

    def quarantine_verdict(self, judge: str, ref: TrajectoryRef, reason: str, detail: str) -> None:
        """List a verdict that was given up, where records that could not be applied are listed."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.xadd(
            keys.QUARANTINE,
            {
                "stream": f"verdicts/{judge}",
                "id": str(ref),
                "r": b"",
                "reason": f"{reason}: {detail}",
            },
            maxlen=keys.QUARANTINE_KEPT,
            approximate=False,
        )
        pipe.hincrby(keys.COUNTS, "quarantined", 1)
        pipe.execute()

    def votes_of(self, ref: TrajectoryRef) -> list[Feedback]:
        """The votes on a trajectory and its responses, without the rest of it."""
        found = self._redis.hvals(keys.feedback_of(ref.tenant, ref.id))
        return sorted((Feedback.from_json(raw) for raw in found), key=lambda vote: vote.id)

    def verdict_counts(self, judge: str, tenant: str) -> dict[str, int]:
        """What `count_verdict` added up."""
        found = self._redis.hgetall(keys.judge(tenant, judge))
        return {name.decode(): int(value) for name, value in found.items()}

    def verdict_spending(self, judge: str, tenant: str, day: str) -> dict[str, int]:
        """Calls and tokens of one UTC day (`2026-11-28`)."""
        found = self._redis.hgetall(keys.judge_spent(tenant, judge, day))
        return {name.decode(): int(value) for name, value in found.items()}

    def count_verdicts(self) -> int:
        """How many verdicts are asked for and not given."""
        return int(self._redis.zcard(keys.VERDICTS))

    def calibration(self, judge: str, tenant: str) -> dict[str, Any] | None:
        """A judge's calibration as it is stored, or None."""
        raw = self._redis.get(keys.calibration(tenant, judge))
        return None if raw is None else dict(orjson.loads(raw))

    def judging_tenants(self, judge: str) -> list[str]:
        """Tenants that this judge judged for within the last 90 days."""
        pairs = (
            member.decode().partition(" ") for member in self._redis.zrange(keys.JUDGED, 0, -1)
        )
        return sorted(tenant for name, _, tenant in pairs if name == judge)

    def judged_trajectories(self, judge: str, tenant: str) -> list[TrajectoryRef]:
        """The last trajectories it judged, oldest first; some may have expired."""
        found = self._redis.zrange(keys.judged(tenant, judge), 0, -1)
        return [TrajectoryRef(tenant, member.decode()) for member in found]
