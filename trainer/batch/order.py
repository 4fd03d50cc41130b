"""Which rows make up which optimizer step, whatever number of processes shares the work.

A step has `batch_size` rows, chosen by seed and epoch alone. How many
processes there are, and how many passes each of them needs, only decides how
these rows are dealt out; slots that are left over get a blank row, which
carries no loss. So every row is trained on once an epoch, in the same step,
on one CPU and on eight machines: nothing is dropped at the end, and nothing
is repeated to make the numbers come out even, as samplers usually do.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

TOKENS_PER_PASS = 8192  # rows times the longest row, in one forward pass of one process
CHECKPOINTS = 5  # per round


@dataclass(frozen=True, slots=True)
class Shape:
    """How the rows of one optimizer step are laid out."""

    batch: int  # rows of a step
    micro: int  # slots of one forward pass of one process
    passes: int  # forward passes of each process in a step
    processes: int

    @property
    def width(self) -> int:
        """Slots of a step, blanks included."""
        return self.micro * self.passes * self.processes

    def steps(self, rows: int) -> int:
        """Optimizer steps of one epoch over `rows` rows."""
        return -(-rows // self.batch)


def shape_for(rows: int, *, batch_size: int, longest: int, processes: int = 1) -> Shape:
    """The layout for `rows` rows of at most `longest` tokens, with as few blanks as can be.

    `batch_size` counts the rows of all processes together.
    """
    batch = min(batch_size, rows)
    share = -(-batch // processes)
    fitting = max(1, TOKENS_PER_PASS // longest)
    passes = -(-share // fitting)
    return Shape(batch=batch, micro=-(-share // passes), passes=passes, processes=processes)


def checkpoint_steps(rows: int, shape: Shape, epochs: int) -> int:
    """Optimizer steps between two checkpoints."""
    return max(1, shape.steps(rows) * epochs // CHECKPOINTS)


class RowOrder:
    """A sampler: indexes of rows, step after step; `rows` itself is the index of the blank row.

    A loader cuts the stream into runs of `chunk` indexes and deals these to the
    processes in turn. `repeat` yields each step's block several times: TRL's
    GRPO takes a new block every few passes only, while its loader moves on at
    each of them.
    """

    def __init__(self, rows: int, shape: Shape, *, chunk: int, seed: int, repeat: int = 1) -> None:
        self._rows = rows
        self._shape = shape
        self._chunks = shape.width // chunk
        self._chunk = chunk
        self._seed = seed
        self._repeat = repeat
        self._epoch = 0

    @property
    def has_blanks(self) -> bool:
        """Whether the blank row is ever asked for; if not, the last step may be a short one."""
        shape = self._shape
        if shape.width > shape.batch:
            return True
        is_one_piece = self._chunks == 1 and self._repeat == 1
        return not is_one_piece and self._rows % shape.batch > 0

    def set_epoch(self, epoch: int) -> None:
        """Of the order that the next iteration yields."""
        self._epoch = epoch

    def __len__(self) -> int:
        if not self.has_blanks:
            return self._rows * self._repeat
        return self._shape.steps(self._rows) * self._shape.width * self._repeat

    def __iter__(self) -> Iterator[int]:
        for step in self.steps():
            block = self._dealt(step) if self.has_blanks else step
            for _ in range(self._repeat):
                yield from block

    def steps(self) -> Iterator[list[int]]:
        """The rows of each optimizer step of this epoch; the same for any number of processes."""
        order = list(range(self._rows))
        random.Random(self._seed * 1_000_003 + self._epoch).shuffle(order)
        for start in range(0, self._rows, self._shape.batch):
            yield order[start : start + self._shape.batch]

    def _dealt(self, step: list[int]) -> list[int]:
        """The step's rows spread evenly over its chunks, each filled up with blanks."""
        slots: list[int] = []
        for number in range(self._chunks):
            share = step[number :: self._chunks]
            slots += share + [self._rows] * (self._chunk - len(share))
        return slots
