"""The three kinds of judges: what each asks of the model, and which rewards its scores are.

pointwise: one trajectory by a rubric. relative: several trajectories of one
task in one call, as RULER does in OpenPipe's ART: a model that compares is
steadier than one that grades. next_state: each answer by what the user or a
tool said next, as process reward models of agents do.
"""

from collections.abc import Sequence
from typing import Any

from trajectories.ids import derived_id
from trajectories.model import Trajectory
from trajectories.settings import JudgeSettings
from workers.verdicts.chat import (
    Question,
    Score,
    object_schema,
    read_score,
    score_schema,
)
from workers.verdicts.opinions import NoVerdict, Opinion
from workers.verdicts.transcript import (
    answer_block,
    message_block,
    messages_of,
    shortened,
    transcript,
)

RUBRICS = {
    "pointwise": (
        "Did the assistant do what the user needed? Correct and complete is best; a wrong claim, an"
        " invented fact, a needless refusal or a task left undone is bad. Length is no merit."
    ),
    "relative": (
        "A trajectory that reaches its goal is better than one that does not; of two that reach it,"
        " the one with fewer errors and detours is better. Small differences are small in score."
    ),
    "next_state": (
        "What came next shows what the answer was worth: thanks, going on, or a tool result that"
        " was useful speak for it; a correction, the same request again, or an error speak against."
    ),
}
_REASON = {"type": "string"}


def pointwise_question(trajectory: Trajectory, settings: JudgeSettings) -> Question:
    """One score for the whole trajectory."""
    return Question(
        "You read the record of an assistant's work, and score that work as a whole.",
        [transcript(trajectory.transitions, settings.max_characters)],
        object_schema(**_verdict(settings)),
        lambda said: [read_score(said)],
    )


def relative_question(group: Sequence[Trajectory], settings: JudgeSettings) -> Question:
    """One score for each trajectory of a group, all in one call."""
    room = settings.max_characters // len(group)
    return Question(
        f"You read {len(group)} records of an assistant's work on the same task, numbered from 1,"
        " compare them, and score each one.",
        [transcript(trajectory.transitions, room) for trajectory in group],
        _numbered("trajectory", settings),
        lambda said: _read_numbered(said, "trajectory", len(group)),
    )


def next_state_question(pairs: Sequence[tuple[str, str]], settings: JudgeSettings) -> Question:
    """One score, or none, for each answer; `pairs` are answers and what came next."""
    room = settings.max_characters // max(1, len(pairs))
    return Question(
        f"You read {len(pairs)} answers of an assistant, numbered from 1, each with what"
        " the user or a tool said next. Score each answer by what came next; where that"
        " tells nothing of the answer, its score is null.",
        [shortened(f"{answer}\n\nWHAT CAME NEXT\n{later}", room) for answer, later in pairs],
        _numbered("answer", settings, can_abstain=True),
        lambda said: _read_numbered(said, "answer", len(pairs), can_abstain=True),
    )


def next_states(trajectory: Trajectory) -> list[tuple[str, str, str]]:
    """(transition id, its answer, what was said next), where something was.

    What came next are the messages that follow the answer in the next request that
    holds it: a call of another agent in between is not the answer to this one.
    """
    found = []
    turns = trajectory.transitions
    for position, transition in enumerate(turns):
        answer = answer_block(transition)
        if not answer or transition.response_id is None:
            continue
        for later in turns[position + 1 :]:
            blocks = [message_block(message) for message in messages_of(later.request)]
            if answer in blocks:
                after = blocks[len(blocks) - blocks[::-1].index(answer) :]
                said = "\n\n".join(block for block in after if block)
                if said:
                    found.append((transition.id, answer, said))
                break
    return found


def group_of(trajectory: Trajectory) -> str | None:
    """What trajectories that may be compared share: their task, else their first prompt.

    Siblings are compared with each other and the recorded answer, and with nothing else.
    """
    if trajectory.rollout is not None:
        return derived_id("group", "rollout", trajectory.rollout)
    if trajectory.task is not None:
        return derived_id("group", "task", trajectory.agent or "", trajectory.task)
    if not trajectory.transitions:
        return None
    blocks = [message_block(message) for message in messages_of(trajectory.transitions[0].request)]
    return derived_id("group", "prompt", trajectory.agent or "", *blocks)


def opinion_of(score: Score, name: str, transition_id: str | None = None) -> Opinion | None:
    """The reward of a score: [0, 1] becomes [-1, 1]. None when the judge could not tell."""
    if score.value is None:
        return None
    return Opinion(name, 2 * score.value - 1, transition_id, score.reason[:2000], False)


def _verdict(settings: JudgeSettings, *, can_abstain: bool = False) -> dict[str, dict[str, Any]]:
    """A reason first, so that the score follows from it."""
    score = score_schema(can_abstain=can_abstain)
    return {"reason": _REASON, "score": score} if settings.reasons else {"score": score}


def _numbered(name: str, settings: JudgeSettings, *, can_abstain: bool = False) -> dict[str, Any]:
    entry = object_schema(
        **{name: {"type": "integer"}}, **_verdict(settings, can_abstain=can_abstain)
    )
    return object_schema(scores={"type": "array", "items": entry})


def _read_numbered(
    said: dict[str, Any], name: str, count: int, *, can_abstain: bool = False
) -> list[Score]:
    """The scores in order; each number has to be there once."""
    entries = said.get("scores")
    if not isinstance(entries, list):
        raise NoVerdict("garbage", "the reply holds no list of scores")
    by_number: dict[int, Score] = {}
    for entry in entries:
        number = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(number, bool) or not isinstance(number, int):
            raise NoVerdict("garbage", f"a score does not say of which {name} it is")
        if number in by_number:
            raise NoVerdict("garbage", f"{name} {number} was scored twice")
        by_number[number] = read_score(entry, can_abstain=can_abstain)
    if set(by_number) != set(range(1, count + 1)):
        raise NoVerdict("garbage", f"not each of the {count} was scored")
    return [by_number[number] for number in range(1, count + 1)]
