"""Renewal: one engine gets other weights, and answers for them before anybody believes it.

    gate -> announce -> gateways know -> pause(wait) -> reload -> caches -> resume -> probe -> note

A reload that fails leaves an engine with weights of nobody, and its next
request would kill it. So what serves is loaded before it resumes, and where
that fails, too, or nobody knows, it is taken out of routing until it can be
mended. It is resumed in any case.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.delivery.engine import Engine, EngineBusy, EngineUnavailable
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.probe import run_whole_probe, tolerance_for
from trajectories.errors import AdapterError, EngineError
from trajectories.keys import HEARTBEAT_TTL_SECONDS
from trajectories.registry import Registry, Snapshot, Weights
from trajectories.resources import PROBE, PolicyVersion, ProbeSet, VersionState

logger = logging.getLogger(__name__)

CHANGING = "changing"  # what an engine calls its weights while they are nobody's
RELOAD_SECONDS = 600.0  # of a large model from a slow disk
REST = 9.0  # after a pause that was given up calls go on for so many times as long; else for once
POLL_SECONDS = 0.05
SILENCE_SECONDS = 2.0  # how long a gateway that has not reported yet is waited for
MOST_DEATHS = 2  # of one engine from one version, before that one is refused
MEND_SECONDS = 30.0  # between two tries to give an engine that is out its weights


class Renewal:
    """Gives engines other weights, one at a time."""

    def __init__(
        self,
        registry: Registry,
        expected: Expected,
        *,
        pause_seconds: float,
        probe_tolerance: float = 0.0,
        silence_seconds: float | None = None,
        guard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expected` says what a whole model must be; `pause_seconds` is how long calls that
        run are waited for; `guard` raises when this trainer may no longer act."""
        assert expected.whole is not None
        self._registry = registry
        self._expected = expected
        self._whole = expected.whole
        self._pause_seconds = pause_seconds
        self._probe_tolerance = probe_tolerance
        self._silence_seconds = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        self._guard = guard
        self._clock = clock
        self._passed: set[tuple[object, ...]] = set()  # what the gate has seen, and let through
        self._mend_at: dict[str, float] = {}
        self._pause_at: dict[tuple[str, int], float] = {}  # an engine, for which version
        self._deaths: Counter[tuple[str, int]] = Counter()  # of an engine, from which version

    def may_mend(self, engine: Engine) -> bool:
        """Whether an engine that is out may be tried again now; asked once for each try."""
        if self._clock() < self._mend_at.get(engine.url, float("-inf")):
            return False
        self._mend_at[engine.url] = self._clock() + MEND_SECONDS
        return True

    def check(self, entry: PolicyVersion) -> None:
        """The gate, once for the same files: they are large, and it reads every byte."""
        if entry.version == 0:
            return  # the base: what all others were held against
        if entry.path is None:
            raise AdapterError(f"version {entry.version} is no longer on disk")
        files = sorted(Path(entry.path).glob("*"))
        stats = [(path.name, path.stat()) for path in files]
        seen = (entry.path, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
        if seen not in self._passed:
            check_adapter(Path(entry.path), self._expected)
            self._passed.add(seen)

    def exchange(self, engine: Engine, entry: PolicyVersion) -> float:
        """Give an engine other weights, and note it once it has answered for them.

        Raises EngineUnavailable when it has to be tried again, AdapterError when it would not
        have them: by then it has what serves, or is out of routing.
        """
        self.check(entry)
        snapshot = self._registry.snapshot()
        serves = snapshot.versions[snapshot.current]
        self._pause(engine, entry, snapshot)
        try:
            given, refusal = self._give(engine, entry, serves)
        except Exception as error:  # whatever it was, the engine has weights of nobody
            self._take_out(engine, serves, str(error))
            raise
        finally:
            self._resume(engine)
        try:
            worst = self.probe(engine, given)
        except AdapterError as error:
            self._fall_back(engine, given, serves, error)
            raise
        self._note(engine, given.version, wanted=given.version)
        if refusal is not None:
            raise AdapterError(
                f"{engine.url} refused version {entry.version}: {refusal}"
            ) from refusal
        return worst

    def settle(self, engine: Engine, entry: PolicyVersion) -> None:
        """Note what an engine has already; a kill may have come before the end of an exchange."""
        if engine.is_paused():
            engine.reset_caches()
            engine.resume()
        self.probe(engine, entry)
        self._note(engine, entry.version, wanted=entry.version)

    def probe(self, engine: Engine, entry: PolicyVersion) -> float:
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

    def _pause(self, engine: Engine, entry: PolicyVersion, snapshot: Snapshot) -> None:
        """Have an engine hold its calls, and nobody stamp them. Raises EngineUnavailable.

        A pause that does not come is given up for the sake of weights that may serve. An engine
        with other ones is out of routing from then on, so that its calls come to an end.
        """
        before = snapshot.weights.get(engine.url)
        is_wrong = before is not None and not _may_serve(before, snapshot)
        is_current = entry.version == snapshot.current
        seconds = self._pause_at.get((engine.url, entry.version), 0.0) - self._clock()
        if seconds > 0 and not (is_wrong and is_current):
            raise EngineUnavailable(f"{engine.url} is asked to pause again in {seconds:.0f} s")
        is_out, reason = (before.is_out, before.reason) if before is not None else (False, "")
        self._note(engine, None, wanted=entry.version, is_out=is_out, reason=reason)
        self._guard()
        try:
            engine.pause(self._pause_seconds)
        except EngineError as error:
            if is_wrong:
                self._take_out(engine, entry, reason or f"it goes on with what failed: {error}")
            is_resumed = self._resume(engine)
            if before is not None and not is_wrong:
                # Where nobody knows whether it is still paused, `reconcile` looks at it.
                self._note(engine, before.version if is_resumed else None, wanted=before.wanted)
            if not isinstance(error, EngineBusy):
                raise EngineUnavailable(str(error)) from error
            rest = (1.0 if is_current else REST) * self._pause_seconds
            self._pause_at[engine.url, entry.version] = self._clock() + rest
            raise EngineUnavailable(
                f"{engine.url} did not pause within {self._pause_seconds:g} s, which is how long"
                f" running calls are waited for (trainer.pause_seconds): {error}"
            ) from error

    def _give(
        self, engine: Engine, entry: PolicyVersion, serves: PolicyVersion
    ) -> tuple[PolicyVersion, EngineError | None]:
        """Load a version, or else what serves: which of them it was, and why not the first.

        Raises EngineUnavailable or AdapterError where the engine has neither.
        """
        try:
            self._reload(engine, entry)
            return entry, None
        except EngineError as error:
            refusal = error
        if isinstance(refusal, EngineUnavailable):
            self._deaths[engine.url, entry.version] += 1
            if self._deaths[engine.url, entry.version] < MOST_DEATHS:
                raise refusal  # to be tried again: what dies of it does so again
        if serves.version == entry.version:
            raise AdapterError(
                f"{engine.url} does not take version {entry.version}, which serves: {refusal}"
            ) from refusal
        try:
            self._reload(engine, serves)
        except EngineError as second:
            raise AdapterError(
                f"{engine.url} took neither version {entry.version} nor {serves.version}, which"
                f" serves: {refusal}; {second}"
            ) from second
        return serves, refusal

    def _reload(self, engine: Engine, entry: PolicyVersion) -> None:
        path = self._whole.base_path if entry.path is None else Path(entry.path)
        self._guard()
        engine.name_weights(CHANGING)
        engine.reload(str(path.resolve()), RELOAD_SECONDS)
        engine.reset_caches()
        self._guard()  # a reload may take longer than a lease lasts
        engine.name_weights(entry.weights_name)

    def _fall_back(
        self, engine: Engine, given: PolicyVersion, serves: PolicyVersion, error: AdapterError
    ) -> None:
        """An engine answers wrong: give it what serves, or take it out."""
        if given.version == serves.version:
            self._take_out(engine, serves, str(error))
            return
        with suppress(EngineUnavailable, AdapterError):  # said, or reconciled
            self.exchange(engine, serves)

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
        self._guard()
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

    def _resume(self, engine: Engine) -> bool:
        """In any case; whether it is known to go on: else it is looked at by `reconcile`."""
        try:
            engine.resume()
            return not engine.is_paused()
        except EngineError as error:
            logger.warning("not resumed yet: %s", error)
            return False


def _may_serve(said: Weights, snapshot: Snapshot) -> bool:
    """Whether an engine has answered for its weights, and nobody has refused them since."""
    known = None if said.version is None else snapshot.versions.get(said.version)
    return known is not None and known.state is not VersionState.REJECTED
