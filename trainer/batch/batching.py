"""Batching: which trajectories a round learns from, and what it says when there are too few.

Reads the store, decides purely, writes batch.jsonl and plan.json. Trajectories
are taken oldest first. Those that can teach nothing under the round's settings
are set aside with the round, so that they do not stand at the head of the
queue for ever. Marking them all as used is left to the run's first phase,
after run.json exists.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

import orjson

from trainer.algorithms.plugins import asks_of
from trainer.batch.caps import Caps, Dropped, dropped_labels, labellers
from trainer.batch.cases import Case, DraftedRows, Drafts, Row, rows_of
from trainer.batch.corrections import corrections_of
from trainer.batch.offers import DRAWS, Log
from trainer.batch.pairs import Pair, answer_of, pairs_among, places_of
from trainer.batch.samples import Correction, Exclusion, Selection
from trainer.durable import write_atomic, write_lines
from trainer.runs import BATCH, PLAN, Plan, RunDirectory
from trajectories.composition import Composition
from trajectories.errors import NotEnoughRewards
from trajectories.model import Trajectory
from trajectories.privacy.learning import personal_check
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

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
    """What was found in the log, sorted out. What is replayed counts for nothing but rows."""

    samples: DraftedRows
    refs: tuple[str, ...]  # trajectories with at least one sample
    set_aside: tuple[str, ...]  # trajectories with none
    excluded: Counter[Exclusion]  # trajectories (without any sample) by their main reason
    left_out: Counter[Exclusion]  # calls and answers, of all trajectories
    reward_sources: Counter[str]
    examined: int
    replayed: tuple[str, ...] = ()  # used before, and once more in this round
    left_over: tuple[str, ...] = ()  # capped, or another agent's: for a later round
    labelled: int = 0  # usable trajectories that somebody voted on
    labellers: Mapping[str, int] = field(default_factory=dict)  # principal -> labels, after caps
    capped: Mapping[str, int] = field(default_factory=dict)  # principal -> labels left out
    pairs: int = 0  # of its samples, where pairs are asked for
    middle: float | None = None  # the reward that parts better ones from worse; None: the mean
    rollouts: int = 0  # of its samples, those that no user got
    is_full: bool = False  # as many were examined as a round may take: there may be more

    def counts(self, threshold: float | None) -> tuple[int, int]:
        """Trajectories above and below `threshold` (None: the mean reward)."""
        rewards = self.samples.parts().values()
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
        middle=asked.middle,
        needs_pairs=asked.needs_pairs,
        with_corrections=asked.with_corrections,
        takes_constrained=asked.takes_constrained,
        cuts_context=asked.takes_windows and settings.trainer.cut_context,
        tenant=settings.policy_tenant,
        is_personal=personal_check(settings),
        agents_off=frozenset(name for name, own in settings.agents.items() if not own.train),
        agent=agent,
        rollout_share=settings.trainer.rollout_share,
        composition=Composition.from_settings(settings.rewards),
        compositions={
            name: Composition.from_settings(settings.rewards, own)
            for name, own in settings.agents.items()
        },
    )


def caps_for(settings: Settings) -> Caps:
    """How much of a round anybody may have."""
    rewards = settings.rewards
    return Caps(
        share=rewards.max_share_per_source,
        least=rewards.min_labels_per_source,
        uncapped=frozenset((*rewards.uncapped_sources, *settings.verdict_sources)),
        ignored=frozenset(rewards.ignored_sources),
    )


def look(
    store: Store, settings: Settings, selection: Selection, versions: Sequence[int] = ()
) -> Batch:
    """Everything trainable now, sorted into samples and exclusions.

    What is replayed is drawn from what `versions` were trained on; what is new
    gets `trainer.max_trajectories` less the share of that.
    """
    log, runs, share = Log.open(store, settings), settings.runs_dir, settings.trainer.replay_share
    sorting = Sorting(selection, caps_for(settings), runs if runs.is_dir() else None)
    most = settings.trainer.most_unused

    def add(ref: TrajectoryRef, trajectory: Trajectory | None, *, is_replayed: bool) -> bool:
        found: Mapping[str, Correction] = {}
        if trajectory is not None and selection.with_corrections:
            found = corrections_of(trajectory, store.votes_on(ref), selection.is_personal)
        return sorting.add(ref, trajectory, is_replayed=is_replayed, corrections=found)

    usable = sum(add(ref, entry, is_replayed=False) for ref, entry in log.unused(selection, most))
    wanted = round(usable * share / (1 - share))
    for ref, trajectory in log.used(selection, versions, DRAWS * wanted):
        if wanted <= 0:
            break
        wanted -= add(ref, trajectory, is_replayed=True)
    batch = sorting.finish()
    return replace(batch, is_full=batch.examined >= most)


def sort_out(
    found: Iterable[tuple[TrajectoryRef, Trajectory | None]],
    selection: Selection,
    caps: Caps = _NO_CAPS,
) -> Batch:
    """Sort trajectories into samples and exclusions."""
    sorting = Sorting(selection, caps)
    for ref, trajectory in found:
        sorting.add(ref, trajectory)
    return sorting.finish()


class Sorting:
    """Sorts trajectories into rows and exclusions, one after another."""

    def __init__(self, selection: Selection, caps: Caps, directory: Path | None = None) -> None:
        """Rows wait on the disk of `directory` until it is known which labels are left out."""
        self._selection = selection
        self._caps = caps
        self._drafts = Drafts(directory)
        self._cases: list[Case] = []
        self._examined = 0
        self._missing: list[str] = []
        self._open = 0

    def add(
        self,
        ref: TrajectoryRef,
        trajectory: Trajectory | None,
        *,
        is_replayed: bool = False,
        corrections: Mapping[str, Correction] | None = None,
    ) -> bool:
        """Look at a trajectory, or at the lack of one; whether anything may be learned from it."""
        self._examined += not is_replayed
        if trajectory is None or not trajectory.is_closed:
            if trajectory is not None:
                self._open += not is_replayed
            elif not is_replayed:
                self._missing.append(str(ref))
            return False
        case = self._drafts.examine(
            str(ref),
            trajectory,
            self._selection,
            is_replayed=is_replayed,
            corrections=corrections,
        )
        if is_replayed and not case.drafts:
            return False
        self._cases.append(case)
        return bool(case.drafts)

    def finish(self) -> Batch:
        """Leave out whose labels are above their share, and say what is left."""
        selection = self._selection
        ours = [case for case in self._cases if case.tenant == selection.tenant]
        dropped = self._dropped(ours)
        worths = [case.worths(selection, dropped.ids) for case in self._cases]
        found = [
            rows_of(case, selection, of, dropped.ids)
            for case, of in zip(self._cases, worths, strict=True)
        ]
        above = self._above_share(found)
        found = [[] if is_above else own for own, is_above in zip(found, above, strict=True)]
        pairs = self._pairs(found) if selection.needs_pairs else []
        kept = self._paired(found, pairs) if selection.needs_pairs else found
        refs: list[str] = []
        replayed: list[str] = []
        set_aside = list(self._missing)
        left_over: list[str] = []
        excluded = Counter({Exclusion.MISSING: len(self._missing), Exclusion.OPEN: self._open})
        left_out: Counter[Exclusion] = Counter()
        sources: Counter[str] = Counter()
        usable: list[Case] = []
        for case, of, every, own, is_above in zip(
            self._cases, worths, found, kept, above, strict=True
        ):
            if case.is_replayed:
                replayed.extend([case.ref] if own else [])
                left_out[Exclusion.ROLLOUTS] += len(case.drafts) if is_above else 0
                continue
            reasons = case.excluded(selection, of)
            main = Exclusion.UNPAIRED if every else main_reason(case, reasons, dropped)
            if is_above:
                main = Exclusion.ROLLOUTS
                reasons[main] += len(case.drafts)
            left_out.update(reasons)
            left_out[Exclusion.UNPAIRED] += len(every) - len(own)
            if own:
                refs.append(case.ref)
                sources.update(
                    reward.source for reward in case.rewards if reward.id not in dropped.ids
                )
            else:
                excluded[main] += 1
                is_left = main in (Exclusion.CAPPED, Exclusion.UNPAIRED) or (
                    main is Exclusion.AGENT_OFF and selection.agent is not None
                )
                (left_over if is_left else set_aside).append(case.ref)
            # Nobody who was asked gave a sibling its label: it counts towards samples alone.
            if (own or main is Exclusion.NOT_POSITIVE) and case.rollout is None:
                usable.append(case)
        return Batch(
            DraftedRows(self._drafts, list(chain.from_iterable(kept))),
            tuple(refs),
            tuple(set_aside),
            +excluded,
            +left_out,
            sources,
            examined=self._examined,
            replayed=tuple(replayed),
            left_over=tuple(left_over),
            labelled=sum(any(labellers([case], dropped.ids)) for case in usable),
            labellers=labellers(usable, dropped.ids),
            capped=_capped([case for case in ours if not case.is_replayed], dropped),
            pairs=len(pairs),
            rollouts=_rollouts(self._cases, kept),
            middle=selection.middle if selection.above is None else selection.above,
        )

    def _above_share(self, found: Sequence[Sequence[Row]]) -> list[bool]:
        """Which cases are siblings beyond their share; a prompt's siblings stay or go together.

        They come in the order of the queue: the oldest stay.
        """
        share = self._selection.rollout_share
        if share >= 1:
            return [False] * len(found)
        of_prompt: Counter[str] = Counter()
        users = 0
        for case, rows in zip(self._cases, found, strict=True):
            if case.rollout is None:
                users += len(rows)
            else:
                of_prompt[case.rollout] += len(rows)
        left = int(users * share / (1 - share) + 1e-9)
        kept: set[str] = set()
        for prompt, rows_of_it in of_prompt.items():
            if rows_of_it <= left:
                kept.add(prompt)
                left -= rows_of_it
        return [
            case.rollout is not None and bool(rows) and case.rollout not in kept
            for case, rows in zip(self._cases, found, strict=True)
        ]

    def _pairs(self, found: Sequence[Sequence[Row]]) -> list[Pair]:
        """Which of all rows stand against each other. Reads them once more."""
        return pairs_among(map(answer_of, DraftedRows(self._drafts, list(chain(*found)))))

    @staticmethod
    def _paired(found: Sequence[Sequence[Row]], pairs: Iterable[Pair]) -> list[list[Row]]:
        """The rows of each case that stand in a pair."""
        places, numbers = places_of(pairs), count()
        return [[row for row in own if next(numbers) in places] for own in found]

    def _dropped(self, ours: Sequence[Case]) -> Dropped:
        """Which labels are left out, by shares of what the round can use and not of all there is.

        SFT uses the successes alone. Its caps are taken twice: of all that has
        samples, so that nobody's votes keep others' successes out, and then of these.
        """
        caps = self._caps
        ignored = dropped_labels(ours, replace(caps, share=1.0)).ignored | _strangers(ours, caps)
        users = [case for case in ours if case.rollout is None]

        def usable(rules: Selection, without: frozenset[str]) -> list[Case]:
            return [case for case in users if case.has_rows(rules, without)]

        rules = replace(self._selection, above=None)
        capped = dropped_labels(usable(rules, ignored), caps).capped
        if self._selection.above is not None:
            without = ignored | capped
            capped |= dropped_labels(usable(self._selection, without), caps, without).capped
        return Dropped(capped, ignored)


def _strangers(cases: Iterable[Case], caps: Caps) -> frozenset[str]:
    """Labels on siblings by others than the house's own judges: nobody else has seen them."""
    return frozenset(
        reward.id
        for case in cases
        for reward in case.rewards
        if case.rollout is not None and reward.principal not in (None, *caps.uncapped)
    )


