"""Keeps the registry's snapshot fresh, and tells the trainer what we route by.

A background task. Routing reads `snapshot` as a plain attribute and never
waits; while Redis is away the last one stands. Revision and counts of a
heartbeat are taken together on the event loop, after the new snapshot is in
place: a heartbeat with revision r says that no later request is routed by an
older one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from gateway.routing import InFlight, Stickiness
from gateway.spool.writer import Spool
from trajectories import keys
from trajectories.connection import Redis, RedisError
from trajectories.errors import RecordError
from trajectories.registry import Heartbeat, Registry, Snapshot

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # for an announcement; then revision and heartbeat anyway
RETRY_SECONDS = 0.5
# TypeError: redis-py polls the socket of a subscription that it has just lost.
_AWAY = (RedisError, RecordError, ValueError, OSError, TypeError)


class SnapshotWatcher:
    """Follows the registry of one policy."""

    def __init__(
        self,
        redis: Redis,
        registry: Registry,
        spool: Spool,
        *,
        in_flight: InFlight,
        stickiness: Stickiness,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._registry = registry
        self._spool = spool  # whose producer is our name; it may change
        self._in_flight = in_flight
        self._stickiness = stickiness
        self._clock = clock
        self._subscription: Any = None
        self.snapshot: Snapshot = registry.empty
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
        """Take over a change if there is one, then beat."""
        revision = await asyncio.to_thread(self._registry.revision)
        # While Redis was away it may have been restored: the same number, and other versions.
        if not self.is_connected or revision != self.snapshot.revision:
            self.snapshot = await asyncio.to_thread(self._registry.snapshot)
        await asyncio.to_thread(self._beat, self.heartbeat())
        self.is_connected = True

    def heartbeat(self) -> Heartbeat:
        """What this gateway says of itself now. One step on the event loop: consistent."""
        return Heartbeat(
            gateway=self._spool.producer,
            revision=self.snapshot.revision,
            in_flight=self._in_flight.by_version(),
            open_trajectories=self._stickiness.open_by_version(self._clock()),
            at=time.time(),
        )

    def _beat(self, heartbeat: Heartbeat) -> None:
        # Whoever unloads an adapter must know of us before we ship a first record.
        self._redis.sadd(keys.GATEWAYS, heartbeat.gateway)
        self._registry.beat(heartbeat)

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
