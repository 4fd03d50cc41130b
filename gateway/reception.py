"""From a request that is whole to a call: who asks, what, and as part of what.

The dictionary look-ups of the hot path, in one place. Raises ApiError; waits
for nothing.
"""

import time
from dataclasses import dataclass
from zlib import crc32

from gateway.attribution import PathIds, attribute
from gateway.call import Call
from gateway.dialects.asking import parse
from gateway.services import Services
from gateway.wire.headers import RawHeaders, read_headers
from trajectories.ids import new_id, trajectory_id
from trajectories.settings import Dialect

_NO = (b"0", b"false")
_MAX_ATTEMPTS = 1000


@dataclass(slots=True)
class Incoming:
    """A request as either shell took it in. Header names are in lower case."""

    dialect: Dialect
    path_ids: PathIds
    query: bytes
    headers: RawHeaders
    body: bytes


def receive(request: Incoming, services: Services) -> Call:
    """Authorise, parse, attribute. Raises ApiError."""
    started = time.monotonic()
    headers = read_headers(request.headers)
    known = headers.known
    caller = services.access.authorise(headers.credentials, "inference", started)
    services.recorder.check_room()
    body = parse(request.dialect, request.body, request.path_ids.deployment)
    caller.check_model(body["model"])
    found = attribute(request.path_ids, request.query, known, body)
    is_named = found.session is not None or found.task is not None
    trajectory = trajectory_id(caller.tenant, session=found.session, task=found.task)
    return Call(
        id=new_id("tr"),
        dialect=request.dialect,
        caller=caller,
        started_at=time.time(),
        started=started,
        raw=request.body,
        body=body,
        model=body["model"],
        passed_on=headers.passed_on,
        query=_passed_on_query(request.query),
        attribution=found,
        trajectory_id=trajectory,
        affinity=crc32(trajectory.encode()) if is_named else _conversation(caller.key_id, body),
        is_named=is_named,
        attempt=_attempt(known.get(b"x-stainless-retry-count")),
        # Any value but an explicit no opts out: better to learn too little.
        is_trainable=caller.is_trainable and not _is_set(known.get(b"x-ratchet-no-train")),
        is_recorded=caller.is_recorded and not _is_set(known.get(b"x-ratchet-no-record")),
    )


def _is_set(value: bytes | None) -> bool:
    return value is not None and value.strip().lower() not in _NO


def _attempt(count: bytes | None) -> int:
    if count is None or count == b"0" or len(count) > 3 or not count.isdigit():
        return 0
    return int(count)


def _conversation(key_id: str | None, body: dict[str, object]) -> int:
    """A number that stays the same through a conversation: of its key and its first user turn."""
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, list):
        for message in messages:
            if isinstance(message, dict) and message.get("role") not in ("system", "developer"):
                content = message.get("content")
                text = content if isinstance(content, str) else repr(content)
                return crc32(text.encode("utf-8", "replace"), crc32((key_id or "").encode()))
    return crc32(str(messages)[:1000].encode("utf-8", "replace"))


def _passed_on_query(query: bytes) -> bytes:
    """The query without what was meant for us."""
    if not query:
        return query
    ours = (b"session=", b"api-version=")
    return b"&".join(part for part in query.split(b"&") if not part.startswith(ours))
