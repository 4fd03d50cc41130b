"""Trajectories to samples: token ids and behaviour logprobs from the log, nothing else.

Pure. Text is never tokenised again (0.3 % of completions would come out
different, and there the logprobs are off by tens of nats). Whatever cannot be
learned from is left out, and each exclusion is counted by its reason. One
sample is one choice of one transition; those that go on from each other come
together in merging.py.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import Field

from trainer.batch.anchors import anchor_of
from trainer.batch.windows import start_of_window
from trainer.batch.worth import Unit, Worth, agent_in, agent_of, said_by_unit, weigh
from trajectories.access import TENANT
from trajectories.choices import taken_choices
from trajectories.composition import FEEDBACK, Composition
from trajectories.model import Choice, Outcome, Record, Trajectory, Transition
from trajectories.sampling import has_ratio, is_only_constrained
from trajectories.survey import is_surveyed, propensity_of


class Exclusion(StrEnum):
    """Why something recorded is not trained on."""

    OPEN = "open"  # something was recorded again since it closed
    NO_REWARD = "no_reward"  # nothing was said and no signal fired
    FOREIGN_MODEL = "foreign_model"  # answered by a model that is not ours to train
    MIXED = "mixed"  # an engine's weights were exchanged while it was answered
    OPTED_OUT = "opted_out"  # the client said no
    OTHER_TENANT = "other_tenant"  # a policy learns from one tenant's traffic only
    PERSONAL = "personal"  # its token ids spell what the scrub would take out
    AGENT_OFF = "agent_off"  # `[agents.NAME] train = false`, or another agent's round
    INCOMPLETE = "incomplete"  # the upstream broke off
    DISCONNECTED = "client_disconnect"  # the client left before the end
    FAILED = "failed"  # there was no answer
    NOT_ALIGNED = "not_aligned"  # token ids and logprobs do not match
    TOO_LONG = "too_long"  # longer than trainer.max_length
    STALE = "stale"  # sampled by too old a version
    NO_RATIO = "no_ratio"  # greedy, cut hard, or a grammar's of old: no importance ratio
    NOT_POSITIVE = "not_positive"  # SFT learns from successes only
    UNPAIRED = "unpaired"  # DPO: nothing to hold it against yet
    ROLLOUTS = "rollouts"  # siblings above trainer.rollout_share
    CAPPED = "capped"  # all that was said of it is above somebody's share of the round
    IGNORED = "ignored_source"  # all that was said of it was said by a source that is ignored
    UNPICKED = "unpicked"  # of several choices none that was taken, nor judged by itself
    MISSING = "missing"  # its record has expired


_OUTCOMES = {
    Outcome.INCOMPLETE: Exclusion.INCOMPLETE,
    Outcome.DISCONNECTED: Exclusion.DISCONNECTED,
    Outcome.FAILED: Exclusion.FAILED,
}


Later = tuple[int, float]  # how many calls later, and a reward


class Correction(Record):
    """What an answer should have been, in words that nobody sampled."""

    messages: tuple[dict[str, Any], ...]  # what was asked
    answer: dict[str, Any]  # the assistant's message
    tools: tuple[Any, ...] = ()
    template: dict[str, Any] = Field(default_factory=dict)  # the call's `chat_template_kwargs`


class Sample(Record):
    """One tokenised training row, as it stands in batch.jsonl."""

    id: str  # transition id and choice index
    trajectory: str  # tenant/id
    tenant: str
    agent: str | None
    task: str | None
    version: int  # the policy version that sampled it
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of the sampler, in nats, at temperature 1
    reward: float  # the final reward of the trajectory, as far as it is this agent's
    is_labelled: bool = True  # somebody voted; False: the reward is AIR's alone
    has_ratio: bool = True  # whether an importance ratio makes sense for all of its tokens
    is_constrained: bool = False  # for those that a grammar left free, and nothing else is wrong
    choice: int | None = None  # which of several, where it has a reward by itself
    step: int = 0  # which call of its trajectory it is, from 0
    calls_to_go: int = 0  # how many calls the trajectory has after it
    anchor: str = ""  # equal for calls that were asked the very same
    outcome: float | None = None  # what was said of the whole trajectory, without AIR
    votes: tuple[Later, ...] = ()  # what was said of this call and of the agent's later ones
    air: tuple[Later, ...] = ()  # what AIR found in this call and in the agent's later ones
    feedback: tuple[str, ...] = ()  # ids of the votes that the reward is made of
    principals: tuple[str, ...] = ()  # who gave them
    correction: Correction | None = None  # only where pairs are asked for
    is_heard: bool = False  # the reward is what people said
    guess: float | None = None  # what judges and programs say of it, without people
    ask: float | None = None  # how likely it was that people would be asked; None: unknown
    is_asked: bool = False  # they were
    cut: int = 0  # tokens of the prompt's left that are not here (trainer.cut_context)
    is_replayed: bool = False  # an earlier round used it too (trainer.replay_share)
    rollout: str | None = None  # no user's: the transition that its trajectory is a sibling of

    @property
    def transition(self) -> str:
        """The id of its call."""
        return self.id.rpartition("/")[0]

    @property
    def part(self) -> str:
        """What one agent did in one trajectory: it counts once, whatever its calls.

        A choice that was judged by itself is a part by itself: of a true group.
        """
        name = self.trajectory if self.agent is None else f"{self.trajectory}#{self.agent}"
        return name if self.choice is None else f"{name}/{self.step}.{self.choice}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What may become a sample under one algorithm and one current version."""

    policy: str
    current: int
    max_length: int
    max_staleness: int | None  # None: any age (SFT)
    needs_ratio: bool  # False: greedy and constrained answers are fine (SFT)
    above: float | None = None  # only trajectories rewarded above this (SFT)
    middle: float | None = None  # parts better from worse trajectories; None: the mean (GRPO)
    needs_pairs: bool = False  # only answers that stand against another, or were corrected (DPO)
    with_corrections: bool = False  # answers come with what they should have been
    takes_constrained: bool = False  # answers under a grammar by the current version
    cuts_context: bool = False  # what is too long loses the left of its prompt, and its ratio
    tenant: str = TENANT  # whose traffic
    is_personal: Callable[[Transition], bool] | None = None  # None: nobody looks
    agents_off: frozenset[str] = frozenset()  # agents that nothing is learned from
    agent: str | None = None  # learn from this one alone
    rollout_share: float = 1.0  # of the samples, at most, are siblings
    composition: Composition = field(default_factory=Composition)
    compositions: Mapping[str, Composition] = field(default_factory=dict)  # of agents that differ

    def composition_of(self, agent: str | None) -> Composition:
        return self.compositions.get(agent or "", self.composition)

    def is_off(self, agent: str | None) -> bool:
        """Whether an agent's calls are left out, while their trajectory serves the others."""
        return agent in self.agents_off or self.agent not in (None, agent)


