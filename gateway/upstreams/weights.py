"""Which version each engine's own weights are, where a round trains all of them.

The model's name is the same before and after, so two have to agree before a
call is stamped: the trainer, whose note in the registry says what an engine
was given and has answered for, and the engine, which says what it was given
last, and forgets it with a restart. A call is stamped by what both said when
it was sent, unless anything changed until it ended: then nobody learns from
it. The trainer changes nothing before every gateway has said that it knows
(snapshot.py); one that has not reached Redis for long stamps nothing.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.policies import Served
from gateway.upstreams.balance import Replica, Stamp
from trajectories.keys import HEARTBEAT_TTL_SECONDS
from trajectories.registry import Snapshot, Weights

logger = logging.getLogger(__name__)

Ask = Callable[[str], Awaitable[str | None]]

LOOK_SECONDS = 1.0  # far less than an engine takes to restart
STALE_SECONDS = HEARTBEAT_TTL_SECONDS / 2  # the trainer waits for us for twice as long


class OwnWeights:
    """Keeps the stamps of a policy's replicas true. Use it from one event loop."""

    def __init__(self, replicas: Sequence[Replica], policy: Served, ask: Ask) -> None:
        """`ask` asks the engine at a url for the name of its weights; None: it does not say."""
        self._replicas = replicas
        self._policy = policy
        self._ask = ask
        self._said: dict[str, str | None] = {}
        self._known: dict[str, tuple[object, ...]] = {}  # what each stamp stands for
        self._fresh_at = float("-inf")
        self._is_told = False  # that the trainer knows other engines
        for replica in replicas:
            replica.stamp = Stamp(None)

    async def run(self) -> None:
        """Ask all of them, again and again, until cancelled."""
        await asyncio.gather(*map(self._watch, self._replicas))

    async def _watch(self, replica: Replica) -> None:
        """One that hangs holds up no other."""
        while True:
            self._said[replica.url] = await self._ask(replica.url)
            self.settle(time.monotonic())
            await asyncio.sleep(LOOK_SECONDS)

    def settle(self, now: float, *, is_fresh: bool = False) -> None:
        """Make stamps of what is known now; `is_fresh`: the registry was read just now."""
        if is_fresh:
            self._fresh_at = now
        is_stale = now - self._fresh_at > STALE_SECONDS
        snapshot = self._policy.snapshot
        for replica in self._replicas:
            said = self._said.get(replica.url)
            noted = snapshot.weights.get(replica.url.rstrip("/"))  # as the trainer writes it
            change = None if noted is None else noted.change
            version = None if is_stale else agreed(snapshot, noted, said)
            known = (change, said, version)
            if self._known.get(replica.url) != known:
                self._known[replica.url] = known
                replica.stamp = Stamp(version)
            replica.breaker.is_held = noted is not None and noted.is_out
            replica.is_changing = noted is not None and noted.version is None
        urls = {replica.url.rstrip("/") for replica in self._replicas}
        if snapshot.weights and not self._is_told and urls.isdisjoint(snapshot.weights):
            self._is_told = True
            logger.warning(
                "no call is stamped, and none is learned from: the trainer's engines are %s, ours"
                " are %s: give both the same upstream.url and upstream.replicas",
                ", ".join(sorted(snapshot.weights)),
                ", ".join(sorted(urls)),
            )


def agreed(snapshot: Snapshot, noted: Weights | None, said: str | None) -> int | None:
    """The version that registry and engine agree on, or None."""
    if noted is None or noted.version is None or noted.is_out:
        return None
    entry = snapshot.versions.get(noted.version)
    return noted.version if entry is not None and entry.weights_name == said else None


async def look_at(weights: OwnWeights | None) -> None:
    """Until cancelled, where there is anything to look at."""
    if weights is not None:
        await weights.run()
