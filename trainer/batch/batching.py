"""Batching: which trajectories a round learns from, and what it says when there are too few.

Reads the store, decides purely, writes batch.jsonl and plan.json. Trajectories
are taken oldest first. Those that can teach nothing under the round's settings
are set aside with the round, so that they do not stand at the head of the
queue for ever. Marking them all as used is left to the run's first phase,
after run.json exists.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from trainer.algorithms.plugins import asks_of
from trainer.batch.caps import Caps, Dropped, dropped_labels, labellers
from trainer.batch.samples import Exclusion, Sample, Selection, samples_of
from trainer.durable import write_atomic
from trainer.runs import BATCH, PLAN, Plan, RunDirectory
from trajectories.composition import Composition
from trajectories.errors import NotEnoughRewards, RecordError, ScrubError
from trajectories.model import Trajectory, Transition
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

logger = logging.getLogger(__name__)

LEAST_SAMPLES = 2  # an advantage needs something to compare with
_NO_CAPS = Caps(share=1.0)


@dataclass(frozen=True, slots=True)
class Demand:
    """How much a round needs before it starts."""

    trajectories: int
    per_outcome: int
    labels: int = 0  # trajectories that somebody voted on, after caps
    principals: int = 0  # who gave these labels


@dataclass(frozen=True, slots=True)
class Batch:
    """What was found in the store, sorted out."""

    samples: tuple[Sample, ...]
    refs: tuple[str, ...]  # trajectories with at least one sample
    set_aside: tuple[str, ...]  # trajectories with none
    excluded: Counter[Exclusion]  # trajectories (without any sample) by their main reason
    reward_sources: Counter[str]
    examined: int
    left_over: tuple[str, ...] = ()  # capped, or another agent's: for a later round
    labelled: int = 0  # usable trajectories that somebody voted on
    labellers: Mapping[str, int] = field(default_factory=dict)  # principal -> labels, after caps
    capped: Mapping[str, int] = field(default_factory=dict)  # principal -> labels left out

    def counts(self, threshold: float | None) -> tuple[int, int]:
        """Trajectories above and below `threshold` (None: the mean reward)."""
        rewards = {sample.part: sample.reward for sample in self.samples}.values()
        if not rewards:
            return 0, 0
        middle = sum(rewards) / len(rewards) if threshold is None else threshold
        return sum(r > middle for r in rewards), sum(r < middle for r in rewards)


@dataclass(frozen=True, slots=True)
class Shortage:
    """Something that a round has too little of, and the setting that says so."""

    what: str
    have: int
    needed: int
    setting: str | None = None

    def __str__(self) -> str:
        where = f" (trainer.{self.setting})" if self.setting else ""
        return f"{self.have} of {self.needed} {self.what}{where}"


class Lack(NotEnoughRewards):
    """NotEnoughRewards, with the batch that was too small and what it lacks."""

    def __init__(self, batch: Batch, shortages: Sequence[Shortage]) -> None:
        super().__init__("too little to learn from: " + "; ".join(map(str, shortages)))
        self.batch = batch
        self.shortages = tuple(shortages)


def selection_for(
    settings: Settings, algorithm: str, current: int, agent: str | None = None
) -> Selection:
    """The rules of one round; with `agent` it is about that agent's calls alone.

    Raises AlgorithmError where `algorithm` cannot run.
    """
    asked = asks_of(algorithm, settings.trainer)
    return Selection(
        policy=settings.policy,
        current=current,
        max_length=settings.trainer.max_length,
        max_staleness=asked.max_staleness,
        needs_ratio=asked.needs_ratio,
        above=asked.above,
        tenant=settings.policy_tenant,
        is_personal=personal_check(settings),
        agents_off=frozenset(name for name, own in settings.agents.items() if not own.train),
        agent=agent,
        composition=Composition.from_settings(settings.rewards),
        compositions={
            name: Composition.from_settings(settings.rewards, own)
            for name, own in settings.agents.items()
        },
    )


def personal_check(settings: Settings) -> Callable[[Transition], bool] | None:
    """Whether the scrub would change a call; None: it does not matter. Raises SettingsError."""
    scrubber = Scrubber(settings.privacy.scrub)
    if settings.privacy.train_on_personal or not scrubber.is_on:
        return None

    def is_personal(transition: Transition) -> bool:
        try:
            return scrubber.has_personal(transition)
        except ScrubError as error:
            logger.warning("a call was left out: %s", error, extra={"transition": transition.id})
            return True

    return is_personal


def caps_for(settings: Settings) -> Caps:
    """How much of a round anybody may have."""
    rewards = settings.rewards
    return Caps(
        share=rewards.max_share_per_source,
        least=rewards.min_labels_per_source,
        uncapped=frozenset((*rewards.uncapped_sources, *settings.verdict_sources)),
        ignored=frozenset(rewards.ignored_sources),
    )


def look(store: Store, settings: Settings, selection: Selection) -> Batch:
    """Everything trainable now, sorted into samples and exclusions."""
    refs = store.trainable(settings.policy, settings.trainer.max_trajectories)
    found = [(ref, read(store, ref)) for ref in refs]
    return sort_out(found, selection, caps_for(settings))


def read(store: Store, ref: TrajectoryRef) -> Trajectory | None:
    """A trajectory, or None when it is gone or cannot be read: one must not stop a round."""
    try:
        return store.trajectory(ref)
    except RecordError as error:
        logger.warning("a trajectory was left out: %s", error, extra={"trajectory": str(ref)})
        return None


def sort_out(
    found: Iterable[tuple[TrajectoryRef, Trajectory | None]],
    selection: Selection,
    caps: Caps = _NO_CAPS,
) -> Batch:
    """Sort trajectories into samples and exclusions."""
    pairs = list(found)
    closed = [
        entry
        for ref, entry in pairs
        if entry is not None and entry.is_closed and ref.tenant == selection.tenant
    ]
    selection = _reading_once(selection)
    dropped = _dropped_for(closed, selection, caps)
    samples: list[Sample] = []
    refs: list[str] = []
    set_aside: list[str] = []
    left_over: list[str] = []
    excluded: Counter[Exclusion] = Counter()
    sources: Counter[str] = Counter()
    usable: list[Trajectory] = []
    for ref, trajectory in pairs:
        if trajectory is None:
            excluded[Exclusion.MISSING] += 1
            set_aside.append(str(ref))
            continue
        if not trajectory.is_closed:
            excluded[Exclusion.OPEN] += 1
            continue
        own, reasons = samples_of(trajectory, selection, dropped.ids)
        main = main_reason(trajectory, reasons, dropped)
        if own:
            samples.extend(own)
            refs.append(str(ref))
            sources.update(
                reward.source for reward in trajectory.rewards if reward.id not in dropped.ids
            )
        else:
            excluded[main] += 1
            is_left = main is Exclusion.CAPPED or (
                main is Exclusion.AGENT_OFF and selection.agent is not None
            )
            (left_over if is_left else set_aside).append(str(ref))
        if own or main is Exclusion.NOT_POSITIVE:
            usable.append(trajectory)
    return Batch(
        tuple(samples),
        tuple(refs),
        tuple(set_aside),
        excluded,
        sources,
        examined=len(pairs),
        left_over=tuple(left_over),
        labelled=sum(any(labellers([entry], dropped.ids)) for entry in usable),
        labellers=labellers(usable, dropped.ids),
        capped=_capped(closed, dropped),
    )


def _dropped_for(closed: Sequence[Trajectory], selection: Selection, caps: Caps) -> Dropped:
    """Which labels are left out, by shares of what the round can use and not of all there is.

    SFT uses the successes alone. Its caps are taken twice: of all that has
    samples, so that nobody's votes keep others' successes out, and then of these.
    """
    ignored = dropped_labels(closed, replace(caps, share=1.0)).ignored

    def usable(rules: Selection, without: frozenset[str]) -> list[Trajectory]:
        return [entry for entry in closed if samples_of(entry, rules, without)[0]]

    capped = dropped_labels(usable(replace(selection, above=None), ignored), caps).capped
    if selection.above is not None:
        without = ignored | capped
        capped |= dropped_labels(usable(selection, without), caps, without).capped
    return Dropped(capped, ignored)


def _reading_once(selection: Selection) -> Selection:
    """The same rules, which look through the texts of a call only once."""
    if (check := selection.is_personal) is None:
        return selection
    found: dict[tuple[str, str], bool] = {}

    def is_personal(transition: Transition) -> bool:
        name = (transition.tenant, transition.id)
        if name not in found:
            found[name] = check(transition)
        return found[name]

    return replace(selection, is_personal=is_personal)


def main_reason(trajectory: Trajectory, reasons: Counter[Exclusion], dropped: Dropped) -> Exclusion:
    """Why a trajectory has no sample: what left out most of its calls."""
    if not reasons:
        return Exclusion.MISSING
    main = reasons.most_common(1)[0][0]
    if main is not Exclusion.NO_REWARD:
        return main
    if any(reward.id in dropped.capped for reward in trajectory.rewards):
        return Exclusion.CAPPED
    if any(reward.id in dropped.ignored for reward in trajectory.rewards):
        return Exclusion.IGNORED
    return main


def _capped(trajectories: Sequence[Trajectory], dropped: Dropped) -> dict[str, int]:
    """Principal -> how many labelled trajectories above its share it had."""
    before, after = labellers(trajectories, dropped.ignored), labellers(trajectories, dropped.ids)
    counts = {name: count - after.get(name, 0) for name, count in before.items()}
    return {name: count for name, count in counts.items() if count}


def demand(
    settings: Settings, *, by_interval: bool = False, force: bool = False, principals: int = 0
) -> Demand:
    """What a round needs: everything, only both outcomes, or (forced) next to nothing.

    `principals` is how many labelled anything lately. Half of them are enough,
    and one alone is asked for nobody else.
    """
    trainer = settings.trainer
    if force:
        return Demand(1, 0)
    labels = min(trainer.min_labels, trainer.min_trajectories)
    if by_interval:
        # Some of them voted on: AIR alone teaches not to try (docs/air.md).
        return Demand(1, trainer.min_per_outcome, labels=min(labels, 2 * trainer.min_per_outcome))
    return Demand(
        trainer.min_trajectories,
        trainer.min_per_outcome,
        labels=labels,
        principals=min(trainer.min_principals, (principals + 1) // 2) if principals > 1 else 0,
    )


def require(batch: Batch, wanted: Demand, selection: Selection) -> None:
    """Raise Lack, saying what is missing, unless the batch can teach something."""
    above, below = batch.counts(selection.above)
    usable = len(batch.refs) + batch.excluded[Exclusion.NOT_POSITIVE]
    least = 1 if selection.above is not None else LEAST_SAMPLES
    checks = [
        Shortage("usable rewarded trajectories", usable, wanted.trajectories, "min_trajectories"),
        Shortage("labels", batch.labelled, wanted.labels, "min_labels"),
        Shortage("people who labelled", len(batch.labellers), wanted.principals, "min_principals"),
        Shortage("better ones", above, wanted.per_outcome, "min_per_outcome"),
        Shortage("samples", len(batch.samples), least),
    ]
    if selection.above is None:
        checks.insert(4, Shortage("worse ones", below, wanted.per_outcome, "min_per_outcome"))
    shortages = [check for check in checks if check.have < check.needed]
    if shortages:
        raise Lack(batch, shortages)


def write_batch(directory: RunDirectory, batch: Batch, plan: Plan) -> None:
    """Put the rows and the plan on disk; they never change after that."""
    rows = b"".join(sample.to_json() + b"\n" for sample in batch.samples)
    write_atomic(directory.path / BATCH, rows)
    write_atomic(directory.path / PLAN, orjson.dumps(plan.model_dump(mode="json")))