@dataclass(frozen=True, slots=True)
class Call:
    """What stands in the way of one recorded call, whatever it was worth."""

    id: str
    agent: str | None
    reason: Exclusion | None  # why the whole call is left out
    answers: tuple[Exclusion | None, ...] = ()  # why each of its answers is; None: it may be a row
    units: tuple[Unit, ...] = ()  # by whose worth each answer goes


def calls_of(trajectory: Trajectory, selection: Selection) -> tuple[Call, ...]:
    """Every call of a trajectory and what can be said of it without its worth."""
    calls = []
    taken = taken_choices(trajectory.transitions)
    judged = {
        (reward.transition_id, reward.choice)
        for reward in trajectory.rewards
        if reward.choice is not None and reward.source.startswith(FEEDBACK)
    }
    for transition in trajectory.transitions:
        agent = agent_of(trajectory, transition)
        reason = transition_exclusion(transition, selection)
        if reason is None and selection.is_off(agent):
            reason = Exclusion.AGENT_OFF
        answers: list[Exclusion | None] = []
        units: list[Unit] = []
        for choice in transition.choices if reason is None else ():
            is_judged = (transition.id, choice.index) in judged
            is_taken = taken.get(transition.id, choice.index) == choice.index
            unpicked = None if is_judged or is_taken else Exclusion.UNPICKED
            answers.append(choice_exclusion(transition, choice, selection) or unpicked)
            units.append((agent, transition.id, choice.index) if is_judged else agent)
        calls.append(Call(transition.id, agent, reason, tuple(answers), tuple(units)))
    return tuple(calls)


