"""The policy: a transformer of some twenty thousand weights, and how it is brought up and asked."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.estimator_bench.world import (
    ALL,
    ANSWER_TOKENS,
    END,
    EXAM,
    PAD,
    TASKS,
    VOCABULARY,
    Question,
    lesson,
)

WIDTH, LAYERS, HEADS, LONGEST = 32, 2, 2, 64


class Block(nn.Module):
    """Attention, then a small network, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.mixing = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.between = nn.LayerNorm(WIDTH)
        self.network = nn.Sequential(
            nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH)
        )

    def forward(self, x_btd: Tensor) -> Tensor:
        b, t, d = x_btd.shape
        parts = self.mixing(self.before(x_btd)).view(b, t, 3, HEADS, d // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_btd = x_btd + self.out(seen.transpose(1, 2).reshape(b, t, d))
        return x_btd + self.network(self.between(x_btd))  # type: ignore[no-any-return]


class Brain(nn.Module):
    """Tokens to logits. Positions count from the left; pads stand on the right, unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.after = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens_bt: Tensor) -> Tensor:
        x_btd = self.words(tokens_bt) + self.places.weight[: tokens_bt.shape[1]]
        return self.head(self.after(self.blocks(x_btd)))  # type: ignore[no-any-return]


def bring_up(seed: int, steps: int = 2000, batch: int = 256) -> Brain:
    """A policy that has seen right and wrong answers."""
    torch.manual_seed(seed)
    chance = random.Random(f"school:{seed}")
    brain = Brain()
    optimizer = torch.optim.AdamW(brain.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        questions = [chance.choice(ALL) for _ in range(batch)]
        rows = [question.prompt + lesson(question, chance) for question in questions]
        tokens = padded(rows)
        logits = brain(tokens[:, :-1])
        targets = tokens[:, 1:].clone()
        targets[:, :3] = PAD  # the prompt is not learned
        loss = functional.cross_entropy(
            logits.reshape(-1, VOCABULARY), targets.reshape(-1), ignore_index=PAD
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return brain


def padded(rows: Sequence[Sequence[float]], fill: float = PAD) -> Tensor:
    """Rows of unequal length as one tensor, filled up on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


@dataclass(frozen=True, slots=True)
class Answer:
    """Sampled tokens and the raw logprobs that they had."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def answers(brain: Brain, prompts: Sequence[tuple[int, ...]]) -> list[Answer]:
    """One answer to each prompt, at temperature 1; all prompts of one length."""
    tokens = torch.tensor(prompts)
    start = tokens.shape[1]
    chosen: list[Tensor] = []
    with torch.no_grad():
        for _ in range(ANSWER_TOKENS):
            logprobs = brain(tokens)[:, -1].log_softmax(-1)
            sampled = torch.multinomial(logprobs.exp(), 1)
            chosen.append(logprobs.gather(1, sampled)[:, 0])
            tokens = torch.cat([tokens, sampled], dim=1)
    values = torch.stack(chosen, dim=1).tolist()
    found = []
    for row, logprobs_of_row in zip(tokens[:, start:].tolist(), values, strict=True):
        length = row.index(END) + 1 if END in row else len(row)
        found.append(Answer(tuple(row[:length]), tuple(logprobs_of_row[:length])))
    return found


def chances(brain: Brain, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
    """The exact chance of each answer; all prompts of a length, and all answers, too."""
    tokens = torch.tensor([prompt + answer for prompt, answer in rows])
    start = len(rows[0][0])
    with torch.no_grad():
        logprobs = brain(tokens[:, :-1]).log_softmax(-1)[:, start - 1 :]
    chosen = logprobs.gather(2, tokens[:, start:, None])[..., 0].sum(1)
    return [float(value) for value in chosen.exp()]


def accuracy(brain: Brain, exam: Sequence[Question] = EXAM) -> float:
    """How likely a right answer is, over questions that traffic never asks; no sampling."""
    found = chances(brain, [(question.prompt, question.right) for question in exam])
    return sum(found) / len(found)


def accuracies(brain: Brain) -> list[float]:
    """The same for each task."""
    return [accuracy(brain, [q for q in EXAM if q.task == task]) for task in range(TASKS)]
