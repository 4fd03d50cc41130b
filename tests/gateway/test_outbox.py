"""What a turn of the loop has to write: gathered where turns are full, in order, records first."""

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics import Metrics
from gateway.outbox import Outbox
from gateway.recorder import Recorder
from gateway.spool.segments import list_segments, read_frames
from gateway.spool.writer import Spool
from gateway.wire.twin import _Client
from tests.gateway.conftest import open_spool


class Wire:
    """A transport that notes what it is given in a list that others share."""

    def __init__(self, notes: list[tuple[str, bytes]], name: str = "wire") -> None:
        self.notes = notes
        self.name = name
        self.is_gone = self.is_broken = False

    def write(self, data: bytes) -> None:
        if self.is_broken:
            raise RuntimeError("broken")
        self.notes.append((self.name, data))

    def is_closing(self) -> bool:
        return self.is_gone


async def gathering(notes: list[tuple[str, bytes]]) -> Outbox:
    """An outbox that has seen full turns."""
    outbox = Outbox()
    wire = Wire(notes, "before")
    while not outbox.hold():
        for _ in range(10):
            outbox.write(wire, b"")
        await asyncio.sleep(0)
    outbox.flush()
    notes.clear()
    return outbox


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=40))
def test_each_wire_gets_its_bytes_once_and_in_order(turns: list[list[int]]) -> None:
    async def run() -> None:
        outbox = Outbox()
        notes: list[tuple[str, bytes]] = []
        wires = [Wire(notes, str(number)) for number in range(3)]
        expected: dict[str, list[bytes]] = {"0": [], "1": [], "2": []}
        count = 0
        for turn in turns:
            for number in turn:
                count += 1
                expected[str(number)].append(b"%d" % count)
                outbox.write(wires[number], b"%d" % count)
            await asyncio.sleep(0)
        outbox.flush()
        for name, sent in expected.items():
            assert [data for wire, data in notes if wire == name] == sent

    asyncio.run(run())


async def test_a_lone_write_goes_out_at_once() -> None:
    notes: list[tuple[str, bytes]] = []
    outbox, wire = Outbox(), Wire(notes)
    for _ in range(600):  # a probe now and then finds that turns are short
        outbox.write(wire, b"x")
        await asyncio.sleep(0)
    notes.clear()
    at_once = 0
    for _ in range(200):
        before = len(notes)
        outbox.write(wire, b"x")
        at_once += len(notes) - before
        await asyncio.sleep(0)
    assert at_once > 190
    assert len(notes) == 200


async def test_full_turns_go_out_at_their_end_and_short_ones_end_that() -> None:
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)
    wire = Wire(notes)
    for number in range(5):
        outbox.write(wire, b"%d" % number)
    assert notes == []
    await asyncio.sleep(0)
    assert [data for _, data in notes] == [b"0", b"1", b"2", b"3", b"4"]
    for _ in range(50):
        outbox.write(wire, b"x")
        await asyncio.sleep(0)
    assert not outbox.hold()


async def test_a_record_is_in_the_spool_before_its_answer_leaves(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)
    recorder = Recorder(spool, Metrics(), is_required=False, hold=outbox.hold)
    outbox.commit = recorder.commit

    class Client(Wire):
        def write(self, data: bytes) -> None:
            assert data in recorded(spool)
            super().write(data)

    client = Client(notes)
    for number in range(5):
        recorder.record(f"tr_{number}", lambda number=number: b"t%d" % number)
        outbox.write(client, b"t%d" % number)
    assert recorded(spool) == []
    await asyncio.sleep(0)
    assert len(notes) == 5
    spool.close()


async def test_a_record_that_nothing_is_written_behind_does_not_wait_for_the_next(
    tmp_path: Path,
) -> None:
    spool = open_spool(tmp_path)
    outbox = await gathering([])
    recorder = Recorder(spool, Metrics(), is_required=False, hold=outbox.hold)
    outbox.commit = recorder.commit
    recorder.record("tr_1", lambda: b"t1")
    await asyncio.sleep(0)
    assert recorded(spool) == [b"t1"]
    spool.close()


async def test_records_that_cannot_be_written_keep_no_answer_back() -> None:
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)

    def fail() -> None:
        raise MemoryError

    outbox.commit = fail
    outbox.write(Wire(notes), b"x")
    await asyncio.sleep(0)
    assert notes == [("wire", b"x")]


async def test_over_asgi_a_last_byte_waits_for_its_record_as_well() -> None:
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)
    outbox.commit = lambda: notes.append(("spool", b""))
    client = _Client(outbox)

    async def send(message: Any) -> None:
        if message.get("more_body"):  # while this one is taken, the answer ends
            assert outbox.hold()
            client.end(b"last")
        notes.append(("sent", message["body"]))

    client.write(b"first")
    await client.send_all(send)
    assert notes == [("sent", b"first"), ("spool", b""), ("sent", b"last")]


async def test_a_wire_that_is_gone_or_broken_keeps_nothing_from_the_others() -> None:
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)
    gone, broken, well = Wire(notes, "gone"), Wire(notes, "broken"), Wire(notes, "well")
    for wire in (gone, broken, well):
        outbox.write(wire, b"x")
    gone.is_gone = broken.is_broken = True
    await asyncio.sleep(0)
    assert notes == [("well", b"x")]


def recorded(spool: Spool) -> list[bytes]:
    return [frame.payload for path in list_segments(spool.directory) for frame in read_frames(path)]
