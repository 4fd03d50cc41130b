"""The one clock of the process: asks now and then who has waited too long.

A timer for each request would cost more than the request's own bookkeeping;
a limit of seconds does not need to be kept to the millisecond.
"""

import asyncio
import time

from gateway.services import Services

TICK_SECONDS = 0.1


async def tick(services: Services) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.monotonic()
        for exchange in list(services.exchanges):
            exchange.on_tick(now)
        for connection in list(services.connections):
            connection.on_tick(now)
        for server in services.servers.values():
            server.drop_idle(now)


def stop_calls(services: Services) -> None:
    """The grace is over: end what still runs, and let go of the upstreams."""
    for exchange in list(services.exchanges):
        exchange.on_shutdown()
    for server in services.servers.values():
        server.close()
