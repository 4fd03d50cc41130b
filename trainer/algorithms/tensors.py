"""Logged rows as tensors of shape (B, T), padded on the right.

Padding stands after everything it could be seen from, so that a causal model
needs no attention mask, and positions are those that the engine counted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.algorithms.rows import LoggedRow

IGNORED = -100  # the label of a token without loss


def tensors_of(
    rows: Sequence[LoggedRow], *, fill: int, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """`input_ids`, and for each token: `spans` (0: no loss; k: the row's k-th), `behaviour`,
    `parent` (NaN where nobody knows), `advantages`, `tasks` (from 0).
    """
    shape = len(rows), max(len(row.token_ids) for row in rows)
    input_ids = torch.full(shape, fill, dtype=torch.int64)
    spans = torch.zeros(shape, dtype=torch.int64)
    tasks = torch.zeros(shape, dtype=torch.int64)
    behaviour = torch.zeros(shape, dtype=torch.float32)
    parent = torch.full(shape, torch.nan, dtype=torch.float32)
    advantages = torch.zeros(shape, dtype=torch.float32)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.token_ids)] = torch.tensor(row.token_ids)
        for place, span in enumerate(row.spans, 1):
            at = slice(span.start, span.stop)
            spans[number, at] = place
            if span.free is not None:  # a token that a grammar chose is context
                spans[number, at] *= torch.tensor(span.free)
            tasks[number, at] = span.task
            behaviour[number, at] = torch.tensor(span.behaviour)
            advantages[number, at] = span.advantage
            if span.parent is not None:
                parent[number, at] = torch.tensor(span.parent)
    found = {
        "input_ids": input_ids,
        "spans": spans,
        "behaviour": behaviour,
        "parent": parent,
        "advantages": advantages,
        "tasks": tasks,
    }
    return {name: tensor.to(device) for name, tensor in found.items()}


def labels_of(batch: dict[str, Tensor]) -> Tensor:
    """What the fused head scores: tokens with loss, and no others."""
    return batch["input_ids"].masked_fill(batch["spans"] == 0, IGNORED)
