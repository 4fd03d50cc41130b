"""What a round has, what it leaves out and why, as tables for a terminal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from trainer.batch.batching import Batch, Lack
from trainer.batch.merging import Saving, merge, saving
from trainer.batch.reasons import REASONS
from trainer.batch.samples import Exclusion

MOST_NAMES = 10  # of sources and of people


def lacking(lack: Lack) -> Table:
    """What there is, what was left out and why, and what is missing."""
    return trajectories_table(lack.batch, title=str(lack))


def trajectories_table(batch: Batch, *, title: str = "") -> Table:
    """Trajectories: how many are usable, and why the others are not."""
    table = _table(title, "trajectories", "count", "why, and the setting that decides it")
    above, below = batch.counts(batch.middle)
    middle = "the mean" if batch.middle is None else f"{batch.middle:g}"
    table.add_row("closed, rewarded and not used yet", f"{batch.examined:,}", "")
    table.add_row("of these usable", f"{len(batch.refs):,}", "")
    if batch.replayed:
        table.add_row("replayed besides", f"{len(batch.replayed):,}", "trainer.replay_share")
    table.add_row(f"better than {middle}", f"{above:,}", "")
    table.add_row(f"worse than {middle}", f"{below:,}", "")
    table.add_row("that somebody voted on", f"{batch.labelled:,}", "")
    _add_reasons(table, batch.excluded)
    return table


def calls_table(batch: Batch) -> Table:
    """Calls: what becomes a row, what does not, tokens, and what merging saves of them."""
    table = _table("", "calls", "count", "why, and the setting that decides it")
    table.add_row("samples", f"{len(batch.samples):,}", "")
    if batch.rollouts:
        table.add_row("of these siblings, which no user got", f"{batch.rollouts:,}",
                      "trainer.rollout_share")  # fmt: skip
    table.add_row("their tokens, prompts included", f"{batch.samples.tokens:,}", "")
    if batch.samples.cut:
        table.add_row("of these with a part of their context", f"{batch.samples.cut:,}",
                      "the rest was cut from the left: trainer.cut_context")  # fmt: skip
    if batch.samples.constrained:
        table.add_row("of these under a grammar", f"{batch.samples.constrained:,}",
                      "GRPO learns from what it left to the model: docs/inference.md")  # fmt: skip
    saved: Saving = saving(merge(batch.samples))
    table.add_row("tokens when calls that go on are merged", f"{saved.merged:,}",
                  f"{saved.share:.0%} saved")  # fmt: skip
    _add_reasons(table, batch.left_out)
    return table


def labels_table(batch: Batch) -> Table:
    """Who and what the rewards are from, and what the caps leave out."""
    table = _table("", "rewards", "count", "left out by rewards.max_share_per_source")
    kinds: Counter[str] = Counter()
    for source, count in batch.reward_sources.items():
        kinds[":".join(source.split(":")[:2])] += count
    for kind, count in kinds.most_common():
        table.add_row(f"from {kind}", f"{count:,}", "")
    owners = sorted({*batch.labellers, *batch.capped}, key=lambda name: _rank(name, batch))
    for name in owners[:MOST_NAMES]:
        over = batch.capped.get(name, 0)
        table.add_row(f"labels of {name}", f"{batch.labellers.get(name, 0):,}",
                      f"{over:,}" if over else "")  # fmt: skip
    if len(owners) > MOST_NAMES:
        others = owners[MOST_NAMES:]
        kept = sum(batch.labellers.get(name, 0) for name in others)
        over = sum(batch.capped.get(name, 0) for name in others)
        table.add_row(f"labels of {len(others):,} others", f"{kept:,}", f"{over:,}" if over else "")
    return table


def counts_table(title: str, rows: Iterable[tuple[str, float]]) -> Table:
    """Plain counts."""
    table = _table(title, "recorded", "count")
    for name, count in rows:
        table.add_row(name, f"{count:,.0f}")
    return table


def whole(batch: Batch, shortages: Sequence[object], *before: Table) -> RenderableType:
    """All of it, and what is lacking."""
    verdict = "enough for a round"
    if shortages:
        verdict = "too little to learn from: " + "; ".join(map(str, shortages))
    tables = (*before, trajectories_table(batch), calls_table(batch), labels_table(batch))
    return Group(*tables, verdict)


def _add_reasons(table: Table, counts: Mapping[Exclusion, int]) -> None:
    for exclusion, count in Counter(counts).most_common():
        reason = REASONS[exclusion]
        where = f" ({reason.setting})" if reason.setting else ""
        table.add_row(f"left out: {exclusion.value}", f"{count:,}", reason.text + where)


def _rank(name: str, batch: Batch) -> tuple[int, str]:
    return -batch.labellers.get(name, 0) - batch.capped.get(name, 0), name


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column == "count" else "left")
    return table