def samples_of(
    trajectory: Trajectory, selection: Selection, dropped: frozenset[str] = frozenset()
) -> tuple[list[Sample], Counter[Exclusion]]:
    """All samples of one trajectory, and what was left out by reason.

    `dropped` are ids of rewards that this round does without.
    """
    reason = trajectory_exclusion(trajectory, selection)
    if reason is not None:
        return [], Counter((reason,))
    calls = calls_of(trajectory, selection)
    worths = {
        unit: weigh(said, selection.composition_of(agent_in(unit)), dropped)
        for unit, said in said_by_unit(trajectory, units_of(calls)).items()
    }
    samples = list(samples_from(trajectory, calls, worths, selection))
    return samples, exclusions(calls, worths, selection)


def samples_from(
    trajectory: Trajectory,
    calls: Sequence[Call],
    worths: Mapping[Unit, Worth],
    selection: Selection,
) -> Iterator[Sample]:
    """The samples of a trajectory whose calls were looked at."""
    for step, (call, transition) in enumerate(zip(calls, trajectory.transitions, strict=True)):
        if call.reason is not None:
            continue
        for choice, reason, unit in zip(transition.choices, call.answers, call.units, strict=True):
            if reason is None and worth_exclusion(worths[unit], selection) is None:
                is_alone = isinstance(unit, tuple)
                yield _sample(trajectory, step, choice, worths[unit], selection, is_alone=is_alone)


def exclusions(
    calls: Iterable[Call], worths: Mapping[Unit, Worth], selection: Selection
) -> Counter[Exclusion]:
    """How many calls and answers were left out, by reason."""
    found: Counter[Exclusion] = Counter()
    for call in calls:
        if call.reason is not None:
            found[call.reason] += 1
            continue
        for reason, unit in zip(call.answers, call.units, strict=True):
            if (why := reason or worth_exclusion(worths[unit], selection)) is not None:
                found[why] += 1
    return found


def units_of(calls: Iterable[Call]) -> set[Unit]:
    """All by whose worth anything goes."""
    return {unit for call in calls for unit in (call.agent, *call.units)}


def trajectory_exclusion(trajectory: Trajectory, selection: Selection) -> Exclusion | None:
    """Why a whole trajectory is left out, or None."""
    if trajectory.tenant != selection.tenant:
        return Exclusion.OTHER_TENANT
    if trajectory.reward is None:
        return Exclusion.NO_REWARD
    return None


def worth_exclusion(worth: Worth, selection: Selection) -> Exclusion | None:
    """Why an agent's part of a trajectory teaches nothing, or None."""
    if worth.reward is None:
        return Exclusion.NO_REWARD
    if selection.above is not None and worth.reward <= selection.above:
        return Exclusion.NOT_POSITIVE
    return None


