"""The packer: turns transitions into what is written of them, remembering what came before.

It belongs to one process that writes. What it remembers may be wrong: Redis may
have been flushed, or rolled back. So whatever it leaves out is asked for by the
script that stores the transition, and is then sent (`Written.again`).
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trajectories.errors import RecordError
from trajectories.model import Transition
from trajectories.store.compression import Compression, Dictionary
from trajectories.store.packed import (
    Base,
    Packed,
    Parts,
    Referred,
    header_of,
    layout_of,
    take_apart,
)
from trajectories.store.packing import pack
from trajectories.store.tokens import pack_tokens

BASES_BYTES = 64 * 1024 * 1024
BASES_OF_ONE = 4  # agents of one trajectory take turns, each with a conversation of its own
KNOWN_CONTENTS = 100_000

Observer = Callable[[str, str, bytes], None]  # tenant, trajectory, what was new in it


@dataclass(frozen=True, slots=True)
class Written:
    """What is sent of one transition."""

    value: bytes
    base: bytes  # packed id; empty for none
    contents: Sequence[tuple[bytes, bytes]]  # digest, and its value; empty: should be there
    dictionary: Dictionary | None


class Packer:
    """Packs transitions of one tenant. Of one thread."""

    def __init__(self, compression: Compression, secret: bytes) -> None:
        self._compression = compression
        self._secret = secret
        self._bases: OrderedDict[str, list[Base]] = OrderedDict()
        self._bases_bytes = 0
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self.dictionary: Dictionary | None = None
        self.observe: Observer | None = None

    def forget(self) -> None:
        """Remember nothing: the store may have lost what was written."""
        self._bases.clear()
        self._bases_bytes = 0
        self._known.clear()

    def take_apart(self, transition: Transition) -> Parts:
        """Raises RecordError when a body holds what JSON cannot."""
        return take_apart(transition, self._secret)

    def pack(
        self, tenant: str, trajectory: str, parts: Parts, *, is_whole: bool = False
    ) -> Written:
        """What to write of a transition; with `is_whole` nothing is left out."""
        base = None if is_whole else self._base(trajectory, parts)
        contents = Referred(self._secret, base.answers if base else {})
        layout = layout_of(parts, base, contents)
        frame = self._compression.compress(layout, self.dictionary)
        frames = _length(len(frame)) + frame
        if not parts.tokens.is_empty:
            before = base.context if base else parts.tokens.prompt[:0]
            frames += self._compression.compress(pack_tokens(parts.tokens, before), None)
        name = pack(base.id) if base else b""
        values = []
        for digest, raw in contents.raw.items():
            is_known = not is_whole and digest in self._known
            values.append((digest, b"" if is_known else self._content(digest, raw)))
            if self.observe is not None and not is_known:
                self.observe(tenant, trajectory, raw)
        if self.observe is not None:
            self.observe(tenant, trajectory, layout)
        self._remember(trajectory, Base.of(parts, contents.answers))
        return Written(header_of(name, list(contents.raw)) + frames, name, values, self.dictionary)

    def _content(self, digest: bytes, raw: bytes) -> bytes:
        self._known[digest] = None
        if len(self._known) > KNOWN_CONTENTS:
            self._known.popitem(last=False)
        return self._compression.compress(raw, self.dictionary)

    def _base(self, trajectory: str, parts: Parts) -> Base | None:
        """The transition that this one has most in common with."""
        bases = self._bases.get(trajectory)
        if not bases:
            return None
        return max(reversed(bases), key=lambda base: base.shared(parts))

    def _remember(self, trajectory: str, added: Base) -> None:
        bases = self._bases.setdefault(trajectory, [])
        self._bases.move_to_end(trajectory)
        bases[:] = [base for base in bases if base.id != added.id]
        before = sum(base.size for base in bases)
        # What it goes on with is not gone on with again, but for a retry of the same call.
        if len(bases) >= BASES_OF_ONE:
            del bases[0]
        bases.append(added)
        self._bases_bytes += sum(base.size for base in bases) - before
        while self._bases_bytes > BASES_BYTES and len(self._bases) > 1:
            _, dropped = self._bases.popitem(last=False)
            self._bases_bytes -= sum(base.size for base in dropped)


def split_frames(packed: Packed) -> tuple[bytes, bytes]:
    """The frames of a stored transition: layout, and tokens (empty: none)."""
    length = at = 0
    while True:
        byte = packed.frames[at : at + 1]
        if not byte:
            raise RecordError("a stored transition is cut off")
        length |= (byte[0] & 127) << 7 * at
        at += 1
        if byte[0] < 128:
            break
    return packed.frames[at : at + length], packed.frames[at + length :]


def _length(number: int) -> bytes:
    """Seven bits to a byte, the lowest first."""
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
