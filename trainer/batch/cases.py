"""What is kept in memory of a trajectory while a round is sorted out: all but texts and tokens.

Which labels a round leaves out is known only when all of its trajectories were
seen. So each is read once: its rows are drafted to disk as they would be if
nothing were left out, and what its worth is made of stays here. A draft of
which nothing was left out is a row of the round as it stands, byte by byte.
"""

import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkstemp
from typing import overload

from trainer.batch.samples import (
    Call,
    Correction,
    Exclusion,
    Sample,
    Selection,
    calls_of,
    exclusions,
    samples_from,
    trajectory_exclusion,
    units_of,
    worth_exclusion,
    worth_fields,
)
from trainer.batch.worth import Said, Unit, Worth, agent_in, said_by_unit, weigh
from trajectories.model import Reward, Trajectory

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft:
    """Where a drafted row lies, and what of it counts."""

    offset: int
    length: int  # bytes, without the end of the line
    step: int
    unit: Unit  # by whose worth it goes
    part: str
    tokens: int  # of prompt and answer
    is_cut: bool  # the left of its context is not in it
    is_constrained: bool  # a grammar had a say in it


@dataclass(frozen=True, slots=True)
class Case:
    """One closed trajectory."""

    ref: str
    tenant: str
    id: str
    rewards: tuple[Reward, ...]
    reason: Exclusion | None  # why all of it is left out, whatever was said
    calls: tuple[Call, ...]
    said: Mapping[Unit, Said]
    drafts: tuple[Draft, ...]
    is_replayed: bool = False
    rollout: str | None = None  # the transition that it is a sibling of; None: a user's

    def worths(self, selection: Selection, dropped: frozenset[str]) -> Mapping[Unit, Worth]:
        """What each agent's part is worth without the rewards in `dropped`."""
        return {
            unit: weigh(said, selection.composition_of(agent_in(unit)), dropped)
            for unit, said in self.said.items()
        }

    def has_rows(self, selection: Selection, dropped: frozenset[str]) -> bool:
        """Whether anything can be learned from it without the rewards in `dropped`."""
        worths = self.worths(selection, dropped)
        return any(worth_exclusion(worths[draft.unit], selection) is None for draft in self.drafts)

    def excluded(self, selection: Selection, worths: Mapping[Unit, Worth]) -> Counter[Exclusion]:
        """How many of its calls and answers are left out, by reason."""
        if self.reason is not None:
            return Counter((self.reason,))
        return exclusions(self.calls, worths, selection)


class Drafts:
    """Rows on their way into a batch, in a file that nobody else sees."""

    def __init__(self, directory: Path | None = None) -> None:
        """A file without a name in `directory`, or where temporary files go."""
        self._descriptor, name = mkstemp(dir=directory, prefix="drafts-")
        os.unlink(name)
        weakref.finalize(self, os.close, self._descriptor)
        self._end = 0

    def examine(
        self,
        ref: str,
        trajectory: Trajectory,
        selection: Selection,
        *,
        is_replayed: bool = False,
        corrections: Mapping[str, Correction] | None = None,
    ) -> Case:
        """The case of a closed trajectory; drafts all that may become a row.

        `corrections` are by the id of the sample that they are about.
        """
        reason = trajectory_exclusion(trajectory, selection)
        calls = calls_of(trajectory, selection) if reason is None else ()
        said = said_by_unit(trajectory, units_of(calls))
        worths = {
            unit: weigh(of, selection.composition_of(agent_in(unit))) for unit, of in said.items()
        }
        every = replace(selection, above=None)
        rows = samples_from(trajectory, calls, worths, every) if reason is None else ()
        corrected = corrections or {}
        return Case(
            ref=ref,
            tenant=trajectory.tenant,
            id=trajectory.id,
            rewards=trajectory.rewards,
            reason=reason,
            calls=calls,
            said=said,
            drafts=tuple(
                self._add(
                    row.model_copy(
                        update={"is_replayed": is_replayed, "correction": corrected.get(row.id)}
                    )
                )
                for row in rows
            ),
            is_replayed=is_replayed,
            rollout=trajectory.rollout,
        )

    def read(self, draft: Draft) -> bytes:
        return os.pread(self._descriptor, draft.length, draft.offset)

    def _add(self, row: Sample) -> Draft:
        line = row.to_json()
        os.pwrite(self._descriptor, line, self._end)
        draft = Draft(
            offset=self._end,
            length=len(line),
            step=row.step,
            unit=row.agent if row.choice is None else (row.agent, row.transition, row.choice),
            part=row.part,
            tokens=len(row.prompt_token_ids) + len(row.token_ids),
            is_cut=row.cut > 0,
            is_constrained=row.is_constrained,
        )
        self._end += len(line)
        return draft


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a round: a draft, and what of it has to be said anew."""

    draft: Draft
    changes: Mapping[str, object] | None  # None: it stands as it was drafted
    reward: float


class DraftedRows(Sequence[Sample]):
    """The rows of a round before they are written; each is read when it is asked for."""

    def __init__(self, drafts: Drafts, rows: Sequence[Row]) -> None:
        self._drafts = drafts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._sample(row) for row in self._rows[index]]
        return self._sample(self._rows[index])

    def lines(self) -> Iterator[bytes]:
        """The rows as lines of batch.jsonl, without their ends."""
        for row in self._rows:
            yield (
                self._drafts.read(row.draft) if row.changes is None else self._sample(row).to_json()
            )

    @property
    def tokens(self) -> int:
        """Of prompts and answers, of all rows."""
        return sum(row.draft.tokens for row in self._rows)

    @property
    def cut(self) -> int:
        """Rows that have lost the left of their context."""
        return sum(row.draft.is_cut for row in self._rows)

    @property
    def constrained(self) -> int:
        """Rows that a grammar had a say in."""
        return sum(row.draft.is_constrained for row in self._rows)

    def parts(self) -> Mapping[str, float]:
        """What each agent's part of a trajectory was worth."""
        return {row.draft.part: row.reward for row in self._rows}

    def _sample(self, row: Row) -> Sample:
        sample = Sample.from_json(self._drafts.read(row.draft))
        return sample if row.changes is None else sample.model_copy(update=row.changes)


def rows_of(case: Case, selection: Selection, worths: Mapping[Unit, Worth],
            dropped: frozenset[str]) -> list[Row]:  # fmt: skip
    """The rows of a trajectory in a round that does without the rewards in `dropped`."""
    ids = [call.id for call in case.calls]
    is_changed = any(reward.id in dropped for reward in case.rewards)
    rows = []
    for draft in case.drafts:
        worth = worths[draft.unit]
        if worth.reward is None or worth_exclusion(worth, selection) is not None:
            continue
        changes = worth_fields(worth, ids[draft.step :]) if is_changed else None
        rows.append(Row(draft, changes, worth.reward))
    return rows