def _rollouts(cases: Iterable[Case], kept: Iterable[Sequence[Row]]) -> int:
    """How many rows are of siblings."""
    pairs = zip(cases, kept, strict=True)
    return sum(len(rows) for case, rows in pairs if case.rollout is not None)


def main_reason(case: Case, reasons: Counter[Exclusion], dropped: Dropped) -> Exclusion:
    """Why a trajectory has no sample: what left out most of its calls."""
    if not reasons:
        return Exclusion.MISSING
    main = reasons.most_common(1)[0][0]
    if main is not Exclusion.NO_REWARD:
        return main
    if any(reward.id in dropped.capped for reward in case.rewards):
        return Exclusion.CAPPED
    if any(reward.id in dropped.ignored for reward in case.rewards):
        return Exclusion.IGNORED
    return main


def _capped(cases: Sequence[Case], dropped: Dropped) -> dict[str, int]:
    """Principal -> how many labelled trajectories above its share it had."""
    before, after = labellers(cases, dropped.ignored), labellers(cases, dropped.ids)
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
    if shortages := shortages_of(batch, wanted, selection):
        raise Lack(batch, shortages)


def shortages_of(batch: Batch, wanted: Demand, selection: Selection) -> list[Shortage]:
    """What the batch has too little of."""
    above, below = batch.counts(batch.middle)
    usable = len(batch.refs) + batch.excluded[Exclusion.NOT_POSITIVE]
    least = 1 if selection.above is not None else LEAST_SAMPLES
    checks = [
        Shortage("usable rewarded trajectories", usable, wanted.trajectories, "min_trajectories"),
        Shortage("labels", batch.labelled, wanted.labels, "min_labels"),
        Shortage("people who labelled", len(batch.labellers), wanted.principals, "min_principals"),
    ]
    if selection.needs_pairs:
        least = max(1, wanted.per_outcome)
        checks.append(Shortage("preference pairs", batch.pairs, least, "min_per_outcome"))
        return [check for check in checks if check.have < check.needed]
    checks.append(Shortage("better ones", above, wanted.per_outcome, "min_per_outcome"))
    if selection.above is None:
        checks.append(Shortage("worse ones", below, wanted.per_outcome, "min_per_outcome"))
    checks.append(Shortage("samples", len(batch.samples), least))
    return [check for check in checks if check.have < check.needed]


def write_batch(directory: RunDirectory, batch: Batch, plan: Plan) -> None:
    """Put the rows and the plan on disk; they never change after that."""
    write_lines(directory.path / BATCH, batch.samples.lines())
    write_atomic(directory.path / PLAN, orjson.dumps(plan.model_dump(mode="json")))
