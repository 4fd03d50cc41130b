"""API keys: what one may do, and where that and what it has used are kept.

A key is 256 random bits. Only its SHA-256 is stored: there is nothing to guess
in a random key, so no slow hash is needed. The command line writes keys, every
gateway process reads them all and adds up here what it has let pass.
"""

import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints
from redis import Redis, WatchError

from trajectories import keys
from trajectories.errors import RatchetError, RecordError
from trajectories.ids import new_id
from trajectories.model import Record

logger = logging.getLogger(__name__)

PREFIX = "rk_"
TENANT = "default"  # of whoever calls without a key of their own

ScopeName = Literal["inference", "feedback", "read", "admin", "rollout"]
SCOPES: tuple[ScopeName, ...] = get_args(ScopeName)

# No colon: the name of a tenant is a part of Redis keys.
TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Limit = Annotated[int, Field(ge=1)]


class KeyRecord(Record):
    """One API key, without the key. Nothing changes after it was made but `revoked_at`."""

    id: str
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tenant: TenantName = TENANT
    scopes: frozenset[ScopeName]
    is_trainable: bool = True
    is_recorded: bool = True
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    token_budget: Limit | None = None  # over the whole life of the key
    models: frozenset[str] | None = None  # names a client may ask for; None: any
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether what other processes let pass has to be known."""
        limits = (self.requests_per_minute, self.tokens_per_minute, self.token_budget)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class Usage:
    """What was let pass."""

    requests: int = 0
    tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        return Usage(self.requests + other.requests, self.tokens + other.tokens)

    def minus(self, other: "Usage") -> "Usage":
        return Usage(self.requests - other.requests, self.tokens - other.tokens)


NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process has let pass since its batch before, by key id."""

    process: str
    number: int
    usage: Mapping[str, Usage]
    is_repeat: bool = False  # sent before, and nobody knows whether it arrived


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a process learns when it hands in a batch."""

    revision: int
    records: Sequence[KeyRecord] | None  # None: none has changed
    totals: Mapping[str, Usage]  # of limited keys, over all processes, this batch included
    processes: int  # that exchanged lately, this one included


def new_key() -> str:
    """A fresh key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """What is stored of a key."""
    return sha256(key.encode()).hexdigest()


class KeyStore:
    """The keys in Redis, and what they have used."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py types replies as bytes | str; ours are bytes

    def create(
        self, *, name: str, scopes: Iterable[ScopeName], now: float, **fields: Any
    ) -> tuple[KeyRecord, str]:
        """A new key: its record, and the key itself, which is nowhere else.

        `fields` are those of KeyRecord. Raises pydantic's ValidationError when one is wrong.
        """
        key = new_key()
        record = KeyRecord(
            id=new_id("key"),
            name=name,
            digest=digest_of(key),
            scopes=frozenset(scopes),
            created_at=now,
            **fields,
        )
        self._write(self._redis.pipeline(), record)
        return record, key

    def revoke(self, key_id: str, now: float) -> KeyRecord:
        """Have every gateway refuse the key; repeating it changes nothing.

        Raises RatchetError when there is no such key.
        """
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(keys.API_KEYS)
                    raw = pipe.hget(keys.API_KEYS, key_id)
                    if raw is None:
                        raise RatchetError(f"there is no key {key_id}: see `ratchet keys list`")
                    record = KeyRecord.from_json(raw)
                    if record.revoked_at is not None:
                        return record
                    record = record.model_copy(update={"revoked_at": now})
                    self._write(pipe, record)
                    return record
                except WatchError:
                    continue

    def records(self) -> tuple[list[KeyRecord], list[str]]:
        """Every key ever made, oldest first, and the ids of those that cannot be read."""
        found: list[KeyRecord] = []
        broken: list[str] = []
        for key_id, raw in self._redis.hgetall(keys.API_KEYS).items():
            try:
                found.append(KeyRecord.from_json(raw))
            except RecordError:  # its text would quote the record
                broken.append(key_id.decode())
        return sorted(found, key=lambda record: (record.created_at, record.id)), broken

    def usage(self, key_ids: Sequence[str]) -> dict[str, Usage]:
        """What each key has used, over all processes, since it was made."""
        fields = [field for key_id in key_ids for field in _fields(key_id)]
        if not fields:
            return {}
        counts = [int(raw or 0) for raw in self._redis.hmget(keys.API_USAGE, fields)]
        pairs = zip(counts[::2], counts[1::2], strict=True)
        return {key_id: Usage(*pair) for key_id, pair in zip(key_ids, pairs, strict=True)}

    def exchange(self, batch: Batch, *, followed: Sequence[str], revision: int | None) -> Exchanged:
        """Add `batch` to the totals, once, and read what there is to know.

        `followed` are the limited keys already known, `revision` the state of
        the keys: all are read again when it is another one.
        """
        changed, processes = self._add(batch)
        records = None
        if changed != revision:
            records, broken = self.records()
            followed = [record.id for record in records if record.is_limited]
            if broken:
                logger.warning("API keys that cannot be read are refused: %s", ", ".join(broken))
        return Exchanged(changed, records, self.usage(followed), processes)

    def _add(self, batch: Batch) -> tuple[int, int]:
        """Write the batch if it is not there; the revision of the keys, and how many processes."""
        mark = keys.api_batch(batch.process)
        is_there = batch.is_repeat and int(self._redis.get(mark) or 0) == batch.number
        now = time.time()
        pipe = self._redis.pipeline(transaction=True)
        if batch.usage and not is_there:
            for key_id, used in batch.usage.items():
                for field, count in zip(_fields(key_id), (used.requests, used.tokens), strict=True):
                    if count:
                        pipe.hincrby(keys.API_USAGE, field, count)
            pipe.set(mark, batch.number, ex=keys.API_BATCH_TTL_SECONDS)
        pipe.zadd(keys.API_PROCESSES, {batch.process: now})
        pipe.zremrangebyscore(keys.API_PROCESSES, 0, now - keys.API_PROCESS_SECONDS)
        pipe.get(keys.API_REVISION)
        pipe.zcard(keys.API_PROCESSES)
        *_, revision, processes = pipe.execute()
        return int(revision or 0), max(1, int(processes))

    @staticmethod
    def _write(pipe: Any, record: KeyRecord) -> None:
        pipe.multi()
        pipe.hset(keys.API_KEYS, record.id, record.to_json())
        pipe.incr(keys.API_REVISION)
        pipe.publish(keys.API_CHANNEL, record.id)
        pipe.execute()


def _fields(key_id: str) -> tuple[str, str]:
    return f"{key_id}:requests", f"{key_id}:tokens"
