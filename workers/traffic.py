"""The traffic streams as a consumer group sees them: read, take over, acknowledge, trim.

Knows Redis streams and nothing of what an entry means. One consumer group on
every gateway's stream. All dispatchers share one consumer name: what one of
them leaves behind is taken over by its idle time, and no names pile up.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from trajectories import keys

CONSUMER = "dispatcher"
BATCH = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry; without a payload it is no record, and set aside as such."""

    stream: str
    id: str
    payload: bytes


class Traffic:
    """All gateways' streams. `blocking` is a connection whose time-out exceeds the block."""

    def __init__(self, redis: Redis, blocking: Redis) -> None:
        self._redis: Any = redis
        self._blocking: Any = blocking
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
        floors = [self._floor(stream, group) for group in self._redis.xinfo_groups(stream)]
        if not floors:
            return 0
        floor = "{}-{}".format(*min(floors))
        return int(self._redis.xtrim(stream, minid=floor, approximate=False))

    def _floor(self, stream: str, group: dict[str, Any]) -> tuple[int, int]:
        """The lowest id a group still needs."""
        if group["pending"]:
            lowest = self._redis.xpending(stream, _text(group["name"]))["min"]
            if lowest is not None:
                return _parse(_text(lowest))
        milliseconds, sequence = _parse(_text(group["last-delivered-id"]))
        return milliseconds, sequence + 1

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
