"""Whose call it is when the client did not say: by what it sends back of our own answers.

Pure. An answer leaves marks (`marks_of`): the ids of its tool calls, the
conversation up to and with it, its text. A later call that names no session is
searched for them (`probes_of`), and `decide` says which trajectory it goes on
with, or none. All marks are bound to the API key. In doubt there is no link: a
split loses some credit, a mix-up credits the wrong user.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from trajectories.agents import messages_of, text_of
from trajectories.keys import LINK_MEMBERS_KEPT, LINK_TTL_SECONDS
from trajectories.model import Outcome, Transition

LEAST_TEXT = 24  # characters; shorter answers are said by everybody
MOST_MESSAGES = 64  # a request is searched from its end, this far
MOST_IDS = 256  # each is a look-up of its own

# Ids long enough to be random, in whatever text they stand; `call_1` is a counter.
_ID = re.compile(
    r"(?<![A-Za-z0-9])(?:call_|toolu_|tooluse_|fc_|chatcmpl-tool-)(?:vrtx_|bdrk_)?"
    r"([A-Za-z0-9-]{16,64})(?![A-Za-z0-9_-])"
)
# Looked for first: most texts hold none, and plain search is much faster than the pattern.
_ID_BEGINS = ("call_", "toolu_", "tooluse_", "fc_", "chatcmpl-tool-")
_SYSTEM = ("system", "developer")
_PROSE = ("text", "input_text", "output_text", "refusal", "thinking", "reasoning")
_EXACT_INTEGERS = 2.0**53


@dataclass(frozen=True, slots=True)
class Mark:
    """What an answer can be known by: a digest, and what to note under it."""

    digest: str
    member: str


@dataclass(frozen=True, slots=True)
class Probe:
    """One place in a request where an answer of ours may stand."""

    source: str  # "tool_call_id", "prefix" or "text": the trust in it, falling
    digest: str
    before: str = ""  # digest of the conversation up to there, whoever says it
    text: str = ""  # only of a message that may begin with our answer


@dataclass(frozen=True, slots=True)
class Link:
    """The trajectory a call goes on with, and how that was found out."""

    trajectory: str
    source: str


Found = Mapping[str, Sequence[tuple[str, float]]]  # digest -> members, each with its time


def normalise(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as it is compared: what a client changes when it sends it back is left out.

    Kept are role, text, other content, the names and arguments of tool calls,
    and the name of a speaker other than the model.
    """
    role = "system" if message.get("role") in _SYSTEM else message.get("role")
    kept: dict[str, Any] = {"role": role}
    text, parts = text_of(message), list(_other_parts(message.get("content")))
    if parts:
        texts = [{"type": "text", "text": text}] if text else []
        kept["content"] = [*texts, *parts]
    elif text:
        kept["content"] = text
    if role != "assistant" and message.get("name"):
        kept["name"] = message["name"]
    if calls := [_normal_call(call) for call in _calls(message)]:
        kept["tool_calls"] = calls
    return kept


def long_ids(text: str) -> Iterator[str]:
    """Every tool-call id in a text that is long and random."""
    if not any(begin in text for begin in _ID_BEGINS):
        return
    for match in _ID.finditer(text):
        random = match[1]
        is_mixed = not random.isdigit() and not random.isalpha()
        if is_mixed and len(set(random)) >= 6:
            yield match[0]


def marks_of(transition: Transition) -> list[Mark]:
    """What a later call can be linked to this one by.

    Nothing where the answer broke off, or where no client got it: a rollout.
    """
    if transition.outcome is not Outcome.COMPLETE or transition.rollout is not None:
        return []
    messages = _conversation(transition)
    whole, plain = _chains(transition, messages)
    trajectory = transition.trajectory_id
    marks: dict[Mark, None] = {}
    for choice in transition.choices:
        answer = choice.message
        for call_id in islice(_ids_of(answer), MOST_IDS):
            marks[Mark(_digest(transition, "id", call_id), trajectory)] = None
        if messages:  # else the system prompt alone tells one conversation from another
            said = normalise({**answer, "role": "assistant"})
            marks[Mark(_step(whole[-1], said), trajectory)] = None
        text = text_of(answer)
        if len(text) >= LEAST_TEXT:
            member = f"{trajectory} {plain[-1]}"
            digest = _digest(transition, "text", text)
            marks[Mark(digest, member)] = None
            head = _digest(transition, "head", text[:LEAST_TEXT])
            marks[Mark(head, f"{member} {len(text)} {digest}")] = None
        for question in islice(_questions(answer), MOST_IDS):
            digest = _digest(transition, "text", question)
            marks[Mark(digest, f"{trajectory} {plain[0]}")] = None
    return list(marks)


def probes_of(transition: Transition) -> list[Probe]:
    """Where to look for answers of ours in this request: the strongest evidence first."""
    messages = _conversation(transition)
    whole, plain = _chains(transition, messages)
    newest = range(len(messages) - 1, max(-1, len(messages) - 1 - MOST_MESSAGES), -1)
    probes: dict[Probe, None] = {}
    for index in newest:
        for call_id in islice(_ids_in(messages[index]), MOST_IDS - len(probes)):
            probes[Probe("tool_call_id", _digest(transition, "id", call_id))] = None
    for index in newest:
        if messages[index].get("role") == "assistant":
            probes[Probe("prefix", whole[index + 1])] = None
    for index in newest:
        text = text_of(messages[index])
        if len(text) < LEAST_TEXT:
            continue
        probes[Probe("text", _digest(transition, "text", text), plain[index])] = None
        if messages[index].get("role") == "assistant":
            head = _digest(transition, "head", text[:LEAST_TEXT])
            probes[Probe("text", head, plain[index], text)] = None
    return list(probes)