def transition_exclusion(transition: Transition, selection: Selection) -> Exclusion | None:
    """Why a whole transition is left out, or None."""
    if transition.policy != selection.policy:
        return Exclusion.FOREIGN_MODEL
    if transition.policy_version is None:
        return Exclusion.MIXED
    if not transition.is_trainable:
        return Exclusion.OPTED_OUT
    if transition.outcome is not Outcome.COMPLETE:
        return _OUTCOMES[transition.outcome]
    if not transition.choices or not transition.prompt_token_ids:
        return Exclusion.NOT_ALIGNED
    # After a rollback, versions of the abandoned branch are as far away as old ones.
    age = abs(selection.current - transition.policy_version)
    if selection.max_staleness is not None and age > selection.max_staleness:
        return Exclusion.STALE
    if selection.needs_ratio and not has_ratio(transition.sampling):
        # Only the version that said it can tell what the grammar took away.
        is_fresh = selection.takes_constrained and age == 0
        if not (is_fresh and is_only_constrained(transition.sampling)):
            return Exclusion.NO_RATIO
    # Last: it is the one check that reads texts.
    if selection.is_personal is not None and selection.is_personal(transition):
        return Exclusion.PERSONAL
    return None


def choice_exclusion(
    transition: Transition, choice: Choice, selection: Selection
) -> Exclusion | None:
    """Why one answer of a usable transition is left out, or None."""
    if choice.finish_reason == "abort":
        return Exclusion.INCOMPLETE
    if not choice.is_aligned:
        return Exclusion.NOT_ALIGNED
    if start_of(transition, choice, selection) is None:
        return Exclusion.TOO_LONG
    return None


def start_of(transition: Transition, choice: Choice, selection: Selection) -> int | None:
    """How many tokens of the prompt are cut away; None where the answer is too long for a row."""
    prompt, answer = len(transition.prompt_token_ids), len(choice.token_ids)
    start = start_of_window(prompt, answer, selection.max_length)
    return start if start == 0 or selection.cuts_context else None


def _sample(
    trajectory: Trajectory,
    step: int,
    choice: Choice,
    worth: Worth,
    selection: Selection,
    *,
    is_alone: bool,
) -> Sample:
    transition = trajectory.transitions[step]
    cut = start_of(transition, choice, selection)
    assert transition.policy_version is not None
    assert cut is not None
    ids = [entry.id for entry in trajectory.transitions]
    return Sample(
        id=f"{transition.id}/{choice.index}",
        trajectory=f"{trajectory.tenant}/{trajectory.id}",
        tenant=trajectory.tenant,
        agent=agent_of(trajectory, transition),
        task=trajectory.task,
        version=transition.policy_version,
        prompt_token_ids=transition.prompt_token_ids[cut:],
        token_ids=choice.token_ids,
        logprobs=choice.logprobs,
        has_ratio=not cut and has_ratio(transition.sampling),
        is_constrained=not cut and is_only_constrained(transition.sampling),
        cut=cut,
        choice=choice.index if is_alone else None,
        step=step,
        calls_to_go=0 if is_alone else len(trajectory.transitions) - 1 - step,
        anchor=anchor_of(transition),
        rollout=transition.rollout,
        ask=propensity_of(trajectory.transitions),
        is_asked=is_surveyed(trajectory.transitions),
        **worth_fields(worth, ids[step:]),
    )


def worth_fields(worth: Worth, ids: Sequence[str]) -> dict[str, Any]:
    """What a sample says of its worth; `ids` are those of its call and of all after it."""
    assert worth.reward is not None
    return {
        "reward": worth.reward,
        "is_labelled": worth.is_labelled,
        "is_heard": worth.is_heard,
        "guess": worth.guess,
        "outcome": worth.outcome,
        "votes": _later(ids, worth.votes),
        "air": _later(ids, worth.air),
        "feedback": tuple(sorted({label.feedback or label.id for label in worth.labels})),
        "principals": tuple(sorted({who for label in worth.labels if (who := label.principal)})),
    }


def _later(ids: Sequence[str], rewards: Mapping[str, float]) -> tuple[Later, ...]:
    """The rewards of these calls, by how much later they came."""
    return tuple((distance, rewards[name]) for distance, name in enumerate(ids) if name in rewards)
