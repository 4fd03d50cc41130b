"""Token ids and logprobs as bytes, exactly: what is read is what was recorded.

The prompt of a turn begins with the prompt and the answer of the turn before,
so only what comes after is kept. Numbers stand in planes (all lowest bytes,
then all second ones ...): the high bytes of ids are nearly all alike, and zstd
makes next to nothing of them. A logprob is a float32 where that is the same
number (engines compute them so), else a float64.
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from trajectories.errors import RecordError

_COUNT = struct.Struct("<IB")  # how many, and bytes of each


@dataclass(frozen=True, slots=True)
class Tokens:
    """The engine's numbers of one transition: the prompt's ids, and ids and logprobs by choice."""

    prompt: "array[int]"
    answers: tuple[tuple["array[int]", "array[float]"], ...]

    @property
    def context(self) -> "array[int]":
        """What the next turn's prompt should begin with."""
        return self.prompt + self.answers[0][0] if self.answers else self.prompt

    @property
    def is_empty(self) -> bool:
        return not self.prompt and not any(ids or logprobs for ids, logprobs in self.answers)


NOTHING = Tokens(array("q"), ())


def tokens_of(
    prompt: Sequence[int], answers: Sequence[tuple[Sequence[int], Sequence[float]]]
) -> Tokens:
    return Tokens(
        array("q", prompt),
        tuple((array("q", ids), array("d", logprobs)) for ids, logprobs in answers),
    )


def pack_tokens(tokens: Tokens, before: "array[int]") -> bytes:
    """`tokens` as bytes, given the context of an earlier turn (empty: none)."""
    shared = _shared(tokens.prompt, before)
    parts = [struct.pack("<IB", shared, len(tokens.answers)), _integers(tokens.prompt[shared:])]
    for ids, logprobs in tokens.answers:
        parts += [_integers(ids), _floats(logprobs)]
    return b"".join(parts)


def unpack_tokens(packed: bytes, before: "array[int]") -> Tokens:
    """The inverse, given the same context; raises RecordError on anything else."""
    try:
        shared, answers = struct.unpack_from("<IB", packed)
        at = struct.calcsize("<IB")
        rest, at = _read(packed, at, "i", "q")
        found = []
        for _ in range(answers):
            ids, at = _read(packed, at, "i", "q")
            logprobs, at = _read(packed, at, "f", "d")
            found.append((ids, logprobs))
    except (struct.error, ValueError, KeyError) as error:
        raise RecordError(f"not packed tokens: {error}") from error
    if shared > len(before):
        raise RecordError("packed tokens go on with a context that is not there")
    return Tokens(before[:shared] + rest, tuple(found))


def _shared(prompt: "array[int]", before: "array[int]") -> int:
    """How many ids both begin with."""
    if prompt[: len(before)] == before:
        return len(before)
    pairs = zip(prompt, before, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _integers(values: "array[int]") -> bytes:
    try:
        return _planes(array("i", values))
    except OverflowError:
        return _planes(values)


def _floats(values: "array[float]") -> bytes:
    try:
        short = array("f", values)
    except OverflowError:
        return _planes(values)
    return _planes(short) if array("d", short).tobytes() == values.tobytes() else _planes(values)


def _planes(values: "array[int] | array[float]") -> bytes:
    raw, size = values.tobytes(), values.itemsize
    return _COUNT.pack(len(values), size) + b"".join(raw[plane::size] for plane in range(size))


def _read(packed: bytes, at: int, short: str, long: str) -> tuple[Any, int]:
    """An array of eight bytes each, from planes of `short` or of `long` numbers."""
    count, size = _COUNT.unpack_from(packed, at)
    at += _COUNT.size
    end = at + count * size
    code = {4: short, 8: long}[size]
    if end > len(packed):
        raise ValueError("cut off")
    raw = bytearray(count * size)
    for plane in range(size):
        raw[plane::size] = packed[at + plane * count : at + (plane + 1) * count]
    return array(long, array(code, bytes(raw))), end
