"""Who calls, and whether that may be: decided in memory, for each request, without waiting.

`authorise` looks a key's SHA-256 up in a table. A background task keeps the
table as Redis has it (an announcement, or half a second), and exchanges with
the other processes what was let pass. While Redis is away, known keys are
served as before, within their share of the limits; a key that is not known
could be a new one, so it gets a 503 and not a 401. Nothing is ever let pass
because something could not be looked up.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn

from gateway.errors import ApiError
from gateway.limits import Meter
from trajectories import keys
from trajectories.access import SCOPES, TENANT, Batch, Exchanged, KeyRecord, KeyStore
from trajectories.connection import Redis, RedisError
from trajectories.errors import RecordError
from trajectories.ids import new_id

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.5  # for an announcement; then usage is exchanged anyway
RETRY_SECONDS = 0.5
STALE_SECONDS = 3.0  # a table not confirmed for so long says nothing about unknown keys
# Until every process has handed in what it let pass while Redis was away, each within its share.
REJOIN_SECONDS = 5.0
GOODBYE_SECONDS = 1.0
MAX_WAIT_SECONDS = 60  # SDKs do not retry at all when they are told to wait much longer
# TypeError: redis-py polls the socket of a subscription that it has just lost.
_AWAY = (RedisError, RecordError, ValueError, OSError, TypeError)

INFERENCE = "inference"
FEEDBACK = "feedback"
READ = "read"
ADMIN = "admin"
ROLLOUT = "rollout"  # may ask for siblings of recorded answers (docs/siblings.md)
MODELS = "models"  # of the list of models: those who may read see it, and those who may ask
_OPENS_MODELS = frozenset({INFERENCE, READ})


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is served, and what that allows."""

    key_id: str | None  # None: the gateway is open
    tenant: str
    scopes: frozenset[str]
    is_trainable: bool = True
    is_recorded: bool = True
    models: frozenset[str] | None = None  # None: any

    def check_model(self, name: str | None) -> None:
        """Raises ApiError 403 when the key may not ask for that model; None: nobody knows which."""
        if self.models is not None and name not in self.models:
            message = "this API key may not use that model"
            raise ApiError(403, "wrong_model", message, param="model")


