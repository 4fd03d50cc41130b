"""From a request to a call: who asks, what, and as part of what.

The dictionary look-ups of the hot path, in one place. A caller is admitted by
its headers alone, before a byte of the body is taken in. Raises ApiError; waits
for nothing.
"""

import time
from dataclasses import replace
from zlib import crc32

from gateway.access import INFERENCE, Caller
from gateway.attribution import attribute
from gateway.call import Call
from gateway.dialects.asking import parse
from gateway.rollouts import rollout_of
from gateway.services import Services
from gateway.wire.headers import RequestHeaders
from gateway.wire.hot import HotPath
from trajectories.ids import new_id, trajectory_id

_ROLLOUT = b"x-ratchet-rollout"
_NO = (b"0", b"false")
_TOLD_BY = 1000  # characters that tell one conversation from another


def admit(headers: RequestHeaders, services: Services) -> Caller:
    """Whose request it is. Raises ApiError when it is not to be served."""
    caller = services.access.authorise(headers.credentials, INFERENCE, time.monotonic())
    services.recorder.check_room()
    return caller


def receive(path: HotPath, headers: RequestHeaders, caller: Caller, raw: bytes) -> Call:
    """A request that is whole, of a caller that was admitted: parsed, and attributed.

    Raises ApiError.
    """
    started = time.monotonic()
    known = headers.known
    body = parse(path.dialect, raw, path.path_ids.deployment)
    caller.check_model(body["model"])
    found = attribute(path.path_ids, path.query, known, body)
    is_named = found.session is not None or found.task is not None
    call_id = new_id("tr")
    written = known.get(_ROLLOUT)
    rollout = None if written is None else rollout_of(written, caller)
    if rollout is not None:
        is_named = True
        found = replace(found, session=None, session_source="rollout", alternates=(), span=None)
        trajectory = rollout.trajectory_id
    elif is_named:
        trajectory = trajectory_id(caller.tenant, session=found.session, task=found.task)
    else:
        trajectory = "traj" + call_id[2:]  # as fresh as the call
    return Call(
        id=call_id,
        dialect=path.dialect,
        caller=caller,
        started_at=time.time(),
        started=started,
        raw=raw,
        body=body,
        model=body["model"],
        passed_on=headers.passed_on,
        query=_passed_on_query(path.query),
        attribution=found,
        trajectory_id=trajectory,
        affinity=crc32(trajectory.encode()) if is_named else _conversation(caller.key_id, body),
        is_named=is_named,
        attempt=_attempt(known.get(b"x-stainless-retry-count")),
        # Any value but an explicit no opts out: better to learn too little.
        is_trainable=caller.is_trainable and not _is_set(known.get(b"x-ratchet-no-train")),
        is_recorded=caller.is_recorded
        and path.dialect != "embeddings"  # nothing was said that could be learned from
        and not _is_set(known.get(b"x-ratchet-no-record")),
        rollout=None if rollout is None else rollout.transition,
    )


def _is_set(value: bytes | None) -> bool:
    return value is not None and value.strip().lower() not in _NO


def _attempt(count: bytes | None) -> int:
    if count is None or count == b"0" or len(count) > 3 or not count.isdigit():
        return 0
    return int(count)


def _conversation(key_id: str | None, body: dict[str, object]) -> int:
    """A number that stays the same through a conversation: of its key and its first user turn."""
    turns = body.get("messages", body.get("input", body.get("prompt")))
    if isinstance(turns, list):
        turns = _first_content(turns)
    return crc32(f"{key_id} {_beginning(turns)}".encode("utf-8", "replace"))


def _first_content(turns: list[object]) -> object:
    for turn in turns:
        if isinstance(turn, dict) and turn.get("role") not in ("system", "developer"):
            content: object = turn.get("content")
            return content
    return None


def _beginning(content: object) -> str:
    """The first words of a content, however it is written; cheap, whatever its size."""
    if isinstance(content, list):
        content = next((part for part in content if isinstance(part, dict)), None)
    if isinstance(content, dict):
        content = content.get("text")
    return content[:_TOLD_BY] if isinstance(content, str) else ""


def _passed_on_query(query: bytes) -> bytes:
    """The query without what was meant for us."""
    if not query:
        return query
    ours = (b"session=", b"api-version=")
    return b"&".join(part for part in query.split(b"&") if not part.startswith(ours))
