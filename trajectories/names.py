"""What a transition can be found by, besides its own id. Pure.

A client sees of an answer what its framework leaves: a response id, a request
id, the id of a tool call, or nothing but the text. Each is a kind and a value. The
store's index leads from them to transitions; votes wait under a digest of them.
"""

import hashlib
import re
from collections.abc import Iterator

from trajectories.agents import text_of
from trajectories.model import Feedback, Transition

RESPONSE = "response"
TRANSITION = "transition"
REQUEST = "request"
TOOL_CALL = "tool_call"
TEXT = "text"
SPAN = "span"  # of a vote only: one of the first two, or the next
TRACE_SPAN = "trace_span"  # the client's span that a call was made in
TRAJECTORY = "trajectory"

SHARED = frozenset(
    {TOOL_CALL, TEXT, TRACE_SPAN}
)  # kinds of which several transitions may have the same
# The request id that a client was told is the transition's own.
_TRACE_SPAN = re.compile(r"[0-9a-f]{16}")
_ALIASES = {SPAN: (RESPONSE, TRANSITION), REQUEST: (TRANSITION, REQUEST)}


def name_digest(kind: str, value: str) -> str:
    """What votes wait under, as long or odd as the name may be."""
    return hashlib.blake2b(f"{kind}:{value}".encode(), digest_size=12).hexdigest()


def text_digest(text: str) -> str:
    """An answer's text as a name: stripped, as in the search for sessions, and hashed."""
    return hashlib.blake2b(text.strip().encode(), digest_size=16).hexdigest()


def plain_name(kind: str, value: str) -> str:
    """A name where all kinds stand side by side: of an id the id, else its kind with it."""
    return f"{kind}:{value}" if kind in SHARED else value


def indexed_names(transition: Transition) -> Iterator[tuple[str, str]]:
    """The names of a transition that nothing else in the store leads from.

    A rollout has none: no user's vote is about an answer that no user got.
    """
    if transition.rollout is not None:
        return
    if transition.span_id:
        yield TRACE_SPAN, transition.span_id
    if transition.request_id and transition.request_id != transition.id:
        yield REQUEST, transition.request_id
    for choice in transition.choices:
        calls = choice.message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str) and call["id"]:
                yield TOOL_CALL, call["id"]
        if text := text_of(choice.message):
            yield TEXT, text_digest(text)


def names_of_transition(transition: Transition) -> list[str]:
    """The digests under which votes may wait for a transition."""
    names = dict.fromkeys(indexed_names(transition))
    names[TRANSITION, transition.id] = None
    if transition.response_id:
        names[RESPONSE, transition.response_id] = None
    return [name_digest(*name) for name in names]


def names_of_vote(vote: Feedback) -> list[tuple[str, str]]:
    """What the target of a vote may be found by: kinds and values."""
    if vote.response_id is not None:
        return [(RESPONSE, vote.response_id)]
    if vote.named is not None:
        kind, _, value = vote.named.partition(":")
        if kind == SPAN and _TRACE_SPAN.fullmatch(value):
            return [(TRACE_SPAN, value)]  # no id of ours, and of no engine that we know, looks so
        return [(alias, value) for alias in _ALIASES.get(kind, (kind,))]
    return [(TRAJECTORY, vote.target)]
