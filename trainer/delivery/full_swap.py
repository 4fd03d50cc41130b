"""The swap of full weights: every engine has one set of them, and is paused while it changes.

    gate -> announce -> gateways know -> pause(wait) -> reload -> caches -> resume -> probe -> note

One engine after the other, never two at once; where there are several the
gateways leave the one that changes alone. Calls that run end on the old
weights, calls that come wait for the new ones, and none of either is stamped
with a version: only between two notes in the registry is it certain which one
answered. An engine says itself what it was given last (vLLM's weight
version), which a restart forgets: then it is given the same again.

A reload that fails leaves an engine with weights of nobody, and its next
request would kill it. So the former ones are loaded before it resumes, and
where that fails, too, it is taken out of routing until it can be mended.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.probe import run_whole_probe, tolerance_for
from trainer.delivery.shelf import Shelf
from trainer.delivery.swap import Swap
from trajectories.errors import AdapterError, EngineError, RegistryError, SettingsError
from trajectories.keys import HEARTBEAT_TTL_SECONDS
from trajectories.registry import Registry, Snapshot, Weights
from trajectories.resources import PROBE, Kind, PolicyVersion, ProbeSet, VersionState

logger = logging.getLogger(__name__)

CHANGING = "changing"  # what an engine calls its weights while they are nobody's
POLL_SECONDS = 0.05
SILENCE_SECONDS = 2.0  # how long a gateway that has not reported yet is waited for
MOST_DEATHS = 2  # of one engine from one version, before that one is refused
MEND_SECONDS = 30.0  # between two tries to give an engine that is out its weights
DEV_MODE = (
    "trainer.weights = full needs vLLM's routes for it, which {url} does not have: start it with"
    " VLLM_SERVER_DEV_MODE=1, or set trainer.weights = lora"
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expected` says what a whole model must be; `pause_seconds` is how long one that
        answers is waited for."""
        super().__init__(
            engines,
            registry,
            expected=expected,
            drain_seconds=drain_seconds,
            probe_tolerance=probe_tolerance,
            clock=clock,
        )
        assert expected.whole is not None
        self._whole = expected.whole
        self._pause_seconds = pause_seconds
        self._shelf = shelf
        self._silence_seconds = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        self._passed: set[tuple[object, ...]] = set()  # what the gate has seen, and let through
        self._mend_at: dict[str, float] = {}
        self._deaths: Counter[tuple[str, int]] = Counter()  # of an engine, from which version

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
        if entry.version:
            self._check(entry)

    def prove(self, entry: PolicyVersion) -> float:
        """Give it to every engine that has something else, and have each answer for it.

        Returns the largest difference in nats. Where one refuses or answers something else,
        all are given back what serves.
        """
        worst = 0.0
        try:
            for engine in self._engines:
                if self._has(engine, entry, self._registry.snapshot()):
                    worst = max(worst, self._probe(engine, entry))
                else:
                    worst = max(worst, self._exchange(engine, entry))
        except EngineUnavailable:
            raise
        except (AdapterError, EngineError):
            self._give_back(entry)
            raise
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
        if wanted is None or wanted.state not in (VersionState.CURRENT, VersionState.CANDIDATE):
            wanted = snapshot.versions[snapshot.current]
        if self._has(engine, wanted, snapshot):
            return self._trouble_of(engine)
        if known is not None and known.is_out:
            if self._clock() < self._mend_at.get(engine.url, float("-inf")):
                return [f"{engine.url} is out of routing: {known.reason}"]
            self._mend_at[engine.url] = self._clock() + MEND_SECONDS
        try:
            if self._said_by(engine) == wanted.weights_name:
                self._settle(engine, wanted)
            else:
                logger.info("other weights", extra={"engine": engine.url, "model": wanted.model})
                self._exchange(engine, wanted)
        except EngineUnavailable:
            raise
        except (EngineError, AdapterError) as error:
            return [str(error)]
        return []

    def _trouble_of(self, engine: Engine) -> list[str]:
        if engine.is_paused():
            return [f"{engine.url} was paused by somebody else: `curl -X POST {engine.url}/resume`"]
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

    def _exchange(self, engine: Engine, entry: PolicyVersion) -> float:
        """Give an engine other weights, and note it once it has answered for them.

        Raises EngineUnavailable when it has to be tried again, AdapterError when it would not
        have them: by then it has what serves, or is out of routing.
        """
        self.load(entry)
        self._pause(engine, entry)
        failure: EngineError | None = None
        back: PolicyVersion | None = None
        try:
            try:
                self._reload(engine, entry)
            except EngineError as error:
                failure = self._refusal(engine, entry, error)
                back = self._reload_what_serves(engine, entry, failure)
        finally:
            self._resume(engine)
        try:
            if failure is None:
                worst = self._probe(engine, entry)
                self._note(engine, entry.version, wanted=entry.version)
                return worst
            if back is not None:
                self._probe(engine, back)
                self._note(engine, back.version, wanted=back.version)
        except AdapterError as error:
            self._fall_back(engine, back or entry, error)
            raise
        raise AdapterError(f"{engine.url} refused version {entry.version}: {failure}") from failure

    def _pause(self, engine: Engine, entry: PolicyVersion) -> None:
        """Have an engine hold its calls, and nobody stamp them. Raises EngineUnavailable."""
        before = self._registry.snapshot().weights.get(engine.url)
        self._note(engine, None, wanted=entry.version)
        try:
            engine.pause(self._pause_seconds)
        except EngineError as error:
            self._resume(engine)
            if before is not None and before.version is not None:
                self._note(engine, before.version, wanted=before.wanted)  # nothing has changed
            raise EngineUnavailable(
                f"{engine.url} did not pause within {self._pause_seconds:g} s, which is how long"
                f" running calls are waited for (trainer.pause_seconds): {error}"
            ) from error

    def _refusal(self, engine: Engine, entry: PolicyVersion, error: EngineError) -> EngineError:
        """The error of a reload, unless it is to be tried again: what dies of it does so again."""
        if isinstance(error, EngineUnavailable):
            self._deaths[engine.url, entry.version] += 1
            if self._deaths[engine.url, entry.version] < MOST_DEATHS:
                raise error
        return error

    def _settle(self, engine: Engine, entry: PolicyVersion) -> None:
        """Note what an engine has already; a kill may have come before the end of an exchange."""
        if engine.is_paused():
            engine.reset_caches()
            engine.resume()
        self._probe(engine, entry)
        self._note(engine, entry.version, wanted=entry.version)

    def _reload(self, engine: Engine, entry: PolicyVersion) -> None:
        path = self._whole.base_path if entry.path is None else Path(entry.path)
        engine.name_weights(CHANGING)
        engine.reload(str(path.resolve()))
        engine.reset_caches()
        engine.name_weights(entry.weights_name)

    def _reload_what_serves(
        self, engine: Engine, entry: PolicyVersion, error: EngineError
    ) -> PolicyVersion | None:
        """Undo a reload; None: there is nothing to go back to, and the engine is out."""
        snapshot = self._registry.snapshot()
        back = snapshot.versions[snapshot.current]
        if back.version == entry.version:
            self._take_out(engine, entry, f"it does not take version {back.version}: {error}")
            return None
        try:
            self._reload(engine, back)
        except EngineError as second:
            self._take_out(engine, back, f"it took neither the new weights nor the old: {second}")
            return None
        return back

    def _fall_back(self, engine: Engine, entry: PolicyVersion, error: Exception) -> None:
        """An engine answers wrong: give it what serves, or take it out."""
        snapshot = self._registry.snapshot()
        back = snapshot.versions[snapshot.current]
        if back.version == entry.version:
            self._take_out(engine, entry, str(error))
            return
        with suppress(EngineUnavailable, AdapterError):  # said, or reconciled
            self._exchange(engine, back)

    def _give_back(self, entry: PolicyVersion) -> None:
        """Every engine that has this version, or is to have it, is given what serves."""
        snapshot = self._registry.snapshot()
        current = snapshot.versions[snapshot.current]
        for engine in self._engines:
            known = snapshot.weights.get(engine.url)
            if known is None or entry.version not in (known.version, known.wanted):
                continue
            try:
                self._exchange(engine, current)
            except EngineError as error:
                logger.warning("not given back yet: %s", error)
            except AdapterError:
                logger.exception("what serves cannot be given back")

    def _take_out(self, engine: Engine, wanted: PolicyVersion, reason: str) -> None:
        logger.error("out of routing: %s: %s", engine.url, reason)
        self._mend_at[engine.url] = self._clock() + MEND_SECONDS
        self._note(engine, None, wanted=wanted.version, is_out=True, reason=reason)

    def _note(
        self,
        engine: Engine,
        version: int | None,
        *,
        wanted: int,
        is_out: bool = False,
        reason: str = "",
    ) -> None:
        """Tell the gateways; of what they must not stamp, wait until all of them know."""
        said = Weights(
            url=engine.url, version=version, wanted=wanted, is_out=is_out, reason=reason[:500]
        )
        revision = self._registry.note_weights(said)
        if version is None:
            self._wait_for_gateways(revision)

    def _wait_for_gateways(self, revision: int) -> None:
        """Until every gateway alive routes by `revision`; one that does not is gone by then."""
        started = time.monotonic()
        while time.monotonic() < started + HEARTBEAT_TTL_SECONDS:
            heartbeats = self._registry.heartbeats()
            if heartbeats and all(one.revision >= revision for one in heartbeats):
                return
            if not heartbeats and time.monotonic() >= started + self._silence_seconds:
                return
            time.sleep(POLL_SECONDS)

    def _resume(self, engine: Engine) -> None:
        """In any case; an engine that cannot be reached is looked at again by `reconcile`."""
        try:
            engine.resume()
        except EngineError as error:
            logger.warning("not resumed yet: %s", error)

    def _probe(self, engine: Engine, entry: PolicyVersion) -> float:
        """Have an engine answer for its weights; the base has nothing to be held against."""
        if entry.path is None:
            return 0.0
        probe_set = ProbeSet.from_json((Path(entry.path) / PROBE).read_bytes())
        return run_whole_probe(
            engine,
            model=self._expected.base_model,
            probe_set=probe_set,
            tolerance=tolerance_for(probe_set.dtype, self._probe_tolerance),
        )

    def _check(self, entry: PolicyVersion) -> None:
        """The gate, once for the same files: they are large, and it reads every byte."""
        if entry.path is None:
            raise AdapterError(f"version {entry.version} is no longer on disk")
        files = sorted(Path(entry.path).glob("*"))
        stats = [(path.name, path.stat()) for path in files]
        seen = (entry.path, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
        if seen not in self._passed:
            check_adapter(Path(entry.path), self._expected)
            self._passed.add(seen)
