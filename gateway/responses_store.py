"""Responses that may be asked for again: `GET /v1/responses/{id}`, `previous_response_id`.

The engine keeps nothing, so they are kept here: in memory for the next turn,
which comes soon, and in Redis for all gateways. A client that said
`store: false` has nothing kept. Losing one costs the client an error that says
so, and no record: those travel by the spool.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from trajectories import keys
from trajectories.connection import Redis, RedisError
from trajectories.privacy.secrets import NO_REDACTION, Redactor

logger = logging.getLogger(__name__)

_REMEMBERED_BYTES = 16 * 1024 * 1024
_WAITING_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response, the chat messages that led to it and it added, and where it belongs."""

    response: dict[str, Any]
    messages: list[dict[str, Any]]
    items: list[dict[str, Any]]
    trajectory_id: str


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a call builds on."""

    messages: list[dict[str, Any]]  # of the conversation that `previous_response_id` names
    responses: list[dict[str, Any]]  # whose items it refers to
    trajectory_id: str | None


class ResponsesStore:
    """Of one process. `keep` and `recall` belong to the event loop, the rest to threads."""

    def __init__(self, redis: Redis, redactor: Redactor = NO_REDACTION) -> None:
        self._redis: Any = redis
        self._redactor = redactor
        self._mutex = threading.Lock()
        self._remembered: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size = 0
        self._waiting = 0  # bytes on their way to Redis
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="responses")
        self._silent_until = 0.0

    def keep(self, tenant: str, kept: KeptResponse) -> None:
        """Remember a response, and write it to Redis in the background."""
        encoded = orjson.dumps(kept)
        response_id = str(kept.response["id"])
        self._remember((tenant, response_id), encoded)
        if self._waiting + len(encoded) > _WAITING_BYTES:
            self._warn("Redis does not keep up")
            return
        self._waiting += len(encoded)
        self._writer.submit(self._write, tenant, response_id, encoded)

    def recall(self, tenant: str, response_ids: Sequence[str]) -> list[KeptResponse]:
        """Those of the responses that are still in memory."""
        with self._mutex:
            found = [self._remembered.get((tenant, name)) for name in response_ids]
        return [_decoded(encoded) for encoded in found if encoded is not None]

    def load(self, tenant: str, response_ids: Sequence[str]) -> list[KeptResponse]:
        """Those that are in memory or Redis; only the former while Redis is away."""
        with self._mutex:
            found = [self._remembered.get((tenant, name)) for name in response_ids]
        missing = [
            name for name, encoded in zip(response_ids, found, strict=True) if encoded is None
        ]
        if missing:
            names = [keys.kept_response(tenant, name) for name in missing]
            try:
                found += self._redis.mget(names)
            except RedisError as error:
                self._warn(f"responses cannot be looked up: {error}")
        return [_decoded(encoded) for encoded in found if encoded is not None]

    def forget(self, tenant: str, response_id: str) -> bool:
        """Delete a response; whether it was there. Raises RedisError."""
        with self._mutex:
            encoded = self._remembered.pop((tenant, response_id), None)
            self._size -= len(encoded or b"")
        # Behind the write that may still be under way.
        deleted = self._writer.submit(
            self._redis.delete, keys.kept_response(tenant, response_id)
        ).result()
        return bool(deleted) or encoded is not None

    def close(self) -> None:
        """Write what is being written; what waits behind it was kept in memory only."""
        self._writer.shutdown(cancel_futures=True)

    def _write(self, tenant: str, response_id: str, encoded: bytes) -> None:
        try:
            name = keys.kept_response(tenant, response_id)
            # In memory it stays as it was said: the next turn, which comes soon, builds on it.
            kept = encoded
            if self._redactor.finds(encoded):
                kept = orjson.dumps(self._redactor.clean(orjson.loads(encoded)))
            self._redis.set(name, kept, ex=keys.TRAJECTORY_TTL_SECONDS)
        except RedisError as error:
            self._warn(f"responses are kept in memory only: {error}")
        finally:
            self._waiting -= len(encoded)

    def _remember(self, name: tuple[str, str], encoded: bytes) -> None:
        with self._mutex:
            self._remembered[name] = encoded
            self._size += len(encoded)
            while self._size > _REMEMBERED_BYTES and self._remembered:
                _, oldest = self._remembered.popitem(last=False)
                self._size -= len(oldest)

    def _warn(self, message: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + 1
            logger.warning("stored responses: %s", message)


def earlier_of(found: Iterable[KeptResponse], previous: str | None) -> Earlier:
    """What a call builds on, out of the responses it names."""
    by_id = {kept.response["id"]: kept for kept in found}
    before = by_id.get(previous)
    return Earlier(
        messages=before.messages if before else [],
        responses=[kept.response for kept in by_id.values()],
        trajectory_id=before.trajectory_id if before else None,
    )


def _decoded(encoded: bytes) -> KeptResponse:
    return KeptResponse(**orjson.loads(encoded))
