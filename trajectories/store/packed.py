"""One transition as it stands in Redis: what is new in it, and references to the rest.

A conversation says everything again at each turn. Here a message, and any other
large part of a request, is kept apart under a hash of its content ("a content"),
and a transition that goes on with an earlier one of its trajectory, its base,
holds only the fields that differ, the messages that were added and the token
ids that follow. Pure: neither Redis nor compression. The bytes are kept
exactly: `Transition.to_json()` is the same before and after.

    version u8 | length of base u8 | base | references u16 | 12 bytes each | frames
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson
from pydantic import ValidationError

from trajectories.errors import RecordError
from trajectories.model import Choice, Transition
from trajectories.store.tokens import NOTHING, Tokens, tokens_of

VERSION = 1
DIGEST_BYTES = 12  # keyed, so nobody can look for two alike
LEAST_CONTENT = 96  # bytes; a key of its own for less takes more than it saves
LEAST_PART = 256  # bytes of a field of a request
_APART = frozenset({"id", "tenant", "trajectory_id", "prompt_token_ids", "choices"})
_FIELDS = tuple(name for name in Transition.model_fields if name not in _APART)
_OF_CHOICE = tuple(
    name for name in Choice.model_fields if name not in ("message", "token_ids", "logprobs")
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A message, or a large field of a request, as JSON, and what tells it from others."""

    digest: bytes  # of `raw`, keyed by the tenant
    raw: bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """A transition taken apart; `fields` are JSON by name."""

    id: str
    fields: Mapping[str, bytes]
    messages: tuple[Piece, ...] | None  # None: the request has no list of them
    large: Mapping[str, Piece]  # field of the request -> its value
    answers: tuple[tuple[bytes, bytes], ...]  # of each choice: all else, and its message
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Base:
    """What a later transition can go on with."""

    id: str
    fields: Mapping[str, bytes]
    messages: tuple[bytes, ...]  # digests
    large: Mapping[str, bytes]
    answers: Mapping[bytes, int]  # digest of a content -> which choice said it, with nothing empty
    context: Any  # array of token ids

    @classmethod
    def of(cls, parts: Parts, answers: Mapping[bytes, int]) -> "Base":
        return cls(
            parts.id,
            parts.fields,
            tuple(piece.digest for piece in parts.messages or ()),
            {name: piece.digest for name, piece in parts.large.items()},
            answers,
            parts.tokens.context,
        )

    def shared(self, parts: Parts) -> int:
        """With how many of the same messages both begin."""
        count = 0
        for piece, digest in zip(parts.messages or (), self.messages, strict=False):
            if piece.digest != digest:
                break
            count += 1
        return count

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        texts = sum(len(name) + len(raw) + 100 for name, raw in self.fields.items())
        return texts + 50 * len(self.messages) + 8 * len(self.context) + 500


@dataclass(slots=True)
class Referred:
    """The contents that one transition refers to, each once, in order."""

    secret: bytes
    said_before: Mapping[bytes, int] = field(default_factory=dict)  # by its base
    raw: dict[bytes, bytes] = field(default_factory=dict)  # digest -> JSON
    answers: dict[bytes, int] = field(default_factory=dict)
    _places: dict[bytes, int] = field(default_factory=dict)

    def add(self, raw: bytes) -> int:
        """Its place; below zero: -1 for what the first choice of the base said."""
        digest = digest_of(raw, self.secret)
        if digest in self.said_before:
            return -1 - self.said_before[digest]
        place = self._places.setdefault(digest, len(self._places))
        self.raw[digest] = raw
        return place

    def add_answer(self, raw: bytes, choice: int) -> Any:
        """The entry of an answer, which the next turn should say again."""
        entry = _entry(raw, self)
        place = entry if isinstance(entry, int) else entry[0] if len(entry) == 2 else -1
        if place >= 0:
            self.answers.setdefault(list(self._places)[place], choice)
        return entry


def digest_of(raw: bytes, secret: bytes) -> bytes:
    """What a content is kept under: a hash that says nothing to who lacks the tenant's secret."""
    return blake2b(raw, digest_size=DIGEST_BYTES, key=secret).digest()


