"""A gateway's spool and shipper, without the gateway: `spool_feeder.py URL TURNS SECONDS`.

Conversations of five turns, and a vote on each; then it ships on until it is
killed. Started by tests.
"""

import asyncio
import sys
from pathlib import Path

from gateway.metrics import Metrics
from gateway.spool.shipper import Shipper
from gateway.spool.writer import Spool
from tests.workers.records import transition, vote
from trajectories.connection import connect_async
from trajectories.model import pack_record
from trajectories.settings import RedisSettings

TURNS = 5


async def feed(url: str, conversations: int, seconds: float) -> None:
    spool = Spool.open(Path("spool"), budget_bytes=1 << 30)
    shipper = Shipper(connect_async(RedisSettings(url=url)), spool, Metrics())
    shipper.start()
    pause = seconds / conversations
    for number in range(conversations):
        name = f"traj_{number}"
        for turn in range(TURNS):
            said = [
                {"role": "user", "content": f"{name}, question {n} " * 9} for n in range(turn + 1)
            ]
            entry = transition(turn, trajectory=name, content=f"answer {turn} " * 9, messages=said)
            spool.put(pack_record(entry))
        spool.put(pack_record(vote(1.0, response=f"chatcmpl-{name}-0")))
        shipper.hurry()
        await asyncio.sleep(pause)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(feed(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
