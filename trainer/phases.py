"""What each phase of a run does. Every one may be done twice, so a kill anywhere is harmless.

    collect   rows and plan on disk, then run.json
    train     the trajectories are marked used; a process of its own, this only watches it
    publish   number allocated and remembered, directory renamed into place, registered
    load      gate, then every engine (whole models: the gate alone)
    probe     every engine must answer as the trainer does (whole models are given to it here)
    promote   one Redis transaction

No trajectory is ever in two runs: one trainer holds the lease, a batch is
fixed on disk before its trajectories are marked, and marking is repeated at
every start of the run. A failed run's trajectories stay used: what broke a
round once would break it again, and the rows are still in its batch.jsonl.
Only what was refused before anything was learned, for its settings or its
base, gives them back.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.base import fingerprint, resolve_base
from trainer.batch.batching import Batch, Demand, look, require, selection_for, write_batch
from trainer.batch.samples import Selection
from trainer.delivery.engine import EngineUnavailable
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.publish import Reached, highest_version, publish
from trainer.delivery.swap import Swap
from trainer.delivery.weights import Whole, weights_sha256
from trainer.runs import OPTIMIZER, Phase, Plan, Run, RunDirectory
from trainer.training import Training, last_words
from trajectories.errors import AdapterError, EngineError
from trajectories.registry import Registry
from trajectories.resources import Kind, PolicyVersion, VersionState
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Base:
    """The base model: where its weights are and which ones they are."""

    path: Path
    sha256: str


def find_base(settings: Settings) -> Base:
    """Resolve and fingerprint the base; raises SettingsError."""
    path = resolve_base(settings.trainer.base_model_path)
    return Base(path, fingerprint(path, settings.runs_dir / "base.json"))


def expected_of(settings: Settings, base: Base) -> Expected:
    """What a version must be to get into an engine."""
    is_full = settings.is_full
    return Expected(
        settings.upstream.base_model,
        base.sha256,
        whole=Whole(base.path, settings.trainer.dtype) if is_full else None,
    )


class Phases:
    """Moves one run from phase to phase. `reached` is called after each side effect."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        registry: Registry,
        swap: Swap,
        training: Training,
        base: Base,
        guard: Callable[[], None],
        reached: Reached,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._swap = swap
        self._training = training
        self._base = base
        self._guard = guard  # raises when this trainer may no longer act
        self._reached = reached

    def collect(
        self, run_id: str, algorithm: str, demand: Demand, agent: str | None = None
    ) -> tuple[RunDirectory, Run]:
        """Fix the rows of a new run, of one agent or all; raises Lack when there are too few."""
        snapshot = self._registry.snapshot()
        parent = snapshot.versions[snapshot.current]
        selection = selection_for(self._settings, algorithm, snapshot.current, agent)
        batch = look(self._store, self._settings, selection, tuple(snapshot.versions))
        require(batch, demand, selection)
        directory = RunDirectory(self._settings.runs_dir / run_id)
        directory.claim(self._settings.policy)
        plan = Plan(
            run_id=run_id,
            policy=self._settings.policy,
            algorithm=algorithm,
            base_path=str(self._base.path),
            parent=parent.version,
            parent_path=parent.path,
            optimizer_path=self._optimizer_of(parent),
            trainer=self._settings.trainer,
            refs=batch.refs,
            replayed=batch.replayed,
            rollouts=batch.rollouts,
            set_aside=self._used_up(batch, selection),
            excluded={reason.value: count for reason, count in batch.excluded.items()},
            reward_sources=dict(batch.reward_sources),
            labellers=dict(batch.labellers),
            capped=dict(batch.capped),
        )
        write_batch(directory, batch, plan)
        self._reached("batch_written")
        now = time.time()
        run = Run(
            run_id=run_id,
            policy=self._settings.policy,
            algorithm=algorithm,
            phase=Phase.COLLECTED,
            started_at=now,
            updated_at=now,
            parent=parent.version,
            trajectories=len(batch.refs),
            samples=len(batch.samples),
        )
        self._guard()
        run = directory.write(run)
        self._reached("run_written")
        return directory, run

    def advance(self, directory: RunDirectory, run: Run) -> Run:
        """One step of an unfinished run; returns it unchanged while training goes on.

        Raises EngineUnavailable or RedisError when it has to be tried again.
        """
        step = {
            Phase.COLLECTED: self._train,
            Phase.TRAINED: self._publish,
            Phase.PUBLISHED: self._load,
            Phase.LOADED: self._probe,
            Phase.PROBED: self._promote,
        }[run.phase]
        self._guard()
        run = step(directory, run)
        if run.phase is Phase.FAILED:
            directory.clear(is_failed=True)
        return run

    def resume(self, directory: RunDirectory) -> None:
        """Repeat what a kill may have cut off right after the run was written."""
        self._mark_used(directory.plan())

    def _used_up(self, batch: Batch, selection: Selection) -> tuple[str, ...]:
        """What goes with a round besides its rows; what it left over goes when room is needed."""
        if batch.is_full and selection.agent is None:
            return batch.set_aside + batch.left_over
        return batch.set_aside

    def set_aside(self, refs: Iterable[str]) -> None:
        """Take trajectories out of every later round."""
        self._store.mark_used(self._settings.policy, (TrajectoryRef.parse(ref) for ref in refs))

    def _train(self, directory: RunDirectory, run: Run) -> Run:
        result = directory.result()
        if result is None and self._training.is_started:
            status = self._training.poll()
            if status is None:
                return run
            result = directory.result()
            if result is None:
                logger.warning("training ended with %s and no result", status)
                return self._died(directory, run, status)
        if result is None:
            # Not in collect: were Redis away there, the run would be on disk and unknown.
            self._mark_used(directory.plan())
            self._reached("marked_used")
            run = directory.write(run, attempts=run.attempts + 1)
            self._training.start(directory)
            self._reached("training_started")
            return run
        self._training.stop()
        if not result.is_trained and not result.is_tried:
            refs = map(TrajectoryRef.parse, directory.plan().refs)
            self._store.give_back(run.policy, refs)
        if not result.is_trained:
            return directory.write(run, phase=Phase.FAILED, reason=result.reason)
        self._reached("trained")
        return directory.write(run, phase=Phase.TRAINED, metrics=result.metrics, notes=result.notes)

    def _died(self, directory: RunDirectory, run: Run, status: int) -> Run:
        """The process left no result: start it again from the same rows, a few times."""
        if run.attempts < MAX_ATTEMPTS:
            return run
        reason = f"the training process died {run.attempts} times, last with status {status}"
        words = last_words(directory)
        return directory.write(
            run, phase=Phase.FAILED, reason=f"{reason}: {words}" if words else reason
        )

    def _publish(self, directory: RunDirectory, run: Run) -> Run:
        if run.version is None:
            floor = highest_version(self._settings.adapters_dir, run.policy) + 1
            run = directory.write(run, version=self._registry.allocate(floor))
            self._reached("version_allocated")
        assert run.version is not None
        path = publish(
            directory.trained,
            self._settings.adapters_dir.resolve(),
            plan=directory.plan(),
            version=run.version,
            base_model=self._settings.upstream.base_model,
            base_sha256=self._base.sha256,
            metrics=run.metrics,
            reached=self._reached,
        )
        plan = directory.plan()
        refs = (TrajectoryRef.parse(ref) for ref in (*plan.refs, *plan.replayed))
        self._store.note_trained(run.policy, run.version, refs)
        run = run.model_copy(update={"model": path.name, "path": str(path)})
        try:
            manifest = check_adapter(path, self._expected())
        except AdapterError as error:
            return self._reject(directory, run, str(error))
        self._registry.add(
            self._entry(run).model_copy(
                update={
                    "sha256": weights_sha256(manifest.files),
                    "created_at": manifest.created_at,
                }
            )
        )
        self._reached("registered")
        return directory.write(run, phase=Phase.PUBLISHED)

    def _load(self, directory: RunDirectory, run: Run) -> Run:
        try:
            self._swap.load(self._entry(run))
        except (AdapterError, EngineError) as error:
            return self._reject_or_wait(directory, run, error)
        self._reached("loaded")
        return directory.write(run, phase=Phase.LOADED)

    def _probe(self, directory: RunDirectory, run: Run) -> Run:
        try:
            worst = self._swap.prove(self._entry(run))
        except (AdapterError, EngineError) as error:
            return self._reject_or_wait(directory, run, error)
        self._reached("probed")
        metrics = {**run.metrics, "probe_error": worst}
        return directory.write(run, phase=Phase.PROBED, metrics=metrics)

    def _promote(self, directory: RunDirectory, run: Run) -> Run:
        assert run.version is not None
        snapshot = self._registry.snapshot()
        known = snapshot.versions.get(run.version)
        if known is not None and known.promoted_at is not None:
            # Killed right after the promotion; a rollback since then stands.
            return directory.write(run, phase=Phase.PROMOTED)
        if snapshot.current != run.parent:
            now = snapshot.current
            reason = f"it started from version {run.parent}, but version {now} serves by now"
            return self._reject(directory, run, reason)
        try:
            self._swap.ensure(self._entry(run))
        except (AdapterError, EngineError) as error:
            return self._reject_or_wait(directory, run, error)
        self._guard()
        self._registry.add(self._entry(run))  # Redis may have lost it since
        self._swap.promote(run.version, metrics=run.metrics)
        self._reached("promoted")
        return directory.write(run, phase=Phase.PROMOTED)

    def _reject_or_wait(self, directory: RunDirectory, run: Run, error: Exception) -> Run:
        """An engine that is away is waited for; one that says no, or serves wrong, rejects."""
        if isinstance(error, EngineUnavailable):
            raise error
        return self._reject(directory, run, str(error))

    def _reject(self, directory: RunDirectory, run: Run, reason: str) -> Run:
        self._registry.add(self._entry(run))  # also what failed before it was registered
        assert run.version is not None
        self._swap.reject(run.version, reason)
        self._reached("rejected")
        return directory.write(run, phase=Phase.REJECTED, reason=reason)

    def _entry(self, run: Run) -> PolicyVersion:
        assert run.version is not None
        assert run.model is not None
        return PolicyVersion(
            policy=run.policy,
            version=run.version,
            model=run.model,
            state=VersionState.CANDIDATE,
            kind=Kind(self._settings.trainer.weights),
            path=run.path,
            parent=run.parent,
            run_id=run.run_id,
            created_at=run.updated_at,
            metrics=run.metrics,
        )

    def _expected(self) -> Expected:
        expected = expected_of(self._settings, self._base)
        if expected.whole is not None:
            return expected
        return replace(
            expected,
            rank=self._settings.trainer.rank,
            target_modules=frozenset(self._settings.trainer.target_modules),
        )

    def _mark_used(self, plan: Plan) -> None:
        self.set_aside((*plan.refs, *plan.set_aside))

    def _optimizer_of(self, parent: PolicyVersion) -> str | None:
        if parent.run_id is None:
            return None
        path = RunDirectory(self._settings.runs_dir / parent.run_id).trained / OPTIMIZER
        return str(path.resolve()) if path.is_file() else None