ANYONE = Caller(None, TENANT, frozenset({*SCOPES, MODELS}))
SETTINGS_CALLER = Caller("api_key", TENANT, ANYONE.scopes)  # whoever sends gateway.api_key


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that is good until it expires."""

    caller: Caller
    expires_at: float | None  # unix seconds
    meter: Meter | None  # None: neither limited nor counted


class Access:
    """The keys of one process. `authorise` and `spend` belong to the event loop.

    `now` is `time.monotonic()`, which is also the event loop's time.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        is_required: bool,
        api_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._store = KeyStore(redis)
        self._is_required = is_required
        self._is_open = not is_required and api_key is None
        self._clock = clock
        self._wall = wall
        self._unix_minus_now = wall() - clock()
        self._fixed: dict[bytes, Entry] = {}
        if api_key is not None:
            self._fixed[sha256(api_key.encode()).digest()] = Entry(SETTINGS_CALLER, None, None)
        self._table = self._fixed
        self._known: dict[str, tuple[bytes, Entry]] = {}  # by key id, as nothing else of it changes
        self._meters: dict[str, Meter] = {}
        self._followed: tuple[str, ...] = ()
        self._revision: int | None = None
        self._confirmed_at = -math.inf
        self._connected_since = -math.inf
        self._is_isolated = False  # limits are divided between the processes last seen
        self._processes = 1
        self._process = new_id("proc")
        self._batch = Batch(self._process, 0, {})
        self._one_exchange = threading.Lock()
        self._subscription: Any = None
        self._is_absence_noted = False
        self.is_connected = not is_required

    # -- the hot path --------------------------------------------------------------

    def authorise(self, offered: Sequence[bytes], scope: str, now: float) -> Caller:
        """Whoever sent the first of `offered` that is good; counts the request.

        Raises ApiError: 401 `bad_key`, 403 `wrong_scope`, 429 `rate_limit` or
        `budget_exceeded`, 503 `keys_unavailable`.
        """
        if self._is_open:
            return ANYONE
        table = self._table
        for key in offered:
            # Looked up by what a hash makes of it: how long that takes says nothing about a key.
            entry = table.get(sha256(key).digest())
            if entry is None:
                continue
            if entry.expires_at is not None and now + self._unix_minus_now >= entry.expires_at:
                continue
            caller, meter = entry.caller, entry.meter
            if scope not in caller.scopes:
                message = f"this API key has not the scope that is needed here: {scope}"
                raise ApiError(403, "wrong_scope", message)
            if meter is not None and (wait := meter.admit(now, is_inference=scope == INFERENCE)):
                _refuse_use(wait)
            return caller
        self._refuse_key(offered, now)

    def spend(self, caller: Caller, tokens: int, now: float) -> None:
        """Count what an answer used, prompt and completion."""
        meter = self._meters.get(caller.key_id) if caller.key_id is not None else None
        if meter is not None:
            meter.spend(tokens, now)

    def _refuse_key(self, offered: Sequence[bytes], now: float) -> NoReturn:
        is_unsure = not self.is_connected or now - self._confirmed_at > STALE_SECONDS
        has_offered = any(offered)
        if has_offered and self._is_required and is_unsure:
            message = "the API key cannot be checked now: the store of keys does not answer"
            raise ApiError(503, "keys_unavailable", message, retry_after=2)
        what = "wrong, revoked or expired" if has_offered else "missing"
        message = f"the API key is {what}: send one as `Authorization: Bearer <key>`"
        raise ApiError(401, "bad_key", message)

    # -- in the background ---------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: keep the table fresh, exchange usage. Survives Redis being away."""
        if not self._is_required:
            return
        try:
            while True:
                has_heard = await self.try_refresh()
                if not (has_heard and await asyncio.to_thread(self._wait_for_announcement)):
                    await asyncio.sleep(RETRY_SECONDS)
        except asyncio.CancelledError:
            await self.try_refresh(GOODBYE_SECONDS)  # what the last answers used
            raise
        finally:
            self._drop_subscription()

    async def try_refresh(self, seconds: float | None = None) -> bool:
        """Exchange with Redis once, within `seconds`; whether that was possible."""
        if not self._is_required:
            return True
        try:
            await asyncio.wait_for(self.refresh(), seconds)
        except _AWAY as error:
            self._note_absence(error)
        return self.is_connected

    async def refresh(self) -> None:
        """Hand in what was used, take over what others did and which keys there are."""
        batch = self._next_batch()
        revision = self._revision if self.is_connected else None
        found = await asyncio.to_thread(self._exchange, batch, self._followed, revision)
        self._take_over(batch, found)

    def _next_batch(self) -> Batch:
        """What was used since the last batch, or that one again if nobody knows of its arrival."""
        if self._batch.is_repeat:
            return self._batch
        usage = {
            key_id: meter.hand_over() for key_id, meter in self._meters.items() if meter.has_news
        }
        batch = Batch(self._process, self._batch.number + 1, usage)
        self._batch = Batch(self._process, batch.number, usage, is_repeat=True)
        return batch

    def _exchange(self, batch: Batch, followed: tuple[str, ...], revision: int | None) -> Exchanged:
        with self._one_exchange:  # one that was given up may still be under way
            return self._store.exchange(batch, followed=followed, revision=revision)

    def _take_over(self, batch: Batch, found: Exchanged) -> None:
        now = self._clock()
        if found.records is not None:
            self._take_keys(found.records, now)
        for key_id in {*batch.usage, *found.totals}:
            self._meters[key_id].settle(found.totals.get(key_id), now)
        self._batch = Batch(self._process, batch.number, {})
        self._revision = found.revision
        self._processes = found.processes
        self._unix_minus_now = self._wall() - now
        self._confirmed_at = now
        if not self.is_connected:
            self._connected_since = now
        elif self._is_isolated and now - self._connected_since > REJOIN_SECONDS:
            self._is_isolated = False
            for meter in self._meters.values():
                meter.divide(1, now)
        self.is_connected = True
        self._is_absence_noted = False

    def _take_keys(self, records: Sequence[KeyRecord], now: float) -> None:
        table = dict(self._fixed)
        for record in records:
            if record.id not in self._known:
                # Kept when it is revoked: its last answers may still have to be counted.
                meter = self._meters[record.id] = Meter(record, now)
                entry = Entry(_caller_of(record), record.expires_at, meter)
                self._known[record.id] = bytes.fromhex(record.digest), entry
            if record.revoked_at is None:
                digest, entry = self._known[record.id]
                table[digest] = entry
        self._table = table
        self._followed = tuple(record.id for record in records if record.is_limited)

    def _note_absence(self, error: Exception) -> None:
        if not self._is_absence_noted:
            logger.warning("no store of API keys, only known keys are served: %s", error)
        self._is_absence_noted = True
        self.is_connected = False
        now = self._clock()
        self._unix_minus_now = self._wall() - now
        self._is_isolated = True
        for meter in self._meters.values():
            meter.divide(self._processes, now)
        self._drop_subscription()

    def _wait_for_announcement(self) -> bool:
        """Wait; False when there is no way to hear one (the next exchange says why)."""
        try:
            if self._subscription is None:
                pubsub: Callable[..., Any] = self._redis.pubsub
                self._subscription = pubsub(ignore_subscribe_messages=True)
                self._subscription.subscribe(keys.API_CHANNEL)
            self._subscription.get_message(timeout=WAIT_SECONDS)
        except _AWAY:
            self._drop_subscription()
            return False
        return True

    def _drop_subscription(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()


def _caller_of(record: KeyRecord) -> Caller:
    scopes: frozenset[str] = frozenset(record.scopes)
    if scopes & _OPENS_MODELS:
        scopes |= {MODELS}
    return Caller(
        key_id=record.id,
        tenant=record.tenant,
        scopes=scopes,
        is_trainable=record.is_trainable,
        is_recorded=record.is_recorded,
        models=record.models,
    )


def _refuse_use(wait_seconds: float) -> NoReturn:
    if wait_seconds == math.inf:
        message = "the token budget of this API key is used up: ask for another key"
        raise ApiError(429, "budget_exceeded", message, headers={"x-should-retry": "false"})
    wait = min(wait_seconds, MAX_WAIT_SECONDS)
    raise ApiError(
        429,
        "rate_limit",
        "this API key asks more often than its rate limit allows: wait, and send it again",
        retry_after=math.ceil(wait),
        headers={"retry-after-ms": str(math.ceil(wait * 1000))},
    )