def take_apart(transition: Transition, secret: bytes) -> Parts:
    """The parts of a transition. Raises RecordError when a body holds what JSON cannot."""
    try:
        return _take_apart(transition, secret)
    except (orjson.JSONEncodeError, ValueError, OverflowError) as error:
        raise RecordError(f"not JSON: {error}") from error


def _take_apart(transition: Transition, secret: bytes) -> Parts:
    request = dict(transition.request)
    messages: tuple[Piece, ...] | None = None
    large: dict[str, Piece] = {}
    for name, value in transition.request.items():
        if name == "messages" and isinstance(value, list):
            messages = tuple(_piece(message, secret) for message in value)
            request[name] = None
        elif isinstance(value, (list, dict, str)) and len(value) > 0:
            piece = _piece(value, secret)
            if len(piece.raw) >= LEAST_PART:
                large[name] = piece
                request[name] = None
    fields = {name: _field(getattr(transition, name)) for name in _FIELDS if name != "request"}
    fields["request"] = orjson.dumps(request)
    answers = tuple(
        (
            orjson.dumps({name: getattr(choice, name) for name in _OF_CHOICE}),
            orjson.dumps(choice.message),
        )
        for choice in transition.choices
    )
    tokens = tokens_of(
        transition.prompt_token_ids,
        [(choice.token_ids, choice.logprobs) for choice in transition.choices],
    )
    return Parts(transition.id, fields, messages, large, answers, tokens)


def _piece(value: Any, secret: bytes) -> Piece:
    raw = orjson.dumps(value)
    return Piece(digest_of(raw, secret), raw)


def _field(value: Any) -> bytes:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return orjson.dumps(value)


def layout_of(parts: Parts, base: Base | None, contents: Referred) -> bytes:
    """The first frame: how the contents make up the transition, and the fields that differ."""
    shared = base.shared(parts) if base else 0
    added = [_entry(piece.raw, contents) for piece in (parts.messages or ())[shared:]]
    known = base.large if base else {}
    layout = [
        None if parts.messages is None else shared,
        added,
        {
            name: None if known.get(name) == piece.digest else contents.add(piece.raw)
            for name, piece in parts.large.items()
        },
        [
            [orjson.Fragment(rest), contents.add_answer(raw, choice)]
            for choice, (rest, raw) in enumerate(parts.answers)
        ],
        {
            name: orjson.Fragment(raw)
            for name, raw in parts.fields.items()
            if base is None or base.fields.get(name) != raw
        },
    ]
    return orjson.dumps(layout)


def _entry(raw: bytes, contents: Referred) -> Any:
    """A message: its place among the contents, with what was left out there; short ones inline.

    What an engine leaves empty in an answer (`"refusal":null`) a client does not
    send back. Without it both are one content.
    """
    if len(raw) < LEAST_CONTENT:
        return [orjson.Fragment(raw)]
    message = orjson.loads(raw)
    if not isinstance(message, dict):
        return contents.add(raw)
    gaps = {
        place: (name, value)
        for place, (name, value) in enumerate(message.items())
        if value is None or value == [] or value == {}
    }
    if not gaps:
        return contents.add(raw)
    items = enumerate(message.items())
    filled = orjson.dumps({name: value for at, (name, value) in items if at not in gaps})
    if len(filled) < LEAST_CONTENT:
        return [orjson.Fragment(raw)]
    return [contents.add(filled), [[at, name, value] for at, (name, value) in gaps.items()]]


def header_of(base: bytes, digests: Sequence[bytes]) -> bytes:
    """What stands before the frames; `base` is a packed id, empty for none."""
    count = len(digests).to_bytes(2, "little")
    return bytes((VERSION, len(base))) + base + count + b"".join(digests)


@dataclass(frozen=True, slots=True)
class Packed:
    """A stored transition, its header read."""

    base: bytes  # packed id; empty for none
    digests: tuple[bytes, ...]
    frames: bytes

    @classmethod
    def parse(cls, value: bytes) -> "Packed":
        """Raises RecordError on anything else."""
        if value[:1] != bytes((VERSION,)) or len(value) < 4:
            raise RecordError(f"a stored transition of unknown form {value[:1]!r}")
        start = 2 + value[1]
        count = int.from_bytes(value[start : start + 2], "little")
        end = start + 2 + count * DIGEST_BYTES
        digests = tuple(value[at : at + DIGEST_BYTES] for at in range(start + 2, end, DIGEST_BYTES))
        return cls(value[2:start], digests, value[end:])


