"""The swap of full weights: every engine has one set of them, and is paused while it changes.

One engine after the other (renewal.py), never two at once; where there are
several the gateways leave the one that changes alone. Calls that run end on
the old weights, calls that come wait for the new ones, and none of either is
stamped with a version: only between two notes in the registry is it certain
which one answered. An engine says itself what it was given last (vLLM's
weight version), which a restart forgets: then it is given the same again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.gate import Expected
from trainer.delivery.renewal import Renewal
from trainer.delivery.shelf import Shelf
from trainer.delivery.swap import Swap
from trajectories.errors import AdapterError, EngineError, RegistryError, SettingsError
from trajectories.registry import Registry, Snapshot
from trajectories.resources import Kind, PolicyVersion, VersionState

logger = logging.getLogger(__name__)

DEV_MODE = (
    "trainer.weights = full needs vLLM's routes for it, which {url} does not have: start it (0.32"
    " has them) with VLLM_SERVER_DEV_MODE=1, or set trainer.weights = lora"
)


class FullSwap(Swap):
    """Keeps the weights of every engine in step with the registry."""

    def __init__(
        self,
        engines: Sequence[Engine],
        registry: Registry,
        *,
        expected: Expected,
        drain_seconds: float,
        pause_seconds: float,
        shelf: Shelf,
        probe_tolerance: float = 0.0,
        silence_seconds: float | None = None,
        guard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expected` says what a whole model must be; `pause_seconds` is how long one that
        answers is waited for; `guard` raises when this trainer may no longer act."""
        super().__init__(
            engines, registry, expected=expected, drain_seconds=drain_seconds, clock=clock
        )
        self._shelf = shelf
        self._renewal = Renewal(
            registry,
            expected,
            pause_seconds=pause_seconds,
            probe_tolerance=probe_tolerance,
            silence_seconds=silence_seconds,
            guard=guard,
            clock=clock,
        )

    def check(self) -> None:
        """Refuse to start where the engines, or what serves now, cannot be changed this way."""
        snapshot = self._registry.snapshot()
        current = snapshot.versions[snapshot.current]
        if current.version and current.kind is not Kind.FULL:
            raise SettingsError(
                f"trainer.weights = full, but version {current.version}, which serves, is an"
                " adapter: `ratchet rollback --to 0` first, or set trainer.weights = lora"
            )
        for engine in self._engines:
            with suppress(EngineUnavailable):  # it may be starting; reconciling says the rest
                self._said_by(engine, error=SettingsError)
        self._registry.keep_weights([engine.url for engine in self._engines])

    def load(self, entry: PolicyVersion) -> None:
        """Look at all of it, before anything is paused for it."""
        self._renewal.check(entry)

    def prove(self, entry: PolicyVersion) -> float:
        """Give it to every engine that has something else, and have each answer for it.

        Returns the largest difference in nats. Raises AdapterError or EngineError where one
        refuses or answers something else: then it is to be rejected.
        """
        current = self._registry.snapshot().current
        if entry.version != current and entry.parent != current:
            raise AdapterError(
                f"it started from version {entry.parent}, but version {current} serves by now"
            )
        for engine in self._engines:
            self._said_by(engine)  # while one is away no other one begins
        worst = 0.0
        for engine in self._engines:
            if self._has(engine, entry, self._registry.snapshot()):
                worst = max(worst, self._renewal.probe(engine, entry))
            else:
                worst = max(worst, self._renewal.exchange(engine, entry))
        return worst

    def ensure(self, entry: PolicyVersion) -> None:
        self.prove(entry)

    def roll_back(self, version: int) -> None:
        """Return to an earlier version: the registry first, and the engines follow at once."""
        snapshot = self._registry.snapshot()
        entry = self._served_once(snapshot, version)
        if entry.version and entry.path is None:
            raise RegistryError(
                f"version {version} is no longer on disk: the last {self._shelf.kept} are kept"
                " (trainer.full_kept)"
            )
        self.load(entry)
        self.promote(version, reason=f"rolled back from version {snapshot.current}")
        for trouble in self.reconcile():
            logger.warning("not rolled back yet: %s", trouble)

    def reject(self, version: int, reason: str) -> None:
        """Take a candidate out: whoever has its weights is given back what serves."""
        entry = self._registry.move(version, VersionState.REJECTED, reason=reason)
        self._give_back(entry)

    def retire(self) -> None:
        super().retire()
        self._shelf.clear(self._registry)

    def _unload(self, entry: PolicyVersion) -> None:
        """There is nothing to unload: other weights took its place."""

    def _reconcile_one(self, engine: Engine, snapshot: Snapshot) -> list[str]:
        """Give the engine what it should have: after a restart, a kill, or a rollback."""
        known = snapshot.weights.get(engine.url)
        wanted = snapshot.versions.get(known.wanted if known else snapshot.current)
        if wanted is None or not _is_next(wanted, snapshot):
            wanted = snapshot.versions[snapshot.current]
        if self._has(engine, wanted, snapshot):
            if engine.is_paused():  # a pause that was given up may come late
                logger.warning("%s was paused by nobody who said so: it goes on", engine.url)
                engine.resume()
            return []
        if known is not None and known.is_out and not self._renewal.may_mend(engine):
            return [f"{engine.url} is out of routing: {known.reason}"]
        try:
            if self._said_by(engine) == wanted.weights_name:
                self._renewal.settle(engine, wanted)
            else:
                logger.info("other weights", extra={"engine": engine.url, "model": wanted.model})
                self._renewal.exchange(engine, wanted)
        except EngineUnavailable:
            raise
        except (EngineError, AdapterError) as error:
            return [str(error)]
        return []

    def _has(self, engine: Engine, entry: PolicyVersion, snapshot: Snapshot) -> bool:
        """Whether the registry and the engine itself say that it serves that version."""
        known = snapshot.weights.get(engine.url)
        is_noted = known is not None and known.version == entry.version and not known.is_out
        return is_noted and self._said_by(engine) == entry.weights_name

    def _said_by(
        self, engine: Engine, *, error: type[EngineError | SettingsError] = EngineError
    ) -> str:
        """What an engine says its weights are."""
        said = engine.weights_name()
        if said is None:
            raise error(DEV_MODE.format(url=engine.url))
        return said

    def _give_back(self, entry: PolicyVersion) -> None:
        """Every engine that has this version, or is to have it, is given what serves."""
        snapshot = self._registry.snapshot()
        current = snapshot.versions[snapshot.current]
        for engine in self._engines:
            known = snapshot.weights.get(engine.url)
            if known is None or entry.version not in (known.version, known.wanted):
                continue
            try:
                self._renewal.exchange(engine, current)
            except EngineError as error:
                logger.warning("not given back yet: %s", error)
            except AdapterError:
                logger.exception("what serves cannot be given back")


def _is_next(entry: PolicyVersion, snapshot: Snapshot) -> bool:
    """Whether it is a candidate for the place of what serves now."""
    return entry.state is VersionState.CANDIDATE and entry.parent == snapshot.current
