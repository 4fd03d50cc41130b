"""Whose call is it: session, task and agent from what the client sent.

Pure. Levels 1 to 4 of the order in docs: URL, headers, body, trace context;
the first hit wins for each of the three. Linking by content is a worker's job.
Ids that are too long or odd are hashed, never refused: a call is always served.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from trajectories.ids import ID_PATTERN, derived_id

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

BODY_ID_FIELDS = ("session_id", "task_id", "agent_id")
_SESSION_FIELDS = frozenset({"session_id", "conversation", "client_metadata", "prompt_cache_key"})
_SESSION_HEADERS = (
    b"x-session-id",
    b"x-claude-code-session-id",
    b"thread-id",
    b"session-id",
    b"helicone-session-id",
    b"x-litellm-trace-id",
    b"langfuse_session_id",
)
_ID_HEADERS = frozenset(
    {*_SESSION_HEADERS, b"x-task-id", b"x-agent-id", b"x-codex-turn-metadata"}
    | {b"baggage", b"traceparent"}
)
_ID_FIELDS = _SESSION_FIELDS | {"metadata", "task_id", "agent_id"}
_MAX_ALTERNATES = 4


@dataclass(frozen=True, slots=True)
class PathIds:
    """What the URL said: `/a/{agent}/t/{session}`."""

    session: str | None = None
    agent: str | None = None
    deployment: str | None = None  # Azure's name for a model


@dataclass(frozen=True, slots=True)
class Attribution:
    """Session, task and agent of a call, where the first two were found, and other sessions named.

    `alternates` are what later levels said, as `source:id`.
    """

    session: str | None = None
    task: str | None = None
    agent: str | None = None
    session_source: str = "new"
    alternates: tuple[str, ...] = ()
    span: str | None = None  # the client's own, in a trace


_NOTHING = Attribution()


def clean_id(value: object) -> str | None:
    """An id as it is kept: as sent if it is plain, hashed if odd, None if it is none."""
    if isinstance(value, bytes):
        text = value.decode("latin-1").strip()
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value).strip()
    else:
        return None
    if not text:
        return None
    return text if ID_PATTERN.fullmatch(text) else derived_id("id", text)


def attribute(
    path: PathIds,
    query: bytes,
    headers: Mapping[bytes, bytes],
    body: Mapping[str, Any],
) -> Attribution:
    """Resolve the three ids; each on its own, the first hit wins.

    `headers` need to hold the ones named here, in lower case.
    """
    if (
        path.session is path.agent is None
        and not query
        and _ID_HEADERS.isdisjoint(headers)
        and _ID_FIELDS.isdisjoint(body)
    ):
        return _NOTHING  # most calls say nothing
    metadata = body.get("metadata")
    inner: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    sessions = _sessions(path, query, headers, body, inner)
    session, session_source = None, "new"
    alternates: tuple[str, ...] = ()
    if sessions:
        session_source, session = sessions[0]
        alternates = tuple(f"{source}:{found}" for source, found in sessions[1:_MAX_ALTERNATES])
    task, task_source = _first(
        ("header", headers.get(b"x-task-id")),
        ("body", inner.get("task_id")),
        ("body", body.get("task_id")),
    )
    agent, _ = _first(
        ("url", path.agent),
        ("header", headers.get(b"x-agent-id")),
        ("header", _codex_agent(headers)),
        ("body", body.get("agent_id")),
        ("body", inner.get("agent_id")),
    )
    if session is not None and session_source == "trace" and task is not None:
        # A task the client named is worth more than a trace it did not choose.
        alternates = (f"trace:{session}", *alternates)
        session, session_source = None, task_source
    return Attribution(
        session=session,
        task=task,
        agent=agent,
        session_source=session_source if session is not None else task_source,
        alternates=alternates,
        span=_span_id(headers),
    )


def _first(*candidates: tuple[str, object]) -> tuple[str | None, str]:
    for source, candidate in candidates:
        if candidate is not None and (found := clean_id(candidate)) is not None:
            return found, source
    return None, "new"


def _sessions(
    path: PathIds,
    query: bytes,
    headers: Mapping[bytes, bytes],
    body: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """Every distinct session that is named, with its source, in order of precedence."""
    named: list[tuple[str, object]] = []
    if path.session is not None:
        named.append(("url", path.session))
    if query:
        named.append(("url", _query_session(query)))
    named += [("header", headers[name]) for name in _SESSION_HEADERS if name in headers]
    named += [("body", value) for value in _body_sessions(body, metadata) if value is not None]
    if b"baggage" in headers:
        named.append(("trace", _baggage_session(headers[b"baggage"].decode("latin-1"))))
    if b"traceparent" in headers:
        named.append(("trace", _trace_id(headers[b"traceparent"].decode("latin-1"))))
    found: dict[str, str] = {}
    for source, value in named:
        session = clean_id(value)
        if session is not None:
            found.setdefault(session, source)
    return [(source, session) for session, source in found.items()]


def _query_session(query: bytes) -> str | None:
    if b"session" not in query:
        return None
    return dict(parse_qsl(query.decode("latin-1"))).get("session")


def _body_sessions(body: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[object]:
    found: list[object] = (
        [metadata.get("session_id"), metadata.get("thread_id")] if metadata else []
    )
    if not _SESSION_FIELDS.isdisjoint(body):
        found.append(body.get("session_id"))
        conversation = body.get("conversation")
        found.append(conversation.get("id") if isinstance(conversation, dict) else conversation)
        client = body.get("client_metadata")
        found.append(client.get("session_id") if isinstance(client, dict) else None)
        cache_key = body.get("prompt_cache_key")
        # Applications also use one constant for all calls; a UUID is never that.
        is_uuid = isinstance(cache_key, str) and _UUID.fullmatch(cache_key)
        found.append(cache_key if is_uuid else None)
    if metadata:
        found.append(_claude_code_session(metadata.get("user_id")))
    return found


def _claude_code_session(user_id: object) -> object:
    if not isinstance(user_id, str) or "session_id" not in user_id:
        return None
    try:
        parsed = orjson.loads(user_id)
    except orjson.JSONDecodeError:
        return None
    return parsed.get("session_id") if isinstance(parsed, dict) else None


def _codex_agent(headers: Mapping[bytes, bytes]) -> object:
    raw = headers.get(b"x-codex-turn-metadata")
    if raw is None:
        return None
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return parsed.get("agent_name") if isinstance(parsed, dict) else None


def _baggage_session(baggage: str) -> str | None:
    for item in baggage.split(","):
        name, _, value = item.partition("=")
        if name.strip() == "session.id":
            return unquote(value.partition(";")[0].strip())
    return None


def _trace_id(traceparent: str) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    return match.group(1) if match and set(match.group(1)) != {"0"} else None


def _span_id(headers: Mapping[bytes, bytes]) -> str | None:
    if b"traceparent" not in headers:
        return None
    match = _TRACEPARENT.fullmatch(headers[b"traceparent"].decode("latin-1").strip())
    return match.group(2) if match and set(match.group(2)) != {"0"} else None
