"""Renewal: one engine gets other weights, and answers for them before anybody believes it.

    gate -> announce -> gateways know -> pause(wait) -> reload -> caches -> resume -> probe -> note

A reload that fails leaves an engine with weights of nobody, and its next
request would kill it. So the former ones are loaded before it resumes, and
where that fails, too, it is taken out of routing until it can be mended. It
is resumed in any case.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.probe import run_whole_probe, tolerance_for
from trajectories.errors import AdapterError, EngineError
from trajectories.keys import HEARTBEAT_TTL_SECONDS
from trajectories.registry import Registry, Weights
from trajectories.resources import PROBE, PolicyVersion, ProbeSet

logger = logging.getLogger(__name__)

CHANGING = "changing"  # what an engine calls its weights while they are nobody's
RELOAD_SECONDS = 600.0  # of a large model from a slow disk
REST = 9.0  # after a pause that was given up calls go on for so many times as long
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expected` says what a whole model must be; `pause_seconds` is how long calls that
        run are waited for."""
        assert expected.whole is not None
        self._registry = registry
        self._expected = expected
        self._whole = expected.whole
        self._pause_seconds = pause_seconds
        self._probe_tolerance = probe_tolerance
        self._silence_seconds = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        self._clock = clock
        self._passed: set[tuple[object, ...]] = set()  # what the gate has seen, and let through
        self._mend_at: dict[str, float] = {}
        self._pause_at: dict[str, float] = {}
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
                worst = self.probe(engine, entry)
                self._note(engine, entry.version, wanted=entry.version)
                return worst
            if back is not None:
                self.probe(engine, back)
                self._note(engine, back.version, wanted=back.version)
        except AdapterError as error:
            self._fall_back(engine, back or entry, error)
            raise
        raise AdapterError(f"{engine.url} refused version {entry.version}: {failure}") from failure

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

    def _pause(self, engine: Engine, entry: PolicyVersion) -> None:
        """Have an engine hold its calls, and nobody stamp them. Raises EngineUnavailable."""
        if (seconds := self._pause_at.get(engine.url, 0.0) - self._clock()) > 0:
            raise EngineUnavailable(f"{engine.url} is asked to pause again in {seconds:.0f} s")
        before = self._registry.snapshot().weights.get(engine.url)
        self._note(engine, None, wanted=entry.version)
        try:
            engine.pause(self._pause_seconds)
        except EngineError as error:
            self._resume(engine)
            self._pause_at[engine.url] = self._clock() + REST * self._pause_seconds
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

    def _reload(self, engine: Engine, entry: PolicyVersion) -> None:
        path = self._whole.base_path if entry.path is None else Path(entry.path)
        engine.name_weights(CHANGING)
        engine.reload(str(path.resolve()), RELOAD_SECONDS)
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
            self.exchange(engine, back)

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
