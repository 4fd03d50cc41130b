"""Merging: calls of one trajectory that go on from each other become one row.

Pure. The fourth call of a conversation repeats the three before it, so training
on each by itself runs the model over the first prompt four times. Where the
prompt of a later call begins with exactly the tokens of an earlier one, prompt
and answer, both share a row: each answer is a span with its own advantage,
behaviour logprobs and age, and all the rest is context without loss. A causal
model sees before each token what it saw then, so the gradient is the same.

Only ids are compared, never text. A client that edits what was said, or a
template that spells it otherwise, starts a row of its own, as does every choice
of a call beyond the one that was gone on from. Rows are as many as there are
ends (calls that nothing goes on from), the fewest there can be.

A row is no longer than its last call, which samples.py held against
`trainer.max_length`: where a trajectory outgrows it, a row ends at a call's
boundary, and what follows is left out or has a window of its own (windows.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.batch.samples import Sample


@dataclass(frozen=True, slots=True)
class Span:
    """Where the answer of one sample stands in its row."""

    sample: int  # its place among the samples
    start: int  # of its first token in the row; so many tokens its prompt has
    stop: int  # after its last one


@dataclass(frozen=True, slots=True)
class Row:
    """One pass of the model: the spans that carry loss, from left to right."""

    spans: tuple[Span, ...]

    @property
    def length(self) -> int:
        return self.spans[-1].stop

    @property
    def context(self) -> int:
        """Tokens before the first one with loss."""
        return self.spans[0].start


@dataclass(frozen=True, slots=True)
class Saving:
    """What merging saved, in tokens that the model runs over."""

    separate: int
    merged: int

    @property
    def share(self) -> float:
        """The part of the tokens that was saved, 0 to 1."""
        return 1 - self.merged / self.separate if self.separate else 0.0


@dataclass(slots=True)
class _Open:
    """A row that may still be gone on from."""

    tokens: tuple[int, ...]
    spans: list[Span]


def merge(samples: Iterable[Sample], *, is_on: bool = True) -> list[Row]:
    """Rows that hold every sample exactly once; the calls of a trajectory lie side by side.

    Reads the samples once, and keeps the tokens of one trajectory at a time.
    With `is_on` false each sample is a row.
    """
    rows: list[list[Span]] = []
    trajectory = ""
    ends: list[_Open] = []
    for number, sample in enumerate(samples):
        start = len(sample.prompt_token_ids)
        span = Span(number, start, start + len(sample.token_ids))
        if sample.trajectory != trajectory:
            trajectory, ends = sample.trajectory, []
        found = _longest(ends, sample.prompt_token_ids) if is_on else None
        if found is None:
            found = _Open((), [])
            rows.append(found.spans)
            ends.append(found)
        found.spans.append(span)
        found.tokens = sample.prompt_token_ids + sample.token_ids
    return [Row(tuple(spans)) for spans in rows]


def tokens_of(row: Row, samples: Sequence[Sample]) -> tuple[int, ...]:
    """All tokens of a row: those of its last call, which says the others again."""
    last = samples[row.spans[-1].sample]
    return last.prompt_token_ids + last.token_ids


def saving(rows: Iterable[Row]) -> Saving:
    """Tokens of the samples by themselves, and of the rows."""
    separate = merged = 0
    for row in rows:
        separate += sum(span.stop for span in row.spans)
        merged += row.length
    return Saving(separate, merged)


def _longest(ends: Sequence[_Open], prompt: tuple[int, ...]) -> _Open | None:
    """The longest row that `prompt` begins with."""
    best: _Open | None = None
    for end in ends:
        length = len(end.tokens)
        if length > len(prompt) or (best is not None and length <= len(best.tokens)):
            continue
        # Most rows that do not match differ in their last token already.
        if prompt[length - 1] == end.tokens[-1] and prompt[:length] == end.tokens:
            best = end
    return best
