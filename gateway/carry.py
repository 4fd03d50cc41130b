"""An answer and its client: whichever ends first ends the other."""

import asyncio
import contextlib
from typing import Protocol

from gateway.errors import Receive
from gateway.wire.bodies import disconnected


class Carried(Protocol):
    """An answer on its way to a client."""

    async def run(self) -> None:
        """Until the answer has ended; cancelled when the client is gone."""

    def abandon(self) -> None:
        """Told just before the cancellation that the client has hung up."""


async def carry(answer: Carried, receive: Receive) -> None:
    """Run an answer until it ends or its client hangs up; either way it ends here."""
    work = asyncio.ensure_future(answer.run())
    left = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            answer.abandon()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        else:
            work.result()
    except asyncio.CancelledError:
        # The server's grace is over: say so to the client, record what there is.
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        raise
    finally:
        left.cancel()
