"""The outer loop of one policy: one run at a time, for ever (several policies: rota.py).

Each cycle: the engines are brought in step with the registry, an unfinished
run goes one phase on, versions that nobody uses leave, a trigger is served,
and a round is started when there is enough to learn from. Everything it knows
is in Redis and in the run directories, so that it can be killed anywhere.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from redis import Redis, RedisError

from trainer import status
from trainer.algorithms.plugins import AlgorithmError, installed
from trainer.batch.batching import Demand, Lack, demand
from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.full_swap import FullSwap
from trainer.delivery.publish import Reached
from trainer.delivery.shelf import Shelf
from trainer.delivery.swap import Swap
from trainer.phases import Base, Phases, expected_of
from trainer.runs import Phase, Run, RunDirectory, all_runs, announce, sweep
from trainer.status import Board, Pulse
from trainer.training import Training
from trainer.turn import Turn
from trajectories import keys
from trajectories.errors import RatchetError
from trajectories.ids import new_id
from trajectories.lease import Lease, LeaseLost
from trajectories.registry import Registry
from trajectories.settings import Settings
from trajectories.settings.trainer import joined
from trajectories.store import Store

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RECONCILE_SECONDS = 2.0
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
LACK_SECONDS = 5.0  # how long a batch that was too small is not looked at again
LOOKS_SHARE = 10.0  # and at least this many times as long as the look took
PAUSE_SECONDS = 60.0  # after a failed run; doubled for each further one
LONGEST_PAUSE_SECONDS = 3600.0

_STATES = {
    Phase.COLLECTED: status.TRAINING,
    Phase.TRAINED: status.PUBLISHING,
    Phase.PUBLISHED: status.PROMOTING,
    Phase.LOADED: status.PROMOTING,
    Phase.PROBED: status.PROMOTING,
}


def _nothing(_: str) -> None:
    """The default of `reached`: tests put a crash there."""


def make_swap(
    settings: Settings,
    base: Base,
    engines: Sequence[Engine],
    registry: Registry,
    others: Sequence[Registry],
    guard: Callable[[], None],
    clock: Callable[[], float],
) -> Swap:
    """What brings versions into the engines: adapters beside each other, or one whole model."""
    trainer = settings.trainer
    if settings.is_full:
        return FullSwap(
            engines,
            registry,
            expected=expected_of(settings, base),
            drain_seconds=trainer.drain_seconds,
            pause_seconds=trainer.pause_seconds,
            shelf=Shelf(settings.runs_dir, settings.adapters_dir, trainer.full_kept),
            probe_tolerance=trainer.probe_tolerance,
            guard=guard,
            clock=clock,
        )
    return Swap(
        engines,
        registry,
        expected=expected_of(settings, base),
        drain_seconds=trainer.drain_seconds,
        others=others,
        slots=settings.adapter_slots,
        probe_tolerance=trainer.probe_tolerance,
        clock=clock,
    )


class Loop:
    """The trainer. Use as a context manager: it holds the lease while entered.

    One that stepped down, or could not be entered, may be entered again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        redis: Redis,
        base: Base,
        training: Training | None = None,
        turn: Turn | None = None,
        neighbours: Sequence[str] = (),
        reached: Reached = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settings` are the policy's own (`Settings.for_policy`); `neighbours` are the other
        policies in the same engines, and `turn` is shared with those in this process."""
        self._settings = settings
        self.policy = settings.policy
        self._turn = turn or Turn()
        self._redis = redis
        self._clock = clock
        self._store = Store(redis)
        self._registry = Registry(redis, settings.policy, settings.upstream.base_model)
        self._lease = Lease(redis, keys.lease(settings.policy))
        self._engines = [
            Engine(url, api_key=settings.upstream.api_key) for url in settings.upstream.engines
        ]
        others = [Registry(redis, name, settings.upstream.base_model) for name in neighbours]
        self._swap = make_swap(
            settings, base, self._engines, self._registry, others, self._lease.check, clock
        )
        self._training = training or Training()
        self._phases = Phases(
            settings,
            store=self._store,
            registry=self._registry,
            swap=self._swap,
            training=self._training,
            base=base,
            guard=self._lease.check,
            reached=reached,
        )
        self.board = Board(installed())
        self._pulse = Pulse(
            redis,
            settings.policy,
            board=self.board,
            lease=self._lease,
            needed=settings.trainer.min_trajectories,
        )
        self._directory: RunDirectory | None = None
        self._run: Run | None = None
        self._backoff_seconds = 0.0
        self._retry_at = float("-inf")
        self._reconcile_at = float("-inf")
        self._look_at = float("-inf")
        self._paused_until = float("-inf")
        self._failures = 0
        self._round_at = clock()

    def __enter__(self) -> "Loop":
        self._lease.acquire()
        try:
            self._swap.check()
            self._resume()
        except BaseException:
            self._lease.release()
            raise
        self._pulse.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.step_down()
        for engine in self._engines:
            engine.close()

    def step_down(self) -> None:
        """End the training process, let the others have their turn, give the lease back."""
        self._training.stop()
        self._turn.give_back(self.policy)
        self._pulse.__exit__()
        try:
            self._lease.check()
            self._pulse.publish()  # where it stands, for those who look right after the end
            self._lease.release()
        except (LeaseLost, RedisError) as error:
            logger.warning("the last status was not stored: %s", error)

    def run(self, stop: threading.Event) -> None:
        """Cycle until `stop` is set. Raises LeaseLost, and nothing else."""
        while not stop.is_set():
            self.guarded_cycle()
            stop.wait(TICK_SECONDS)

    def run_once(
        self, stop: threading.Event, *, force: bool = False, agent: str | None = None
    ) -> Run | None:
        """One round to its end: an unfinished one, else a new one. None when stopped.

        Raises NotEnoughRewards when there is too little to learn from.
        """
        if self._run is None:
            wanted = self._demand(force=force)
            self._begin(new_id("run"), self._settings.trainer.algorithm, wanted, agent)
        assert self._run is not None
        run_id = self._run.run_id
        while not stop.is_set():
            self.guarded_cycle(is_starting=False)
            last = self.board.last_run
            if self._run is None and last is not None and last.run_id == run_id:
                return last
            stop.wait(TICK_SECONDS)
        return None

    def guarded_cycle(self, *, is_starting: bool = True) -> None:
        """One cycle that outlives everything but a lost lease."""
        if self._clock() < self._retry_at:
            return
        try:
            self.cycle(is_starting=is_starting)
            if self._backoff_seconds:
                self._backoff_seconds, self.board.note = 0.0, ""
        except LeaseLost:
            raise
        except (EngineUnavailable, RedisError) as error:
            self._wait(str(error))
        except Exception as error:  # the trainer outlives one bad cycle; the run stays in its phase
            logger.exception("a cycle failed")
            self._wait(f"{type(error).__name__}: {error}")

    def cycle(self, *, is_starting: bool = True) -> None:
        """Reconcile, go on with the run, retire, serve a trigger, start a round."""
        self._lease.check()
        if self._clock() >= self._reconcile_at:
            self._reconcile_at = self._clock() + RECONCILE_SECONDS
            self.board.trouble = "; ".join(self._swap.reconcile())
        self._swap.retire()
        if is_starting:
            self._serve_trigger()
        if self._run is not None:
            if self._turn.take(self.policy):
                self._advance()
        elif is_starting:
            self._start_if_due()
        self._show()

    # -- the run -------------------------------------------------------------------

    def _resume(self) -> None:
        """Find what a kill left: rubbish, an unannounced end, an unfinished run."""
        self._directory = self._run = self.board.run = self.board.run_path = None
        self.board.state = status.COLLECTING
        self._settings.runs_dir.mkdir(parents=True, exist_ok=True)
        sweep(self._settings.runs_dir, self.policy)
        for directory in all_runs(self._settings.runs_dir):
            run = directory.read()
            if run.policy != self._settings.policy:
                continue
            if run.is_finished:
                self.board.last_run = run
                continue
            self._phases.resume(directory)
            self._set_run(directory, run)
        if self.board.last_run is not None:
            announce(self._redis, self.board.last_run)

    def _demand(self, *, by_interval: bool = False, force: bool = False) -> Demand:
        principals = self._store.count_labellers(self._settings.policy)
        return demand(self._settings, by_interval=by_interval, force=force, principals=principals)

    def _begin(self, run_id: str, algorithm: str, wanted: Demand, agent: str | None = None) -> None:
        directory, run = self._phases.collect(run_id, algorithm, wanted, agent)
        self._turn.take(self.policy)
        logger.info(
            "a round starts: %d trajectories, %d samples",
            run.trajectories,
            run.samples,
            extra={"run": run_id},
        )
        self._round_at = self._clock()
        self.board.note = ""
        self.board.lacking = []
        self._set_run(directory, run)

    def _advance(self) -> None:
        assert self._directory is not None
        assert self._run is not None
        run = self._run
        if not run.is_finished:  # else Redis went away while its end was being told
            run = self._phases.advance(self._directory, run)
            self._set_run(self._directory, run)
        if not run.is_finished:
            return
        announce(self._redis, run)
        self._pause_after(run)
        logger.info("the run ended: %s %s", run.phase.value, run.reason, extra={"run": run.run_id})
        self.board.last_run = run
        self._directory = self._run = self.board.run = self.board.run_path = None
        self._turn.give_back(self.policy)

    def _set_run(self, directory: RunDirectory, run: Run) -> None:
        self._directory, self._run = directory, run
        self.board.run, self.board.run_path = run, directory.path
        self.board.state = _STATES.get(run.phase, status.COLLECTING)

    def _pause_after(self, run: Run) -> None:
        """Failed and rejected runs use up trajectories: do not burn them at full speed."""
        is_superseded = self._registry.snapshot().current != run.parent
        if run.phase is Phase.PROMOTED or (run.phase is Phase.REJECTED and is_superseded):
            self._failures = 0
            return
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2**self._failures)
        self._failures += 1
        self._paused_until = self._clock() + pause

    # -- what starts a round -------------------------------------------------------

    def _serve_trigger(self) -> None:
        """Do what was asked by hand, then take the request away."""
        name = keys.trigger(self._settings.policy)
        raw = self._redis.get(name)
        if raw is None:
            return
        try:
            asked = orjson.loads(raw)
            if "roll_back" in asked:
                self._swap.roll_back(int(asked["roll_back"]))
            elif self._run is not None:
                if self._run.run_id != asked.get("run_id"):
                    return  # one run at a time: it stays until this one has ended
            elif self._turn.is_free_for(self.policy):
                self._begin_triggered(asked)
            else:
                return  # another policy's round runs: it stays until that one has ended
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            logger.warning("a trigger that cannot be read was dropped: %s", error)
        except (EngineUnavailable, LeaseLost):
            raise  # stays, and is tried again
        except RatchetError as error:
            logger.warning("a trigger was refused: %s", error)
            self.board.note = str(error)
        if self._redis.get(name) == raw:
            self._redis.delete(name)

    def _begin_triggered(self, asked: dict[str, Any]) -> None:
        run_id = str(asked.get("run_id") or new_id("run"))
        algorithm = joined(asked.get("algo") or self._settings.trainer.algorithm)
        if not run_id.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"run id {run_id!r} is not a plain name")
        if (self._settings.runs_dir / run_id / "run.json").exists():
            return  # served before a kill
        agent = asked.get("agent")
        try:
            wanted = self._demand(force=bool(asked.get("force")))
            self._begin(run_id, algorithm, wanted, None if agent is None else str(agent))
        except (Lack, AlgorithmError) as error:
            self._announce_refusal(run_id, algorithm, str(error))
            raise

    def _announce_refusal(self, run_id: str, algorithm: str, reason: str) -> None:
        now = time.time()
        refused = Run(
            run_id=run_id,
            policy=self._settings.policy,
            algorithm=algorithm,
            phase=Phase.FAILED,
            started_at=now,
            updated_at=now,
            parent=self._registry.snapshot().current,
            reason=reason,
        )
        announce(self._redis, refused)

    def _start_if_due(self) -> None:
        """Start a round when enough has come together, or the interval is over."""
        now, interval = self._clock(), self._settings.trainer.interval_seconds
        if now < self._paused_until:
            return
        count = self._store.count_trainable(self._settings.policy)
        is_due = interval is not None and now >= self._round_at + interval
        if count < self._settings.trainer.min_trajectories and not (is_due and count):
            return
        if now < self._look_at:
            return
        if not self._turn.is_free_for(self.policy):
            self.board.note = f"waits for the round of {self._turn.holder} to end"
            return
        try:
            wanted = self._demand(by_interval=is_due)
            self._begin(new_id("run"), self._settings.trainer.algorithm, wanted)
        except Lack as lack:
            spent = self._clock() - now  # a look into the archive takes its time
            self._look_at = now + max(LACK_SECONDS, LOOKS_SHARE * spent)
            self.board.note = str(lack)
            self.board.lacking = [asdict(shortage) for shortage in lack.shortages]
            self._make_room(lack)

    def _make_room(self, lack: Lack) -> None:
        """A look that saw nothing but useless trajectories must not see them for ever."""
        if lack.batch.is_full:
            self._phases.set_aside((*lack.batch.set_aside, *lack.batch.left_over))

    # -- what is shown -------------------------------------------------------------

    def _wait(self, why: str) -> None:
        self._backoff_seconds = min(
            LONGEST_BACKOFF_SECONDS, max(FIRST_BACKOFF_SECONDS, 2 * self._backoff_seconds)
        )
        self._retry_at = self._clock() + self._backoff_seconds
        self.board.note = why
        logger.warning("trying again in %.0f s: %s", self._backoff_seconds, why)

    def _show(self) -> None:
        if self._run is not None:
            return
        if self._clock() < self._paused_until:
            last = self.board.last_run
            self.board.state = status.PAUSED
            self.board.note = f"the last run failed: {last.reason if last else ''}"
        else:
            if self.board.state == status.PAUSED:
                self.board.note = ""
            self.board.state = status.DRAINING if self._swap.is_draining else status.COLLECTING
