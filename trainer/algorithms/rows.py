"""The rows of a round as the GRPO family trains on them: read one by one, with their advantages.

Pure. A row is read from the samples when it is asked for, so that a round may
be larger than memory; what is kept of it are its spans.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.advantages.baseline import Key, key_of
from trainer.batch.grammars import free_tokens
from trainer.batch.merging import Row, Span, merge, saving, tokens_of
from trainer.batch.samples import Sample

SMALLEST_ADVANTAGE = 1e-8


@dataclass(frozen=True, slots=True)
class LoggedSpan:
    """One answer in its row. Logprobs are of its tokens, in nats at temperature 1."""

    start: int
    stop: int
    behaviour: Sequence[float]  # of whoever sampled it
    parent: Sequence[float] | None  # of the version that the round starts from, where known
    advantage: float
    task: int  # its place among `LoggedRows.tasks`
    free: Sequence[bool] | None = None  # which tokens carry loss; None: all

    @property
    def tokens(self) -> int:
        """How many carry loss."""
        return self.stop - self.start if self.free is None else sum(self.free)


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One pass of the model over what was said in a trajectory."""

    token_ids: Sequence[int]
    spans: tuple[LoggedSpan, ...]


EMPTY = LoggedRow((0, 0), ())  # fills a batch that would not be full, and teaches nothing


class LoggedRows(Sequence[LoggedRow]):
    """Samples with their advantages, merged into rows; what has no advantage carries no loss.

    `parent` is the version that the round starts from: what it sampled itself
    was recorded with its own logprobs, unless under a grammar. `computed` are
    those that were not, by sample; of what was said under a grammar, only tokens
    that it left free carry loss from then on.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        advantages: Sequence[float],
        *,
        parent: int,
        is_merged: bool = True,
    ) -> None:
        self._samples = samples
        self._advantages = advantages
        self._parent = parent
        self.computed: dict[int, Sequence[float]] = {}
        kept = [at for at, value in enumerate(advantages) if abs(value) > SMALLEST_ADVANTAGE]
        self._tasks: dict[Key, int] = {}
        self._is_own = bytearray(len(samples))  # recorded with the parent's own logprobs
        self._is_constrained = bytearray(len(samples))
        self._own: Counter[int] = Counter()  # such samples by task
        self._answers: Counter[int] = Counter()  # all samples by task
        rows = merge((self._seen(at) for at in kept), is_on=is_merged)
        self.rows = [_renumbered(row, kept) for row in rows]
        self.saving = saving(rows)
        self.spans = len(kept)
        self.longest = max((row.length for row in rows), default=0)
        self.longest_answer = max((s.stop - s.start for row in rows for s in row.spans), default=0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LoggedRow:  # type: ignore[override]
        row = self.rows[index]
        return LoggedRow(
            tokens_of(row, self._samples), tuple(self._span(span) for span in row.spans)
        )

    @property
    def tasks(self) -> Mapping[Key, int]:
        """(tenant, agent, task) -> its number, from 0."""
        return self._tasks

    @property
    def has_unknown_task(self) -> bool:
        """Whether the parent's logprobs are known of fewer than half of some task's answers."""
        return any(2 * self._own[task] < count for task, count in self._answers.items())

    def is_own(self, sample: int) -> bool:
        """Whether its recorded logprobs are the parent's, who sampled it without a grammar."""
        return bool(self._is_own[sample])

    def is_constrained(self, sample: int) -> bool:
        """Whether a grammar had a say in it."""
        return bool(self._is_constrained[sample])

    @property
    def has_constrained(self) -> bool:
        return any(self._is_constrained)

    def free_share(self) -> float:
        """Of the tokens said under a grammar, the part that it left free, once computed."""
        free = total = 0
        for at, alone in self.computed.items():
            if self.is_constrained(at):
                found = free_tokens(self._samples[at].logprobs, alone)
                free, total = free + sum(found), total + len(found)
        return free / total if total else 1.0

    def _seen(self, at: int) -> Sample:
        sample = self._samples[at]
        task = self._tasks.setdefault(key_of(sample), len(self._tasks))
        is_own = sample.version == self._parent and not sample.is_constrained
        self._is_own[at] = is_own
        self._is_constrained[at] = sample.is_constrained
        self._own[task] += is_own
        self._answers[task] += 1
        return sample

    def _span(self, span: Span) -> LoggedSpan:
        sample = self._samples[span.sample]
        own = sample.logprobs if self.is_own(span.sample) else None
        parent = self.computed.get(span.sample, own)
        free = None
        if sample.is_constrained and parent is not None:
            free = free_tokens(sample.logprobs, parent)
        return LoggedSpan(
            span.start,
            span.stop,
            sample.logprobs,
            parent,
            self._advantages[span.sample],
            self._tasks[key_of(sample)],
            free,
        )


def _renumbered(row: Row, numbers: Sequence[int]) -> Row:
    """A row of some samples, by their places among all."""
    return Row(tuple(Span(numbers[span.sample], span.start, span.stop) for span in row.spans))
