"""The registry of policy versions, in Redis: what serves, what waits, what was refused.

The trainer and `ratchet rollback` write it, the gateways read it as a
`Snapshot`. Every change raises `revision` in the same MULTI and is announced
on a channel; a gateway that missed the announcement sees the number by
polling. Numbers are never given out twice.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from redis import Redis, WatchError

from trajectories import keys
from trajectories.errors import RegistryError
from trajectories.model import Record
from trajectories.resources import LOADED, MOVES, ROUTABLE, Kind, PolicyVersion, VersionState


class Heartbeat(Record):
    """What one gateway process last said of one policy."""

    gateway: str
    policy: str = "policy"
    revision: int  # of the snapshot it routes by
    in_flight: dict[int, int]  # policy version -> requests running now
    open_trajectories: dict[int, int]  # policy version -> trajectories bound to it
    at: float


class Weights(Record):
    """Which version the own weights of one engine are, where a round trains all of them."""

    url: str
    version: int | None = None  # None: they are being exchanged, or nobody knows
    wanted: int = 0  # which they are to be
    is_out: bool = False  # no call may go there
    reason: str = ""  # why it is out
    change: int = 0  # another number, perhaps other weights in between


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All versions at one revision; what a gateway routes by."""

    policy: str
    revision: int
    current: int
    versions: Mapping[int, PolicyVersion]
    weights: Mapping[str, Weights] = field(default_factory=dict)  # by engine; none with adapters

    def is_routable(self, version: int) -> bool:
        """Whether a running trajectory may still be answered by `version`."""
        if self.weights and version != self.current:
            return False  # no engine holds two
        found = self.versions.get(version)
        return found is not None and found.state in ROUTABLE

    def served_name(self, version: int) -> str:
        """The model that an engine is asked for to get `version`."""
        entry = self.versions[version]
        return self.versions[0].model if entry.kind is Kind.FULL else entry.model

    @property
    def loaded(self) -> list[PolicyVersion]:
        """The adapters an engine must hold, oldest first."""
        return [
            entry
            for _, entry in sorted(self.versions.items())
            if entry.version > 0 and entry.state in LOADED and entry.kind is Kind.LORA
        ]


Change = Callable[[dict[int, PolicyVersion], int], tuple[dict[int, PolicyVersion], int]]


