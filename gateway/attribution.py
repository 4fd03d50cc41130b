"""Whose call is it: session, task and agent from what the client sent.

Pure. Levels 1 to 4 of the order in docs: URL, headers, body, trace context;
the first hit wins for each of the three. Linking by content is a worker's job.
Ids that are too long or odd are hashed, never refused: a call is always served.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from trajectories.ids import derived_id

ID_PATTERN = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

BODY_ID_FIELDS = ("session_id", "task_id", "agent_id")
_SESSION_HEADERS = (
    "x-session-id",
    "x-claude-code-session-id",
    "thread-id",
    "session-id",
    "helicone-session-id",
    "x-litellm-trace-id",
    "langfuse_session_id",
)


@dataclass(frozen=True, slots=True)
class PathIds:
    """What the URL said: `/a/{agent}/t/{session}`."""

    session: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Session, task and agent of a call, and where the first two were found."""

    session: str | None = None
    task: str | None = None
    agent: str | None = None
    session_source: str = "new"


def clean_id(value: object) -> str | None:
    """An id as it is kept: as sent if it is plain, hashed if odd, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    if not text:
        return None
    return text if ID_PATTERN.fullmatch(text) else derived_id("id", text)


def attribute(
    path: PathIds,
    query: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: Mapping[str, Any],
) -> Attribution:
    """Resolve the three ids; each on its own, the first hit wins."""
    named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
    metadata = body.get("metadata")
    inner: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    session, session_source = _first(
        ("url", (path.session, _query_session(query))),
        ("header", (named.get(name) for name in _SESSION_HEADERS)),
        ("body", _body_sessions(body, inner)),
        ("trace", (_baggage_session(named), _trace_id(named))),
    )
    task, task_source = _first(
        ("header", (named.get("x-task-id"),)),
        ("body", (inner.get("task_id"), body.get("task_id"))),
    )
    agent, _ = _first(
        ("url", (path.agent,)),
        ("header", (named.get("x-agent-id"), _codex_agent(named))),
        ("body", (body.get("agent_id"), inner.get("agent_id"))),
    )
    if session is not None and session_source == "trace" and task is not None:
        # A task the client named is worth more than a trace it did not choose.
        session, session_source = None, task_source
    return Attribution(
        session=session,
        task=task,
        agent=agent,
        session_source=session_source if session is not None else task_source,
    )


def _first(*levels: tuple[str, Iterable[object]]) -> tuple[str | None, str]:
    for source, candidates in levels:
        for candidate in candidates:
            found = clean_id(candidate)
            if found is not None:
                return found, source
    return None, "new"


def _query_session(query: bytes) -> str | None:
    if b"session" not in query:
        return None
    return dict(parse_qsl(query.decode("latin-1"))).get("session")


def _body_sessions(body: Mapping[str, Any], metadata: Mapping[str, Any]) -> Iterable[object]:
    yield metadata.get("session_id")
    yield metadata.get("thread_id")
    yield body.get("session_id")
    conversation = body.get("conversation")
    yield conversation.get("id") if isinstance(conversation, dict) else conversation
    client = body.get("client_metadata")
    yield client.get("session_id") if isinstance(client, dict) else None
    cache_key = body.get("prompt_cache_key")
    # Applications also use one constant for all calls; a UUID is never that.
    yield cache_key if isinstance(cache_key, str) and _UUID.fullmatch(cache_key) else None
    yield _claude_code_session(metadata.get("user_id"))


def _claude_code_session(user_id: object) -> object:
    if not isinstance(user_id, str) or "session_id" not in user_id:
        return None
    try:
        parsed = orjson.loads(user_id)
    except orjson.JSONDecodeError:
        return None
    return parsed.get("session_id") if isinstance(parsed, dict) else None


def _codex_agent(named: Mapping[str, str]) -> object:
    raw = named.get("x-codex-turn-metadata")
    if raw is None:
        return None
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return parsed.get("agent_name") if isinstance(parsed, dict) else None


def _baggage_session(named: Mapping[str, str]) -> str | None:
    for item in named.get("baggage", "").split(","):
        name, _, value = item.partition("=")
        if name.strip() == "session.id":
            return unquote(value.partition(";")[0].strip())
    return None


def _trace_id(named: Mapping[str, str]) -> str | None:
    match = _TRACEPARENT.fullmatch(named.get("traceparent", "").strip())
    return match.group(1) if match and set(match.group(1)) != {"0"} else None
