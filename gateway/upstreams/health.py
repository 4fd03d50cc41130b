"""Ask each replica now and then whether it is well, and remember the answer.

One task for each replica. One good answer makes it healthy; two bad ones in a
row make it unhealthy, and it is asked more often until it is well again.
Intervals vary by a quarter, so that many gateways do not ask in step. How to
ask is given from outside: an async callable from a replica's address to whether
it said 200.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from gateway.upstreams.balance import Replica
from trajectories.errors import RatchetError

Ask = Callable[[str], Awaitable[bool]]
Sleep = Callable[[float], Awaitable[None]]

GOOD_SECONDS = 5.0  # between two questions to a replica that is well
BAD_SECONDS = 1.0  # and to one that was not, the last time
LIMIT_SECONDS = 2.0  # an answer that takes longer is a bad one
_BAD_IN_A_ROW = 2
_JITTER = 0.25

logger = logging.getLogger(__name__)


async def watch(
    replicas: Iterable[Replica],
    ask: Ask,
    *,
    sleep: Sleep = asyncio.sleep,
    limit_seconds: float = LIMIT_SECONDS,
) -> None:
    """Keep `is_healthy` of every replica true to life, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for replica in replicas:
            tasks.create_task(_watch_one(replica, ask, sleep, limit_seconds))


async def _watch_one(replica: Replica, ask: Ask, sleep: Sleep, limit_seconds: float) -> None:
    bad_in_a_row = 0
    while True:
        if await is_well(replica.url, ask, limit_seconds):
            bad_in_a_row = 0
            _mark(replica, is_healthy=True)
        else:
            bad_in_a_row += 1
            if bad_in_a_row >= _BAD_IN_A_ROW:
                _mark(replica, is_healthy=False)
        seconds = BAD_SECONDS if bad_in_a_row else GOOD_SECONDS
        await sleep(seconds * random.uniform(1 - _JITTER, 1 + _JITTER))


async def is_well(url: str, ask: Ask, limit_seconds: float = LIMIT_SECONDS) -> bool:
    """One question. No connection, an error and silence are all a no."""
    try:
        async with asyncio.timeout(limit_seconds):
            return await ask(url)
    except (OSError, RatchetError):  # TimeoutError is an OSError
        return False


def _mark(replica: Replica, *, is_healthy: bool) -> None:
    if replica.is_healthy != is_healthy:
        replica.is_healthy = is_healthy
        logger.warning("%s is %s", replica.url, "well again" if is_healthy else "not well")