def decide(transition: Transition, probes: Iterable[Probe], found: Found) -> Link | None:
    """The trajectory that the strongest evidence points to, or None.

    The same answer is sometimes given in several trajectories. Then a text
    counts where the conversation before it is the same, too; and where that
    leaves more than one, or none, the call begins a trajectory of its own.
    """
    for probe in probes:
        seen = found.get(probe.digest, ())
        members = [
            member.split(" ")
            for member, seen_at in seen
            if 0 <= transition.started_at - seen_at <= LINK_TTL_SECONDS
        ]
        if probe.text:
            members = _beginnings(transition, probe.text, members)
        candidates = {member[0] for member in members}
        is_cut = len(seen) >= LINK_MEMBERS_KEPT  # there were more than are still noted
        if candidates and (is_cut or len(candidates) > 1):
            candidates = {member[0] for member in members if member[1:2] == [probe.before]}
            if len(candidates) != 1:
                return None
        if candidates:
            return Link(candidates.pop(), probe.source)
    return None


def call_digest(transition: Transition) -> str:
    """Equal for all attempts at one call: who asked what, in which session if one was named."""
    session = "" if transition.session_source == "new" else transition.trajectory_id
    body = orjson.dumps(transition.request, option=orjson.OPT_SORT_KEYS)
    return _digest(transition, f"call {session}", body)


def _beginnings(transition: Transition, text: str, members: Iterable[list[str]]) -> list[list[str]]:
    """Those members whose whole answer `text` begins with; the longest answer only."""
    fitting = [
        (int(length), rest)
        for *rest, length, digest in members
        if digest == _digest(transition, "text", text[: int(length)])
    ]
    longest = max((length for length, _ in fitting), default=0)
    return [rest for length, rest in fitting if length == longest]


def _conversation(transition: Transition) -> list[dict[str, Any]]:
    """The messages without system prompts: a hand-off swaps those in mid-session."""
    return [entry for entry in messages_of(transition) if entry.get("role") not in _SYSTEM]


def _chains(
    transition: Transition, messages: Iterable[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """One digest before the first message and one after each, of all up to there.

    The first chain knows who said what. The second does not: to another agent
    our answer is a message of role `user`.
    """
    whole, plain = [_digest(transition, "whole", b"")], [_digest(transition, "plain", b"")]
    for message in messages:
        kept = normalise(message)
        whole.append(_step(whole[-1], kept))
        plain.append(_step(plain[-1], [kept.get("content"), kept.get("tool_calls")]))
    return whole, plain


def _step(before: str, content: Any) -> str:
    return _hash(before.encode(), orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


def _digest(transition: Transition, kind: str, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return _hash(kind.encode(), (transition.key or "").encode(), raw)


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _ids_of(answer: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the tool calls that an answer makes."""
    for call in _calls(answer):
        yield from long_ids(str(call.get("id") or ""))


def _ids_in(message: Mapping[str, Any]) -> Iterator[str]:
    """Ids that a message names, in its fields or in its text."""
    yield from _ids_of(message)
    yield from long_ids(str(message.get("tool_call_id") or ""))
    yield from long_ids(text_of(message))


def _questions(answer: Mapping[str, Any]) -> Iterator[str]:
    """Texts an answer hands to its tools: a sub-agent used as one is asked just that."""
    for call in _calls(answer):
        arguments = _parsed(_function(call).get("arguments"))
        values = arguments.values() if isinstance(arguments, dict) else ()
        for value in values:
            if isinstance(value, str) and len(value.strip()) >= LEAST_TEXT:
                yield value.strip()


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    found = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    legacy = message.get("function_call")
    return [*found, {"function": legacy}] if isinstance(legacy, dict) else found


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _normal_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of a call. Its id is left out: some clients count anew."""
    function = _function(call)
    arguments = _parsed(function.get("arguments"))
    if not isinstance(arguments, str):
        try:
            numbers = _whole_numbers(arguments)
            arguments = orjson.dumps(numbers, option=orjson.OPT_SORT_KEYS).decode()
        except (orjson.JSONEncodeError, RecursionError):  # nested without measure
            arguments = str(function.get("arguments")).strip()
    return {"function": {"name": function.get("name"), "arguments": arguments}}


def _parsed(arguments: Any) -> Any:
    """Arguments as JSON; text that is no JSON, or only a string, stays as it is."""
    if not arguments:
        return {}
    if not isinstance(arguments, str):
        return arguments
    text = arguments.strip()
    try:
        parsed = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return text
    return text if isinstance(parsed, str) else parsed


def _whole_numbers(value: Any) -> Any:
    """2.0 as 2: what JavaScript makes of it."""
    if isinstance(value, dict):
        return {name: _whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_INTEGERS:
        return int(value)
    return value


def _other_parts(content: Any) -> Iterator[dict[str, Any]]:
    """Images, sounds, files: everything in the content that is no text."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") not in _PROSE:
            yield {name: value for name, value in part.items() if name != "cache_control"}
