"""The one clock of the process: asks now and then who has waited too long.

A timer for each request would cost more than the request's own bookkeeping;
a limit of seconds does not need to be kept to the millisecond.
"""

import asyncio
import logging
import time

from gateway.services import Services

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1


async def tick(services: Services) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.monotonic()
        for waiting in (*services.exchanges, *services.connections):
            try:
                waiting.on_tick(now)
            except Exception:  # one that is broken must not stop the clock of all
                logger.exception("a call or a connection could not be ended in time")
        for server in services.servers.values():
            server.drop_idle(now)


def stop_calls(services: Services) -> None:
    """The grace is over: end what still runs, and let go of the upstreams."""
    for exchange in list(services.exchanges):
        exchange.on_shutdown()
    for server in services.servers.values():
        server.close()
