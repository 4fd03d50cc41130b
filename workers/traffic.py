"""The traffic streams as a consumer group sees them: read, take over, acknowledge, trim.

Knows Redis streams and nothing of what an entry means. One consumer group on
every gateway's stream. All dispatchers share one consumer name: what one of
them leaves behind is taken over by its idle time, and no names pile up.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from trajectories import keys

log = logging.getLogger(__name__)

CONSUMER = "dispatcher"
BATCH = 200
MAX_FOREIGN_LAG = 100_000  # entries that a group of somebody else's may keep from being trimmed


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry; without a payload it is no record, and set aside as such."""

    stream: str
    id: str
    payload: bytes


class Traffic:
    """All gateways' streams. `blocking` is a connection whose time-out exceeds the block."""

    def __init__(
        self, redis: Redis, blocking: Redis, *, max_foreign_lag: int = MAX_FOREIGN_LAG
    ) -> None:
        self._redis: Any = redis
        self._blocking: Any = blocking
        self._max_foreign_lag = max_foreign_lag
        self.streams: list[str] = []

    def reload(self) -> None:
        """Read again which gateways there are, and join their streams from the start."""
        members = sorted(member.decode() for member in self._redis.smembers(keys.GATEWAYS))
        streams = [keys.traffic(gateway) for gateway in members]
        for stream in streams:
            if stream not in self.streams:
                self._join(stream)
        self.streams = streams

    def forget(self) -> None:
        """Redis lost the groups (flushed, rolled back): the next reload makes them anew."""
        self.streams = []

    def read(self, block_seconds: float) -> list[Entry]:
        """New entries of every stream, or none after `block_seconds`. Raises on NOGROUP."""
        found = self._blocking.xreadgroup(
            keys.DISPATCHERS,
            CONSUMER,
            dict.fromkeys(self.streams, ">"),
            count=BATCH,
            block=max(1, int(block_seconds * 1000)),
        )
        pairs = found.items() if isinstance(found, dict) else found or ()
        return [entry for name, entries in pairs for entry in _entries(_text(name), _flat(entries))]

    def take_over(self, idle_seconds: float) -> Iterator[list[Entry]]:
        """What a dispatcher read and never acknowledged, batch by batch, until none is left."""
        for stream in list(self.streams):
            cursor = "0-0"
            while True:
                reply = self._redis.xautoclaim(
                    stream,
                    keys.DISPATCHERS,
                    CONSUMER,
                    int(idle_seconds * 1000),
                    start_id=cursor,
                    count=BATCH,
                )
                # 6.2 leaves (None, None) for deleted entries, 7.0 a third list of their ids
                # and has already dropped those from the pending list.
                cursor = _text(reply[0])
                if entries := list(_entries(stream, reply[1])):
                    yield entries
                if cursor == "0-0":
                    break

    def acknowledge(self, entries: Iterable[Entry]) -> None:
        """Done with these: they are never delivered again."""
        by_stream: dict[str, list[str]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        for stream, ids in by_stream.items():
            self._redis.xack(stream, keys.DISPATCHERS, *ids)

    def trim(self) -> int:
        """Drop what every group is done with; returns how many entries."""
        return sum(self._trim(stream) for stream in self.streams)

    def _trim(self, stream: str) -> int:
        floors = {}
        for group in self._redis.xinfo_groups(stream):
            floors[_text(group["name"])] = self._floor(stream, group)
        if not floors:
            return 0
        floors = self._move_on(stream, floors)
        floor = "{}-{}".format(*min(floors.values()))
        return int(self._redis.xtrim(stream, minid=floor, approximate=False))

    def _floor(self, stream: str, group: dict[str, Any]) -> tuple[int, int]:
        """The lowest id a group still needs."""
        if group["pending"]:
            lowest = self._redis.xpending(stream, _text(group["name"]))["min"]
            if lowest is not None:
                return _parse(_text(lowest))
        milliseconds, sequence = _parse(_text(group["last-delivered-id"]))
        return milliseconds, sequence + 1

    def _move_on(
        self, stream: str, floors: dict[str, tuple[int, int]]
    ) -> dict[str, tuple[int, int]]:
        """Move the last of the groups to where we are, if it is not ours and lags too far.

        A group that nobody reads would fill Redis. What it missed is in the archive.
        """
        name, floor = min(floors.items(), key=lambda pair: pair[1])
        ours = floors.get(keys.DISPATCHERS, floor)
        if ours[0] - floor[0] <= self._max_foreign_lag:
            return floors
        # Sequence numbers have gaps, so their difference only bounds the number of entries.
        state = self._redis.xinfo_stream(stream)
        ahead = max(0, _parse(_text(state["last-generated-id"]))[0] + 1 - ours[0])
        if state["length"] - ahead <= self._max_foreign_lag:
            return floors
        before = f"{ours[0]}-{ours[1] - 1}" if ours[1] else f"{ours[0] - 1}-{2**64 - 1}"
        self._redis.xgroup_setid(stream, name, before)
        while pending := self._redis.xpending_range(stream, name, "-", before, 1000):
            self._redis.xack(stream, name, *[entry["message_id"] for entry in pending])
        self._redis.hincrby(keys.COUNTS, "groups_moved", 1)
        log.error("group %s of %s lagged too far and was moved on", name, stream)
        return {**floors, name: ours}

    def _join(self, stream: str) -> None:
        try:
            self._redis.xgroup_create(stream, keys.DISPATCHERS, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def _entries(stream: str, raw: Iterable[Any]) -> Iterator[Entry]:
    for entry_id, fields in raw:
        if entry_id is not None:
            yield Entry(stream, _text(entry_id), (fields or {}).get(b"r", b""))


def _flat(entries: list[Any]) -> list[Any]:
    """RESP3 wraps the entries of a stream in one more list than RESP2 does."""
    return entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries


def _parse(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
