"""The rows of a run as they lie on disk: a sequence of samples, each read when it is asked for.

A batch may be larger than memory. What is kept of it is eight bytes for each
row, where its line begins.
"""

import os
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from trainer.batch.samples import Sample

CHUNK_BYTES = 1 << 20


class StoredSamples(Sequence[Sample]):
    """The samples of a batch.jsonl, in their order. The file must not change meanwhile.

    A file that is put in its place changes nothing here: the old one stays open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._edges = _edges(self._descriptor)

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]  # negative ones too; raises IndexError
        start, end = self._edges[at], self._edges[at + 1]
        return Sample.from_json(os.pread(self._descriptor, end - start, start))

    def __iter__(self) -> Iterator[Sample]:
        for at in range(len(self)):
            yield self[at]

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredSamples, (self._path,)


def _edges(descriptor: int) -> "array[int]":
    """Where each line begins, and where the last one ends."""
    edges, at = array("Q", (0,)), 0
    while chunk := os.pread(descriptor, CHUNK_BYTES, at):
        found = chunk.find(b"\n")
        while found >= 0:
            edges.append(at + found + 1)
            found = chunk.find(b"\n", found + 1)
        at += len(chunk)
    if edges[-1] != at:
        edges.append(at)  # a last line without its end
    return edges
