"""Lines of token-level traffic (docs/traffic-format.md) to trajectories. Pure.

A line is one call, one trajectory with its calls as `turns`, or a trajectory
as `ratchet export --format trajectory` writes it. Names are those that TRL's
maintainers propose for captured turns (huggingface/trl#5974), and ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, Field, ValidationError

from trajectories.composition import Composition, compose
from trajectories.ids import derived_id
from trajectories.lines import LineError, row_of
from trajectories.model import (
    Choice,
    FiniteFloat,
    Record,
    Reward,
    RewardValue,
    Sampling,
    Trajectory,
    Transition,
)

MAX_LINE_BYTES = 256 << 20
FILE = "file"  # who gave a reward that names nobody


class Given(Record):
    """A reward that says who gave it."""

    value: RewardValue
    name: str = "reward"
    source: str = FILE


class Turn(Record):
    """One call: what the engine was given, what it answered, and how likely that was."""

    prompt_token_ids: tuple[int, ...] = Field(
        validation_alias=AliasChoices("prompt_token_ids", "prompt_ids"), min_length=1
    )
    token_ids: tuple[int, ...] = Field(
        validation_alias=AliasChoices("token_ids", "completion_token_ids", "completion_ids"),
        min_length=1,
    )
    logprobs: tuple[FiniteFloat, ...] | None = Field(
        None, validation_alias=AliasChoices("logprobs", "completion_logprobs")
    )
    version: int = Field(
        0, ge=0, validation_alias=AliasChoices("version", "model_version", "policy_version")
    )
    step: int | None = None
    agent: str | None = Field(None, validation_alias=AliasChoices("agent", "agent_id"))
    step_reward: RewardValue | None = None
    sampling: Sampling = Sampling()
    finish_reason: str | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None


class Head(Record):
    """What a line says of its trajectory."""

    trajectory_id: str | None = None
    session_id: str | None = None
    task: str | None = None
    agent: str | None = Field(None, validation_alias=AliasChoices("agent", "agent_id"))
    reward: RewardValue | None = None
    source: str = FILE
    rewards: tuple[Given, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one line holds of a trajectory."""

    name: str
    head: Head
    turns: tuple[Turn, ...] = ()
    whole: Trajectory | None = None  # as ratchet export wrote it


def parse(line: bytes, number: int) -> Piece:
    """What a line says. Raises LineError."""
    row = row_of(line, most_bytes=MAX_LINE_BYTES)
    try:
        if isinstance(row.get("transitions"), list):
            return _exported(row)
        return _captured(row, number)
    except ValidationError as error:
        raise LineError(_in_words(error)) from error


def _exported(row: dict[str, Any]) -> Piece:
    name = row.get("trajectory_id")
    if not isinstance(name, str) or not name:
        raise LineError("trajectory_id: a trajectory with `transitions` needs one")
    kept = ("session_id", "task", "agent", "policy", "reward", "breakdown", "rewards")
    fields = {field: row[field] for field in (*kept, "transitions") if row.get(field) is not None}
    whole = Trajectory.model_validate(
        {"id": name, "started_at": 0.0, "updated_at": 0.0, "is_closed": True, **fields}
    )
    if not whole.transitions:
        raise LineError("transitions: there are none")
    return Piece(name, Head(), whole=whole)


def _captured(row: dict[str, Any], number: int) -> Piece:
    turns = row.get("turns")
    if turns is None:
        turns = [row]
    elif not isinstance(turns, list) or not turns:
        raise LineError("turns: not a list with at least one call in it")
    head = Head.model_validate(row)
    found = tuple(Turn.model_validate(turn) for turn in turns)
    for at, turn in enumerate(found):
        if turn.logprobs is not None and len(turn.logprobs) != len(turn.token_ids):
            where = f"turns.{at}.logprobs" if "turns" in row else "logprobs"
            raise LineError(
                f"{where}: {len(turn.logprobs)} for {len(turn.token_ids)} token ids: write one for"
                " each sampled token, the end token included, or leave logprobs out"
            )
    name = head.trajectory_id or head.session_id or f"line-{number}"
    return Piece(name, head, found)


