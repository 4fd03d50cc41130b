"""What is offered: records for a spool, or the same as requests for a gateway's port."""

import asyncio
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from benchmarks.conversations import conversation
from gateway.metrics import Metrics
from gateway.spool.shipper import Shipper
from gateway.spool.writer import Spool
from trajectories.connection import connect_async
from trajectories.model import Feedback, Transition, pack_record

TURNS = 6
VOTED = 10  # one conversation in as many gets a vote
RECORDS_PER_TRANSITION = 1 + 1 / (TURNS * VOTED)
GAP_SECONDS = 3.0  # between two turns of a conversation
# Of the system prompt and of each message: 4 KB a record. Those that come from an engine carry
# token ids and logprobs too: their texts and their answers are shorter.
TEXT_BYTES, TEXT_BYTES_WITH_TOKENS = (1_024, 300), (256, 80)
ANSWER_TOKENS = 38
TICK_SECONDS = 0.02
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Offer:
    """A call or a vote, and whose it is."""

    record: Transition | Feedback
    session_id: str | None

    def as_request(self, key: str) -> bytes:
        """What the client sent to our port, had it been recorded there."""
        session, record = "", self.record
        if isinstance(record, Transition):
            path, body = "/v1/chat/completions", record.request
            session = f"x-session-id: {self.session_id}\r\n" if self.session_id else ""
        else:
            path, body = "/v1/feedback", {"session_id": self.session_id, "value": record.reward}
        content = orjson.dumps(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
            "Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.8.1\r\n"
            f"Authorization: Bearer {key}\r\n{session}Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


def make(
    path: Path, *, rate: float, wanted: int, is_named: bool, key: str = ""
) -> tuple[int, float]:
    """Write `wanted` records to a file, with a `key` as requests of it.

    Returns how many of them are transitions, and their bytes on average.
    """
    count, size = 0, 0
    begin = time.time() + 0.0012 * wanted + 5  # about when they will be sent
    with path.open("wb") as file:
        sizes = TEXT_BYTES_WITH_TOKENS if key else TEXT_BYTES
        for offer in islice(offers(rate, begin, is_named, sizes), wanted):
            payload = offer.as_request(key) if key else pack_record(offer.record)
            file.write(_LENGTH.pack(len(payload)) + payload)
            is_transition = isinstance(offer.record, Transition)
            count += is_transition
            size += len(payload) * is_transition
    return count, size / count


def offers(
    rate: float, begin: float, is_named: bool, text_bytes: tuple[int, int] = TEXT_BYTES
) -> Iterator[Offer]:
    """Groups of conversations, turn by turn: each goes on after `GAP_SECONDS` of traffic."""
    together = max(1, int(rate * GAP_SECONDS))
    sent, number = 0, 0
    while True:
        talks = []
        for _ in range(together):
            talks.append(
                conversation(
                    number,
                    turns=TURNS,
                    system_bytes=text_bytes[0],
                    message_bytes=text_bytes[1],
                    is_named=is_named,
                )
            )
            number += 1
        for turn in range(TURNS):
            for place, talk in enumerate(talks):
                at = begin + sent / rate
                entry = next(talk).model_copy(update={"started_at": at})
                yield Offer(entry, entry.session_id)
                sent += 1
                if turn == TURNS - 1 and place % VOTED == 0:
                    vote = Feedback(
                        id=f"fb_{entry.id}",
                        identity=f"fb_{entry.id}",
                        response_id=entry.response_id,
                        reward=1.0,
                        received_at=at + 1,
                    )
                    yield Offer(vote, entry.session_id)


async def feed(path: Path, rate: float) -> None:
    """A gateway's spool and shipper: records at an even rate, until all of them are in Redis."""
    from trajectories.settings import load_settings

    settings = load_settings()
    spool = Spool.open(Path.cwd() / "spool", budget_bytes=1 << 34)
    shipper = Shipper(connect_async(settings.redis), spool, Metrics())
    shipper.start()
    begin, sent = time.monotonic(), 0
    with path.open("rb") as file:
        is_over = False
        while not is_over:
            due = int((time.monotonic() - begin) * rate)
            while sent < due:
                head = file.read(_LENGTH.size)
                if not head:
                    is_over = True
                    break
                spool.put(file.read(_LENGTH.unpack(head)[0]))
                sent += 1
            shipper.hurry()
            await asyncio.sleep(TICK_SECONDS)
    await shipper.stop(grace_seconds=600)