@dataclass(frozen=True, slots=True)
class Resolved:
    """A stored transition put on its base: all of it but the contents themselves."""

    fields: Mapping[str, Any]
    messages: tuple[tuple[bytes, Any], ...] | None  # digest (empty: inline) and what to do with it
    large: Mapping[str, bytes]
    answers: tuple[tuple[dict[str, Any], tuple[bytes, Any]], ...]
    tokens: Tokens

    def digests(self) -> Iterator[bytes]:
        """Contents that it needs."""
        yield from (digest for digest, _ in self.messages or () if digest)
        yield from self.large.values()
        yield from (entry[0] for _, entry in self.answers if entry[0])


def resolve(
    layout: bytes, tokens: Tokens | None, digests: Sequence[bytes], base: Resolved | None
) -> Resolved:
    """The inverse of `layout_of`. Raises RecordError on anything else."""
    try:
        shared, added, large, answers, fields = orjson.loads(layout)
        known = base.messages or () if base else ()
        said = [entry[0] for _, entry in base.answers] if base else []
        earlier = base.large if base else {}
        messages = None
        if shared is not None:
            if shared > len(known):
                raise RecordError("its base is shorter than what it takes from there")
            messages = (*known[:shared], *(_place(entry, digests, said) for entry in added))
        return Resolved(
            {**(base.fields if base else {}), **fields},
            messages,
            {
                name: earlier[name] if place is None else _digest(place, digests, said)
                for name, place in large.items()
            },
            tuple((rest, _place(entry, digests, said)) for rest, entry in answers),
            NOTHING if tokens is None else tokens,
        )
    except (orjson.JSONDecodeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise RecordError(f"a stored transition cannot be read: {error}") from error


def _place(entry: Any, digests: Sequence[bytes], said: Sequence[bytes]) -> tuple[bytes, Any]:
    if isinstance(entry, int):
        return _digest(entry, digests, said), ()
    if len(entry) == 1:
        return b"", entry[0]
    gaps = tuple((at, name, value) for at, name, value in entry[1])
    return _digest(entry[0], digests, said), gaps


def _digest(place: int, digests: Sequence[bytes], said: Sequence[bytes]) -> bytes:
    return digests[place] if place >= 0 else said[-1 - place]


def put_together(
    resolved: Resolved, contents: Mapping[bytes, Any], *, tenant: str, trajectory: str, id: str
) -> Transition:
    """The transition as it was recorded; `contents` are parsed JSON by digest.

    Raises KeyError with the digest of a content that is not there.
    """
    fields = dict(resolved.fields)
    request = dict(fields["request"])
    if resolved.messages is not None:
        request["messages"] = [_message(entry, contents) for entry in resolved.messages]
    for name, digest in resolved.large.items():
        request[name] = contents[digest]
    fields["request"] = request
    tokens = resolved.tokens
    numbers = tokens.answers or (((), ()),) * len(resolved.answers)
    fields["choices"] = [
        {
            **rest,
            "message": _message(entry, contents),
            "token_ids": tuple(ids),
            "logprobs": tuple(logprobs),
        }
        for (rest, entry), (ids, logprobs) in zip(resolved.answers, numbers, strict=True)
    ]
    fields |= {"id": id, "tenant": tenant, "trajectory_id": trajectory}
    fields["prompt_token_ids"] = tuple(tokens.prompt)
    try:
        return Transition.model_validate(fields)
    except ValidationError as error:
        raise RecordError(f"transition {id} of {tenant}/{trajectory}: {error}") from error


def _message(entry: tuple[bytes, Any], contents: Mapping[bytes, Any]) -> Any:
    digest, rest = entry
    if not digest:
        return rest
    message = contents[digest]
    if not rest:
        return message
    items = list(message.items())
    for at, name, value in rest:
        items.insert(at, (name, value))
    return dict(items)
