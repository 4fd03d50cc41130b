"""A file of token-level records, read one trajectory at a time however large it is.

The lines of a trajectory may lie anywhere in it, as in a log that many sessions
write at once. So the file is read twice: first every line is checked, and where
it lies is noted (24 bytes for each); then the lines of each trajectory are read
together, in the order of their first ones.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import mkstemp
from typing import IO

import numpy as np

from trainer.alone.records import Piece, joined, parse
from trajectories.composition import Composition
from trajectories.errors import RatchetError
from trajectories.lines import STANDARD, LineError, reading
from trajectories.model import Trajectory

ERRORS_KEPT = 20


class TrafficError(RatchetError):
    """A file that cannot be learned from: which lines, and why."""


@dataclass(slots=True)
class Checked:
    """What the first reading found."""

    lines: int = 0
    bad: int = 0
    errors: list[str] = field(default_factory=list)  # the first few
    newest: int = 0  # the highest version that sampled any of it

    def blame(self, where: str, why: object) -> None:
        self.bad += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(f"{where}: {why}")


class Traffic:
    """The trajectories of a file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises TrafficError when there is no such file."""
        self._path = path
        self._digests, self._offsets, self._numbers = array("Q"), array("Q"), array("Q")
        self.checked = Checked()
        self._file = _seekable(path)

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self) -> Checked:
        """Read every line once; what is wrong with some of them is in the answer."""
        self._file.seek(0)
        at = 0
        for number, line in enumerate(self._file, 1):
            start, at = at, at + len(line)
            if not line.strip():
                continue
            self.checked.lines += 1
            try:
                piece = parse(line, number)
            except LineError as error:
                self.checked.blame(f"line {number}", error)
                continue
            self.checked.newest = max(self.checked.newest, _newest(piece))
            self._digests.append(_digest(piece.name))
            self._offsets.append(start)
            self._numbers.append(number)
        return self.checked

    def trajectories(self, composition: Composition, policy: str) -> Iterator[Trajectory]:
        """Each of them whole, after `check`, as calls of `policy`.

        Lines that contradict each other are blamed in `checked`.
        """
        for group in self._groups():
            try:
                pieces = [self._piece(place) for place in group]
                yield joined(pieces, composition, policy)
            except LineError as error:
                self.checked.blame(f"line {self._numbers[group[0]]} and others", error)

    def _groups(self) -> Iterator[list[int]]:
        """Which lines belong to each trajectory."""
        digests = np.frombuffer(self._digests, dtype=np.uint64)
        order = np.argsort(digests, kind="stable")
        edges = np.flatnonzero(np.diff(digests[order])) + 1
        firsts = np.concatenate(([0], edges)) if len(order) else edges
        lasts = np.concatenate((edges, [len(order)])) if len(order) else edges
        for which in np.argsort(order[firsts]):
            yield order[firsts[which] : lasts[which]].tolist()

    def _piece(self, place: int) -> Piece:
        self._file.seek(self._offsets[place])
        return parse(self._file.readline(), self._numbers[place])


def _newest(piece: Piece) -> int:
    if piece.whole is not None:
        return max((step.policy_version or 0 for step in piece.whole.transitions), default=0)
    return max(turn.version for turn in piece.turns)


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def _seekable(path: Path) -> IO[bytes]:
    """The file, unpacked to a temporary one where that is needed to find lines again."""
    try:
        if path != STANDARD and path.suffix not in (".gz", ".zst"):
            return path.open("rb")
        descriptor, name = mkstemp(prefix="traffic-")
        os.unlink(name)
        unpacked = os.fdopen(descriptor, "w+b")
        with reading(path) as lines:
            for line in lines:
                unpacked.write(line)
        return unpacked
    except OSError as error:
        raise TrafficError(f"{path} cannot be read: {error.strerror or error}") from error
