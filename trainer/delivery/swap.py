"""The swap controller: engines follow the registry, and no request is cut off.

    load into every engine -> probe -> promote -> the old one drains
    draining: running trajectories end on it       (gateways' heartbeats say when)
    retired:  nothing starts on it; kept loaded, so that a rollback is instant
    unloaded: the next retired one pushed it out, and no request was in flight

Unloading after a fixed grace lost requests in tests; unloading at a counted
in-flight of 0 lost none. The registry moves first and the engine follows, so
that a rollback at the same moment never finds an adapter gone. The base,
version 0, is never unloaded.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.gate import Expected, check_adapter
from trainer.delivery.probe import run_probe, tolerance_for
from trajectories.errors import AdapterError, EngineError, RegistryError, SettingsError
from trajectories.keys import HEARTBEAT_TTL_SECONDS
from trajectories.registry import Heartbeat, Registry, Snapshot
from trajectories.resources import LOADED, PROBE, Kind, PolicyVersion, ProbeSet, VersionState

logger = logging.getLogger(__name__)

# vLLM has to be started with --max-loras and --max-cpu-loras of at least this.
MAX_LOADED = 4
GONE = frozenset({VersionState.UNLOADED, VersionState.REJECTED})


@dataclass(frozen=True, slots=True)
class Since:
    """When and at which revision a version was first seen in a state."""

    state: VersionState
    revision: int
    at: float


class Swap:
    """Keeps every engine in step with the registry."""

    def __init__(
        self,
        engines: Sequence[Engine],
        registry: Registry,
        *,
        expected: Expected,
        drain_seconds: float,
        others: Sequence[Registry] = (),
        slots: int = MAX_LOADED,
        probe_tolerance: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`others` are registries of policies in the same engines, `slots` how many adapters
        of all of them an engine holds."""
        self._engines = tuple(engines)
        self._registry = registry
        self._others = tuple(others)
        self._slots = slots
        self._expected = expected
        self._drain_seconds = drain_seconds
        self._probe_tolerance = probe_tolerance
        self._clock = clock
        self._since: dict[int, Since] = {}

    @property
    def engines(self) -> tuple[Engine, ...]:
        return self._engines

    @property
    def is_draining(self) -> bool:
        """Whether trajectories still end on an old version, as last seen."""
        return any(since.state is VersionState.DRAINING for since in self._since.values())

    def check(self) -> None:
        """Refuse to start, with SettingsError, where what serves is not what adapters are for."""
        snapshot = self._registry.snapshot()
        current = snapshot.versions[snapshot.current]
        if current.kind is Kind.FULL:
            raise SettingsError(
                f"trainer.weights = lora, but version {current.version}, which serves, is a whole"
                " model: `ratchet rollback --to 0` with weights = full first"
            )
        if left := [one.url for one in snapshot.weights.values() if one.version != 0]:
            raise SettingsError(
                f"trainer.weights = lora, but {', '.join(left)} may have a whole model's weights:"
                " start the trainer once more with weights = full, until it has the base again"
            )
        self._registry.keep_weights([])

    def load(self, entry: PolicyVersion) -> None:
        """Load one version into every engine. The base is always there."""
        if entry.version == 0:
            return
        snapshots = [self._registry.snapshot(), *self._snapshots_of_others()]
        loaded = [known for snapshot in snapshots for known in snapshot.loaded if known != entry]
        if len(loaded) >= self._slots:
            raise EngineUnavailable(
                f"{len(loaded)} adapters are still loaded, and the engine has room for"
                f" {self._slots} (engine.max_loras): waiting for the old ones to drain"
            )
        for engine in self._engines:
            self._load_into(engine, entry)

    def prove(self, entry: PolicyVersion) -> float:
        """Have every engine answer as the trainer does; the largest difference in nats.

        Raises AdapterError, EngineError or EngineUnavailable.
        """
        assert entry.path is not None
        probe_set = ProbeSet.from_json((Path(entry.path) / PROBE).read_bytes())
        self.load(entry)  # an engine may have restarted since
        found = [
            run_probe(
                engine,
                model=entry.model,
                base_model=self._expected.base_model,
                probe_set=probe_set,
                tolerance=tolerance_for(probe_set.dtype, self._probe_tolerance),
            )
            for engine in self._engines
        ]
        return max((delivery.adapter_error for delivery in found), default=0.0)

    def ensure(self, entry: PolicyVersion) -> None:
        """Have every engine hold what was proven, right before it is promoted."""
        self.load(entry)

    def reconcile(self) -> list[str]:
        """Make the engines hold what the registry says; what did not work, in words.

        After an engine's restart this loads everything again; after a kill in
        the middle of a swap it takes away what should not be there.
        """
        snapshot = self._registry.snapshot()
        troubles: list[str] = []
        for engine in self._engines:
            try:
                troubles += self._reconcile_one(engine, snapshot)
            except EngineUnavailable as error:
                troubles.append(str(error))
        return troubles

    def _reconcile_one(self, engine: Engine, snapshot: Snapshot) -> list[str]:
        """The current version first; one that cannot be loaded does not hold up the others."""
        troubles: list[str] = []
        names = engine.models()
        by_need = sorted(snapshot.loaded, key=lambda entry: entry.version != snapshot.current)
        for entry in by_need:
            if entry.model in names:
                continue
            logger.info("loading again", extra={"model": entry.model})
            try:
                self._load_into(engine, entry)
            except EngineUnavailable:
                raise
            except (EngineError, AdapterError) as error:
                troubles.append(str(error))
        for entry in snapshot.versions.values():
            if entry.state in GONE and entry.model in names:
                engine.unload(entry.model)
        return troubles

    def promote(
        self, version: int, *, reason: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Make a loaded version current; the one before starts to drain."""
        self._registry.promote(version, reason=reason, metrics=metrics)

    def roll_back(self, version: int) -> None:
        """Return to an earlier version, loading it first where it is gone."""
        snapshot = self._registry.snapshot()
        entry = self._served_once(snapshot, version)
        if entry.version > 0 and entry.state not in LOADED:
            self.load(entry)
        self.promote(version, reason=f"rolled back from version {snapshot.current}")

    def _served_once(self, snapshot: Snapshot, version: int) -> PolicyVersion:
        """The version, if it is one to go back to. Raises RegistryError."""
        entry = snapshot.versions.get(version)
        if entry is None:
            raise RegistryError(f"there is no version {version} to roll back to")
        if entry.state in (VersionState.REJECTED, VersionState.CANDIDATE):
            raise RegistryError(
                f"version {version} is {entry.state.value}: only a version that has served"
                " can be rolled back to"
            )
        return entry

    def reject(self, version: int, reason: str) -> None:
        """Take a candidate out: it never serves, its directory stays for inspection."""
        entry = self._registry.move(version, VersionState.REJECTED, reason=reason)
        self._unload(entry)

    def retire(self) -> None:
        """Bring draining versions to retired, and old retired ones out of the engines."""
        snapshot = self._registry.snapshot()
        self._watch(snapshot)
        heartbeats = self._registry.heartbeats()
        for entry in snapshot.versions.values():
            if entry.state is VersionState.DRAINING and self._is_drained(entry, heartbeats):
                self._registry.move(entry.version, VersionState.RETIRED)
                logger.info("retired", extra={"model": entry.model})
        others = self._snapshots_of_others()
        for entry in superfluous(snapshot, others, slots=self._slots):
            if self._is_quiet(entry, heartbeats):
                self._registry.move(entry.version, VersionState.UNLOADED)
                self._unload(entry)
                logger.info("unloaded", extra={"model": entry.model})

    def _snapshots_of_others(self) -> list[Snapshot]:
        return [registry.snapshot() for registry in self._others]

    def _load_into(self, engine: Engine, entry: PolicyVersion) -> None:
        if entry.path is None:
            raise AdapterError(f"version {entry.version} has no adapter directory")
        check_adapter(Path(entry.path), self._expected)
        engine.load(entry.model, entry.path)

    def _unload(self, entry: PolicyVersion) -> None:
        """Unload everywhere; an engine that is away is left to `reconcile`."""
        for engine in self._engines:
            try:
                engine.unload(entry.model)
            except EngineError as error:
                logger.warning("not unloaded yet: %s", error)

    def _watch(self, snapshot: Snapshot) -> None:
        """Note when each version came into its state; a kill starts the wait anew."""
        for number, entry in snapshot.versions.items():
            known = self._since.get(number)
            if known is None or known.state is not entry.state:
                self._since[number] = Since(entry.state, snapshot.revision, self._clock())

    def _is_drained(self, entry: PolicyVersion, heartbeats: Sequence[Heartbeat]) -> bool:
        if self._clock() - self._since[entry.version].at >= self._drain_seconds:
            return True
        return self._is_quiet(entry, heartbeats) and not any(
            heartbeat.open_trajectories.get(entry.version) for heartbeat in heartbeats
        )

    def _is_quiet(self, entry: PolicyVersion, heartbeats: Sequence[Heartbeat]) -> bool:
        since = self._since[entry.version]
        if not heartbeats:
            # After an outage of Redis the gateways may be late to report rather than gone.
            return self._clock() - since.at >= HEARTBEAT_TTL_SECONDS
        return is_quiet(entry.version, since.revision, heartbeats)


def is_quiet(version: int, revision: int, heartbeats: Sequence[Heartbeat]) -> bool:
    """Whether every live gateway knows `revision` and runs no request on `version`."""
    return all(
        heartbeat.revision >= revision and not heartbeat.in_flight.get(version)
        for heartbeat in heartbeats
    )


def superfluous(
    snapshot: Snapshot, others: Sequence[Snapshot] = (), *, slots: int = MAX_LOADED
) -> list[PolicyVersion]:
    """Retired adapters but the newest: what a rollback is not expected to need.

    Where policies share an engine their newest retired ones go, too, the oldest of
    all first, for as long as there is no slot free for one that comes. Every policy's
    trainer takes its own away.
    """
    own = retired(snapshot)
    superfluous = own[:-1]
    if others:
        everybodys = [own, *map(retired, others)]
        loaded = len(snapshot.loaded) + sum(len(other.loaded) for other in others)
        too_many = loaded - sum(len(found[:-1]) for found in everybodys) - (slots - 1)
        kept = sorted((entry for found in everybodys for entry in found[-1:]), key=_promotion)
        leaving = kept[: max(0, too_many)]
        superfluous += [entry for entry in leaving if entry.policy == snapshot.policy]
    return superfluous


def retired(snapshot: Snapshot) -> list[PolicyVersion]:
    """A policy's retired adapters, in the order in which they were promoted."""
    found = [
        entry
        for entry in snapshot.versions.values()
        if entry.state is VersionState.RETIRED and entry.version > 0
    ]
    return sorted(found, key=_promotion)


def _promotion(entry: PolicyVersion) -> float:
    return entry.promoted_at or 0.0
