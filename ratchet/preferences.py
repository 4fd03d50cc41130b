"""Preference pairs from recorded traffic, in TRL's conversational form.

Two kinds: a correction (rejected: what was answered, chosen: what should have
been) and one prompt answered more than once with different rewards. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import fsum
from typing import Any

import orjson

from ratchet.chat import answer_of, as_message, clean, messages_of, trained
from trajectories.archive import Archived
from trajectories.model import Feedback, Transition

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer and what it was worth."""

    prompt: list[Row]
    answer: Row
    reward: float
    tools: list[Any]
    trajectory_id: str


def corrected(record: Archived) -> Iterator[Row]:
    """Pairs from corrections."""
    for step, wanted in corrections(record):
        answer = answer_of(step)
        if answer is not None and wanted != [answer]:
            yield _pair(messages_of(step), wanted, [answer], step, record.trajectory.id)


def corrections(record: Archived) -> Iterator[tuple[Transition, list[Row]]]:
    """Each transition that somebody corrected, and the messages it should have been."""
    steps = trained(record)
    by_response = {step.response_id: step for step in steps if step.response_id}
    for vote in record.feedback:
        wanted = _wanted(vote)
        last = steps[-1] if steps else None
        step = by_response.get(vote.response_id) if vote.response_id else last
        if wanted and step is not None:
            yield step, wanted


def judged(record: Archived) -> Iterator[Judged]:
    """Each answer whose own worth is known.

    That is the mean of the votes on it, else, of the last one, the trajectory's reward.
    """
    steps = trained(record)
    last = record.trajectory.transitions[-1].id if record.trajectory.transitions else None
    for step in steps:
        votes = [
            reward.value
            for reward in record.trajectory.rewards
            if reward.transition_id == step.id and reward.source.startswith("feedback:")
        ]
        worth = fsum(votes) / len(votes) if votes else None
        if worth is None and step.id == last:
            worth = record.trajectory.reward
        answer = answer_of(step)
        if worth is not None and answer is not None:
            tools = step.request.get("tools") or []
            yield Judged(messages_of(step), answer, worth, tools, record.trajectory.id)


def prompt_digest(tenant: str, entry: Judged) -> int:
    """64 bits that stand for a prompt of a tenant."""
    text = orjson.dumps([tenant, entry.prompt, entry.tools])
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def preferred(answers: Sequence[Judged]) -> Row | None:
    """The best against the worst answer to one prompt, or None where none was better."""
    best = max(answers, key=lambda entry: entry.reward)
    worst = min(answers, key=lambda entry: entry.reward)
    if best.reward == worst.reward or best.answer == worst.answer:
        return None
    row: Row = {"prompt": best.prompt, "chosen": [best.answer], "rejected": [worst.answer]}
    if best.tools:
        row["tools"] = best.tools
    return row | {"source": "rewards", "trajectory_id": best.trajectory_id}


def _pair(
    prompt: list[Row], chosen: list[Row], rejected: list[Row], step: Transition, name: str
) -> Row:
    row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if tools := step.request.get("tools"):
        row["tools"] = tools
    return row | {"source": "correction", "trajectory_id": name}


def _wanted(vote: Feedback) -> list[Row]:
    """A correction as messages: it may be a text, one message or several."""
    given = vote.correction
    if isinstance(given, str):
        return [{"role": "assistant", "content": given}]
    entries: Iterable[Any] = given if isinstance(given, list) else [given]
    found = [clean(as_message(entry)) for entry in entries if isinstance(entry, dict)]
    return [entry for entry in found if entry["role"] == "assistant"]
