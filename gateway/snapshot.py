"""Keeps the registry's snapshots fresh, and tells the trainers what we route by.

A background task. Routing reads a policy's `snapshot` as a plain attribute and
never waits; while Redis is away the last one stands. Revision and counts of a
heartbeat are taken together on the event loop, after the new snapshot is in
place: a heartbeat with revision r says that no later request is routed by an
older one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.policies import Policies, Served
from gateway.spool.writer import Spool
from gateway.upstreams.weights import OwnWeights
from trajectories import keys
from trajectories.connection import Redis, RedisError
from trajectories.errors import RecordError
from trajectories.registry import Heartbeat, Registry, beat, revisions_of

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # for an announcement; then revision and heartbeat anyway
RETRY_SECONDS = 0.5
# TypeError: redis-py polls the socket of a subscription that it has just lost.
_AWAY = (RedisError, RecordError, ValueError, OSError, TypeError)


class SnapshotWatcher:
    """Follows the registries of all policies."""

    def __init__(
        self,
        redis: Redis,
        registries: Mapping[str, Registry],
        spool: Spool,
        *,
        policies: Policies,
        weights: OwnWeights | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._registries = registries  # by policy
        self._spool = spool  # whose producer is our name; it may change
        self._policies = policies
        self._weights = weights
        self._clock = clock
        self._unreadable: set[str] = set()  # policies whose versions were no records
        self._subscription: Any = None
        self.is_connected = False

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self.refresh()
                    await asyncio.to_thread(self._wait_for_announcement)
                except _AWAY as error:
                    self._note_absence(error)
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._drop_subscription()

    async def try_refresh(self, seconds: float) -> None:
        """Refresh if that is possible within `seconds`."""
        try:
            await asyncio.wait_for(self.refresh(), seconds)
        except _AWAY as error:
            self._note_absence(error)

    async def refresh(self) -> None:
        """Take over what changed, then beat."""
        revisions = await asyncio.to_thread(revisions_of, self._redis, list(self._registries))
        for policy, revision in zip(self._policies, revisions, strict=True):
            is_known = self.is_connected and policy.name not in self._unreadable
            # While Redis was away it may have been restored: the same number, other versions.
            if not is_known or revision != policy.snapshot.revision:
                await self._take_over(policy)
        if self._weights is not None:  # before we say that we know
            self._weights.settle(self._clock(), is_fresh=True)
        await asyncio.to_thread(self._beat, self.heartbeats())
        self.is_connected = True

    async def _take_over(self, policy: Served) -> None:
        """Route by what the registry says; an entry that is none leaves the last snapshot.

        The other policies must not wait for it: without heartbeats their trainers would
        unload what we still route to.
        """
        try:
            snapshot = await asyncio.to_thread(self._registries[policy.name].snapshot)
        except (RecordError, ValueError) as error:
            if policy.name not in self._unreadable:
                logger.warning("%s: the last snapshot stands: %s", policy.name, error)
            self._unreadable.add(policy.name)
            return
        self._unreadable.discard(policy.name)
        self._policies.put(policy, snapshot)

    def heartbeats(self) -> list[Heartbeat]:
        """What this gateway says of each policy now. One step on the event loop: consistent."""
        return [
            Heartbeat(
                gateway=self._spool.producer,
                policy=policy.name,
                revision=policy.snapshot.revision,
                in_flight=policy.in_flight.by_version(),
                open_trajectories=policy.stickiness.open_by_version(self._clock()),
                at=time.time(),
            )
            for policy in self._policies
        ]

    def _beat(self, heartbeats: Sequence[Heartbeat]) -> None:
        # Whoever unloads an adapter must know of us before we ship a first record.
        self._redis.sadd(keys.GATEWAYS, self._spool.producer)
        beat(self._redis, heartbeats)

    def _wait_for_announcement(self) -> None:
        if self._subscription is None:
            pubsub: Callable[..., Any] = self._redis.pubsub
            self._subscription = pubsub(ignore_subscribe_messages=True)
            self._subscription.subscribe(keys.REGISTRY_CHANNEL)
        self._subscription.get_message(timeout=WAIT_SECONDS)

    def _note_absence(self, error: Exception) -> None:
        if self.is_connected:
            logger.warning("no registry, the last snapshot stands: %s", error)
        self.is_connected = False
        self._drop_subscription()

    def _drop_subscription(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
