"""Preference pairs from recorded traffic, in TRL's conversational form.

Two kinds: a correction (rejected: what was answered, chosen: what should have
been) and one prompt answered more than once with different rewards. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import fsum
from typing import Any

import orjson

from ratchet.chat import answer_of, answers_taken, as_message, clean, messages_of, trained
from trajectories.archive import Archived
from trajectories.composition import FEEDBACK
from trajectories.model import Feedback, Trajectory, Transition

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer and what it was worth."""

    prompt: list[Row]
    answer: Row
    reward: float
    tools: list[Any]
    trajectory_id: str
    rollout: str | None = None  # no user got it: the call that it is a sibling of


def corrected(record: Archived) -> Iterator[Row]:
    """Pairs from corrections."""
    for step, answer, wanted in corrections(record):
        if answer is not None and wanted != [answer]:
            yield _pair(messages_of(step), wanted, [answer], step, record.trajectory)


def corrections(record: Archived) -> Iterator[tuple[Transition, Row | None, list[Row]]]:
    """Each transition that somebody corrected, what it said, and what it should have said."""
    steps, taken = trained(record), answers_taken(record)
    by_response = {step.response_id: step for step in steps if step.response_id}
    for vote in record.feedback:
        wanted = _wanted(vote)
        last = steps[-1] if steps else None
        step = by_response.get(vote.response_id) if vote.response_id else last
        if wanted and step is not None:
            index = taken.get(step.id) if vote.choice is None else vote.choice
            yield step, answer_of(step, index), wanted


def judged(record: Archived) -> Iterator[Judged]:
    """Each answer whose own worth is known.

    That is the mean of the votes on it, else, of the last one, the trajectory's reward.
    Votes that name no choice are of the one that was taken.
    """
    trajectory, taken = record.trajectory, answers_taken(record)
    last = trajectory.transitions[-1].id if trajectory.transitions else None
    votes: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    for reward in trajectory.rewards:
        if reward.transition_id is not None and reward.source.startswith(FEEDBACK):
            index = taken.get(reward.transition_id) if reward.choice is None else reward.choice
            votes[reward.transition_id, index].append(reward.value)
    for step in trained(record):
        for index in (choice.index for choice in step.choices):
            own = votes.get((step.id, index))
            worth = fsum(own) / len(own) if own else None
            if worth is None and step.id == last and taken.get(step.id) == index:
                worth = trajectory.reward
            answer = answer_of(step, index)
            if worth is not None and answer is not None:
                tools = step.request.get("tools") or []
                yield Judged(
                    messages_of(step), answer, worth, tools, trajectory.id, trajectory.rollout
                )


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
    if rollout := best.rollout or worst.rollout:
        row["rollout"] = rollout
    return row | {"source": "rewards", "trajectory_id": best.trajectory_id}


def _pair(
    prompt: list[Row], chosen: list[Row], rejected: list[Row], step: Transition, of: Trajectory
) -> Row:
    row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if tools := step.request.get("tools"):
        row["tools"] = tools
    if of.rollout is not None:
        row["rollout"] = of.rollout
    return row | {"source": "correction", "trajectory_id": of.id}


def _wanted(vote: Feedback) -> list[Row]:
    """A correction as messages: it may be a text, one message or several."""
    given = vote.correction
    if isinstance(given, str):
        return [{"role": "assistant", "content": given}]
    entries: Iterable[Any] = given if isinstance(given, list) else [given]
    found = [clean(as_message(entry)) for entry in entries if isinstance(entry, dict)]
    return [entry for entry in found if entry["role"] == "assistant"]