class Registry:
    """Reads and writes the versions of one policy. Every method is one transaction."""

    def __init__(self, redis: Redis, policy: str, base_model: str) -> None:
        self._redis: Any = redis  # redis-py types replies as bytes | str; ours are bytes
        self._policy = policy
        self._base = PolicyVersion(
            policy=policy, version=0, model=base_model, state=VersionState.CURRENT
        )

    @property
    def empty(self) -> Snapshot:
        """What holds before anything was learned, or while Redis cannot be read."""
        return Snapshot(self._policy, 0, 0, {0: self._base})

    def snapshot(self) -> Snapshot:
        """The registry now."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(keys.policy(self._policy))
        pipe.hgetall(keys.policy_head(self._policy))
        pipe.hgetall(keys.policy_weights(self._policy))
        return self._parse(*pipe.execute())

    def revision(self) -> int:
        """Just the revision: what a poll compares."""
        return revisions_of(self._redis, [self._policy])[0]

    def allocate(self, at_least: int = 1) -> int:
        """A version number nobody was given before, not below `at_least`.

        `at_least` lets the trainer skip numbers that it finds on disk after
        Redis was emptied.
        """
        head = keys.policy_head(self._policy)
        number = int(self._redis.hincrby(head, "last", 1))
        if number < at_least:
            number = int(self._redis.hincrby(head, "last", at_least - number))
        return number

    def add(self, version: PolicyVersion) -> None:
        """Make a candidate known; repeating it changes nothing."""

        def change(
            versions: dict[int, PolicyVersion], current: int
        ) -> tuple[dict[int, PolicyVersion], int]:
            versions.setdefault(version.version, version)
            return versions, current

        self._change(change)

    def move(
        self, version: int, state: VersionState, *, reason: str = "", **changes: Any
    ) -> PolicyVersion:
        """Bring a version into `state` (CURRENT is reached by `promote` only).

        Raises RegistryError when the version is unknown or the move is not in MOVES.
        """
        if state is VersionState.CURRENT:
            raise RegistryError("a version becomes current by promote(), never by move()")

        def change(
            versions: dict[int, PolicyVersion], current: int
        ) -> tuple[dict[int, PolicyVersion], int]:
            versions[version] = self._moved(versions, version, state, reason, changes)
            return versions, current

        return self._change(change).versions[version]

    def promote(
        self, version: int, *, reason: str = "", metrics: Mapping[str, float] | None = None
    ) -> Snapshot:
        """Make `version` current and let the one before drain, in one step.

        `metrics` are what was measured since it was added. Promoting the current
        version changes nothing. Raises RegistryError when it is unknown or was
        rejected.
        """

        def change(
            versions: dict[int, PolicyVersion], current: int
        ) -> tuple[dict[int, PolicyVersion], int]:
            if current == version:
                return versions, current
            stamp: dict[str, Any] = {"promoted_at": time.time()}
            if metrics is not None:
                stamp["metrics"] = dict(metrics)
            versions[version] = self._moved(versions, version, VersionState.CURRENT, reason, stamp)
            versions[current] = self._moved(versions, current, VersionState.DRAINING, reason, {})
            return versions, version

        return self._change(change)

    def note_weights(self, said: Weights) -> int:
        """Say what an engine's own weights are; returns the revision that says so.

        For whoever holds the policy's lease: nobody else writes it.
        """
        name, head = keys.policy_weights(self._policy), keys.policy_head(self._policy)
        raw = self._redis.hget(name, said.url)
        change = Weights.from_json(raw).change + 1 if raw else 1
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(name, said.url, said.model_copy(update={"change": change}).to_json())
        pipe.hincrby(head, "revision", 1)
        _, revision = pipe.execute()
        self._announce(self._redis, int(revision))
        return int(revision)

    def keep_weights(self, urls: Sequence[str]) -> None:
        """Forget what is known of other engines than these."""
        name = keys.policy_weights(self._policy)
        gone = [raw for raw in self._redis.hkeys(name) if raw.decode() not in urls]
        if gone:
            self._redis.hdel(name, *gone)
            self._announce(
                self._redis, self._redis.hincrby(keys.policy_head(self._policy), "revision", 1)
            )

    def roll_back_target(self, snapshot: Snapshot) -> int:
        """The version to go back to: the one that the current one replaced."""
        current = snapshot.versions[snapshot.current]
        if current.version == 0:
            raise RegistryError("the base model is serving: there is nothing to roll back to")
        earlier = [
            entry
            for entry in snapshot.versions.values()
            if entry.version < current.version and (entry.promoted_at or entry.version == 0)
        ]
        # By time of promotion, not by number: a version between may itself have been rolled back.
        latest = max(earlier, key=lambda entry: (entry.promoted_at or 0.0, entry.version))
        return latest.version

    def heartbeats(self) -> list[Heartbeat]:
        """What every gateway alive within HEARTBEAT_TTL_SECONDS last said of this policy."""
        ids = sorted(member.decode() for member in self._redis.smembers(keys.GATEWAYS))
        if not ids:
            return []
        found = self._redis.mget([keys.gateway(gateway_id, self._policy) for gateway_id in ids])
        return [Heartbeat.from_json(raw) for raw in found if raw is not None]

    def _moved(
        self,
        versions: dict[int, PolicyVersion],
        version: int,
        state: VersionState,
        reason: str,
        changes: dict[str, Any],
    ) -> PolicyVersion:
        entry = versions.get(version)
        if entry is None:
            known = ", ".join(str(number) for number in sorted(versions))
            raise RegistryError(f"policy {self._policy} has no version {version} (known: {known})")
        if entry.state is not state and state not in MOVES[entry.state]:
            raise RegistryError(
                f"version {version} is {entry.state.value} and cannot become {state.value}"
            )
        update = {"state": state, "reason": reason or entry.reason, **changes}
        return entry.model_copy(update=update)

    def _change(self, change: Change) -> Snapshot:
        """Apply a pure change under optimistic locking, raise the revision, announce it."""
        versions_key, head_key = keys.policy(self._policy), keys.policy_head(self._policy)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(versions_key, head_key)
                    before = self._parse(
                        pipe.hgetall(versions_key),
                        pipe.hgetall(head_key),
                        pipe.hgetall(keys.policy_weights(self._policy)),
                    )
                    versions, current = change(dict(before.versions), before.current)
                    if versions == before.versions and current == before.current:
                        pipe.unwatch()
                        return before
                    pipe.multi()
                    pipe.hset(
                        versions_key,
                        mapping={str(n): entry.to_json() for n, entry in versions.items()},
                    )
                    pipe.hset(head_key, "current", current)
                    pipe.hincrby(head_key, "revision", 1)
                    self._announce(pipe, before.revision + 1)
                    pipe.execute()
                    return replace(
                        before, revision=before.revision + 1, current=current, versions=versions
                    )
                except WatchError:
                    continue

    def _announce(self, redis: Any, revision: int) -> None:
        said = orjson.dumps({"policy": self._policy, "revision": revision})
        redis.publish(keys.REGISTRY_CHANNEL, said)

    def _parse(
        self,
        versions: dict[bytes, bytes],
        head: dict[bytes, bytes],
        weights: dict[bytes, bytes],
    ) -> Snapshot:
        entries = {int(number): PolicyVersion.from_json(raw) for number, raw in versions.items()}
        entries.setdefault(0, self._base)
        current = int(head.get(b"current", 0))
        own = {url.decode(): Weights.from_json(raw) for url, raw in weights.items()}
        return Snapshot(self._policy, int(head.get(b"revision", 0)), current, entries, own)


def revisions_of(redis: Redis, policies: Sequence[str]) -> list[int]:
    """Just the revision of each policy's registry: what a poll compares."""
    pipe: Any = redis.pipeline(transaction=False)
    for policy in policies:
        pipe.hget(keys.policy_head(policy), "revision")
    return [int(revision or 0) for revision in pipe.execute()]


def beat(redis: Redis, heartbeats: Sequence[Heartbeat]) -> None:
    """Store a gateway's heartbeats; they are forgotten after HEARTBEAT_TTL_SECONDS."""
    pipe: Any = redis.pipeline(transaction=False)
    for heartbeat in heartbeats:
        key = keys.gateway(heartbeat.gateway, heartbeat.policy)
        pipe.set(key, heartbeat.to_json(), ex=keys.HEARTBEAT_TTL_SECONDS)
    pipe.execute()