def joined(pieces: Sequence[Piece], composition: Composition, policy: str) -> Trajectory:
    """The trajectory that these lines are. Raises LineError where they contradict each other."""
    name = pieces[0].name
    if pieces[0].whole is not None:
        if len(pieces) > 1:
            raise LineError(f"trajectory {name} is there twice: leave one of them out")
        return pieces[0].whole
    if any(piece.whole is not None for piece in pieces):
        raise LineError(f"trajectory {name} is there twice: leave one of them out")
    said = {piece.head.reward for piece in pieces if piece.head.reward is not None}
    if len(said) > 1:
        low, high = min(said), max(said)
        raise LineError(
            f"trajectory {name} has the rewards {low} and {high}: `reward` is that of the"
            " whole, say what one call was worth as `step_reward`"
        )
    turns = [turn for piece in pieces for turn in piece.turns]
    steps = [turn.step for turn in turns if turn.step is not None]
    if steps and (len(steps) < len(turns) or len(set(steps)) < len(steps)):
        raise LineError(
            f"trajectory {name}: give each of its calls a `step` of its own, or none a step"
        )
    turns.sort(key=lambda turn: turn.step or 0)
    head = pieces[0].head
    transitions = tuple(
        _transition(turn, name, at, head=head, policy=policy) for at, turn in enumerate(turns)
    )
    rewards = _rewards(pieces, turns, transitions)
    final = next(iter(said), None)
    if final is None:
        final = compose(rewards, composition).final
    return Trajectory(
        id=name,
        session_id=head.session_id,
        task=next((piece.head.task for piece in pieces if piece.head.task), None),
        agent=head.agent,
        policy=policy,
        started_at=0.0,
        updated_at=float(len(turns)),
        is_closed=True,
        labels="closed",
        reward=final,
        transitions=transitions,
        rewards=rewards,
    )


def _transition(turn: Turn, name: str, at: int, *, head: Head, policy: str) -> Transition:
    request: dict[str, Any] = {"messages": turn.messages} if turn.messages else {}
    if turn.tools:
        request["tools"] = turn.tools
    return Transition(
        id=derived_id("tr", name, str(at)),
        trajectory_id=name,
        session_id=head.session_id,
        task=head.task,
        agent=turn.agent or head.agent,
        gateway=FILE,
        started_at=float(at),
        latency_seconds=0.0,
        request=request,
        policy=policy,
        policy_version=turn.version,
        model=policy,
        sampling=turn.sampling,
        prompt_token_ids=turn.prompt_token_ids,
        choices=(
            Choice(
                token_ids=turn.token_ids,
                logprobs=turn.logprobs or (),
                finish_reason=turn.finish_reason,
            ),
        ),
    )


def _rewards(
    pieces: Sequence[Piece], turns: Sequence[Turn], transitions: Sequence[Transition]
) -> tuple[Reward, ...]:
    """All that was said, each with who said it."""
    name = pieces[0].name
    found: list[Reward] = []

    def add(value: float, source: str, word: str = "reward", of: str | None = None) -> None:
        found.append(
            Reward(
                id=derived_id("rw", name, str(len(found))),
                trajectory_id=name,
                transition_id=of,
                name=word,
                source=f"feedback:code:{source}",
                value=value,
            )
        )

    whole = next((piece.head for piece in pieces if piece.head.reward is not None), None)
    if whole is not None and whole.reward is not None and not whole.rewards:
        add(whole.reward, whole.source)
    for piece in pieces:
        for given in piece.head.rewards:
            add(given.value, given.source, given.name)
    for turn, transition in zip(turns, transitions, strict=True):
        if turn.step_reward is not None:
            add(turn.step_reward, pieces[0].head.source, "step", transition.id)
    return tuple(found)


def _in_words(error: ValidationError) -> str:
    issue = error.errors()[0]
    where = ".".join(str(part) for part in issue["loc"]) or "line"
    if issue["type"] == "missing":
        return f"{where}: there is none; every call needs prompt_token_ids and token_ids"
    if "reward" in where and issue["type"] in ("less_than_equal", "greater_than_equal"):
        return f"{where}: not from -1 to 1: scale the rewards of the file"
    return f"{where}: {issue['msg']}"
