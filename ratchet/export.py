"""Traffic as JSONL, in four forms (docs/archive.md). Rows come one by one: memory stays flat."""

from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

from ratchet.chat import answer_of, answers_taken, conversations, fine_tuning_row, messages_of
from ratchet.preferences import Judged, corrected, corrections, judged, preferred, prompt_digest
from trajectories.archive import Archived

Row = dict[str, Any]
Source = Callable[[], Iterator[Archived]]

TRAJECTORY_SCHEMA = "ratchet.trajectory/1"


class Format(StrEnum):
    """What a line is."""

    TRANSITIONS = "transitions"
    TRAJECTORY = "trajectory"
    OPENAI = "openai"
    PREFERENCE = "preference"


def export_rows(source: Source, form: Format) -> Iterator[Row]:
    """The lines of what `source` yields, each time it is called."""
    if form is Format.PREFERENCE:
        yield from preference_rows(source)
        return
    lines = {
        Format.TRANSITIONS: rows_of,
        Format.TRAJECTORY: trajectory_rows,
        Format.OPENAI: openai_rows,
    }[form]
    for record in source():
        yield from lines(record)


def rows_of(record: Archived) -> Iterator[Row]:
    """One line a transition. `reward` is null where nothing was said: never 0."""
    trajectory = record.trajectory
    for step, transition in enumerate(trajectory.transitions):
        messages = [choice.message for choice in transition.choices]
        yield {
            "agent_id": transition.agent,
            "task": transition.task,
            "input": transition.request.get("messages"),
            "output": messages[0] if len(messages) == 1 else messages,
            "reward": trajectory.reward,
            "timestamp": _time(transition.started_at),
            "trajectory_id": trajectory.id,
            "session_id": trajectory.session_id,
            "rollout": transition.rollout,
            "transition_id": transition.id,
            "response_id": transition.response_id,
            "step": step,
            "policy_version": transition.policy_version,
            "outcome": transition.outcome.value,
            "rewards": [
                {
                    "name": reward.name,
                    "source": reward.source,
                    "value": reward.value,
                    "choice": reward.choice,
                }
                for reward in trajectory.rewards
                if reward.transition_id in (None, transition.id)
            ],
        }


def trajectory_rows(record: Archived) -> Iterator[Row]:
    """One line a trajectory, with everything: `ratchet import` makes the same of it again.

    `messages` and `tools` are those of the last conversation in it, so that
    tools which read chat rows read this too.
    """
    trajectory = record.trajectory
    taken = answers_taken(record)
    said = ((step, answer_of(step, taken.get(step.id))) for step in trajectory.transitions[::-1])
    last, answer = next(((step, answer) for step, answer in said if answer), (None, None))
    yield {
        "schema": TRAJECTORY_SCHEMA,
        "trajectory_id": trajectory.id,
        "tenant": trajectory.tenant,
        "session_id": trajectory.session_id,
        "task": trajectory.task,
        "agent": trajectory.agent,
        "policy": trajectory.policy,
        "policy_versions": record.head()["versions"],
        "rollout": trajectory.rollout,
        "started_at": _time(trajectory.started_at),
        "updated_at": _time(trajectory.updated_at),
        "is_closed": trajectory.is_closed,
        "reward": trajectory.reward,
        "is_labelled": record.is_labelled,
        "messages": [*messages_of(last), answer] if last and answer else [],
        "tools": (last.request.get("tools") or []) if last else [],
        "rewards": [reward.model_dump(mode="json") for reward in trajectory.rewards],
        "breakdown": trajectory.breakdown and trajectory.breakdown.model_dump(mode="json"),
        "feedback": [vote.model_dump(mode="json") for vote in record.feedback],
        "transitions": [step.model_dump(mode="json") for step in trajectory.transitions],
    }


def openai_rows(record: Archived) -> Iterator[Row]:
    """OpenAI's chat fine-tuning format; a correction is a row of its own. Nothing of siblings."""
    if record.trajectory.rollout is not None:
        return
    yield from conversations(record)
    for step, _, wanted in corrections(record):
        sent = [
            {**message, "weight": 0} if message["role"] == "assistant" else message
            for message in messages_of(step)
        ]
        yield fine_tuning_row([*sent, *({**entry, "weight": 1} for entry in wanted)], step)


def preference_rows(source: Source) -> Iterator[Row]:
    """Preference pairs in TRL's form. Reads `source` twice, to find the prompts that recur.

    In memory: 64 bits for each answer whose worth is known, and the answers to prompts
    that recur.
    """
    digests = array("Q")
    for record in source():
        yield from corrected(record)
        digests.extend(prompt_digest(record.trajectory.tenant, entry) for entry in judged(record))
    ordered = sorted(digests)
    recurring = {one for one, other in pairwise(ordered) if one == other}
    del ordered, digests
    if not recurring:
        return
    answers: dict[int, list[Judged]] = {}
    for record in source():
        for entry in judged(record):
            digest = prompt_digest(record.trajectory.tenant, entry)
            if digest in recurring:
                _keep(answers.setdefault(digest, []), entry)
    for found in answers.values():
        if row := preferred(found):
            yield row


def _keep(answers: list[Judged], entry: Judged) -> None:
    """Keep the best and the worst only."""
    answers.append(entry)
    if len(answers) > 2:
        answers.sort(key=lambda one: one.reward)
        del answers[1]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
