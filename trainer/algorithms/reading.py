"""Rows for TRL's trainers that are read from the log when they are asked for.

TRL wants a `datasets.Dataset`, all rows of which are made before the first step;
a round may be larger than memory. So its trainer is made over PLACEHOLDER, and
is given the rows afterwards. Each is made anew whenever a step asks for it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

PLACEHOLDER = Dataset.from_dict({"row": [0]})

Fields = dict[str, Any]


class ReadRows(Sequence[Fields]):
    """`count` rows, each made by `read` from its number."""

    def __init__(self, count: int, read: Callable[[int], Fields]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Fields:  # type: ignore[override]
        return self._read(range(self._count)[index])  # raises IndexError
