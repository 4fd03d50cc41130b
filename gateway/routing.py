"""Which policy version answers: a pure choice, and the memory that makes it stick.

An alias means "the current version", but a trajectory ends on the version it
began on, as long as that one may still answer. The two classes here are plain
counters used from the event loop only; they do no I/O.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

from trajectories.registry import Snapshot

ANY = "*"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes. `alias` is the client's name when it is not the upstream's."""

    model: str
    policy: str | None = None
    version: int | None = None
    alias: str | None = None
    upstream: str = "policy"


def is_alias(name: str, aliases: tuple[str, ...], snapshot: Snapshot) -> bool:
    """Whether `name` means the current version. Names of versions mean themselves."""
    if name in aliases:
        return True
    return ANY in aliases and _version_named(name, snapshot) is None


def choose(
    name: str, *, aliases: tuple[str, ...], snapshot: Snapshot, bound: int | None = None
) -> Route:
    """The route of a call for `name`; `bound` is the version its trajectory is on."""
    if is_alias(name, aliases, snapshot):
        version = snapshot.current
        if bound is not None and snapshot.is_routable(bound):
            version = bound
        return at_version(name, version, snapshot)
    named = _version_named(name, snapshot)
    return Route(name, snapshot.policy if named is not None else None, named)


# There are few, and each call asks for one.
@lru_cache(maxsize=256)
def _route(model: str, policy: str, version: int, alias: str) -> Route:
    return Route(model, policy, version, alias)


@lru_cache(maxsize=256)
def to_upstream(upstream: str, model: str, alias: str | None) -> Route:
    """The route of a call to an upstream that is no policy's."""
    return Route(model, alias=alias, upstream=upstream)


def at_version(alias: str, version: int, snapshot: Snapshot) -> Route:
    """The route of an aliased call to one version."""
    return _route(snapshot.served_name(version), snapshot.policy, version, alias)


def at_replica(route: Route, version: int | None) -> Route:
    """The route as it is where all weights change: its replica decides about the version.

    None: they changed while it ran, or nobody can say, so that it is never learned from.
    """
    if route.policy is None or route.version == version:
        return route
    return replace(route, version=version)


def _version_named(name: str, snapshot: Snapshot) -> int | None:
    for entry in snapshot.versions.values():
        if entry.model == name:
            return entry.version
    return None


class Stickiness:
    """Trajectory -> version, forgotten when idle, bounded in number."""

    def __init__(self, idle_seconds: float, limit: int = 100_000) -> None:
        self._idle_seconds = idle_seconds
        self._limit = limit
        self._bound: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._open: Counter[int] = Counter()

    def version_of(self, trajectory_id: str, now: float) -> int | None:
        """The version a trajectory is on."""
        self._forget(now)
        found = self._bound.get(trajectory_id)
        return found[0] if found else None

    def bind(self, trajectory_id: str, version: int, now: float) -> None:
        """Remember the version that answers a trajectory, and that it is alive."""
        known = self._bound.pop(trajectory_id, None)
        self._bound[trajectory_id] = (version, now)  # at the end: the idle ones are in front
        if known is not None:
            if known[0] == version:
                return
            self._open[known[0]] -= 1
        self._open[version] += 1
        while len(self._bound) > self._limit:
            self._drop(next(iter(self._bound)))

    def open_by_version(self, now: float) -> dict[int, int]:
        """How many live trajectories each version has."""
        self._forget(now)
        return {version: count for version, count in self._open.items() if count}

    def _forget(self, now: float) -> None:
        while self._bound:
            oldest = next(iter(self._bound))
            if now - self._bound[oldest][1] <= self._idle_seconds:
                return
            self._drop(oldest)

    def _drop(self, trajectory_id: str) -> None:
        found = self._bound.pop(trajectory_id, None)
        if found is not None:
            self._open[found[0]] -= 1


class InFlight:
    """Requests running now, by version. What an adapter's unload waits for."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def enter(self, version: int | None) -> None:
        """A request was routed to `version`."""
        if version is not None:
            self._counts[version] += 1

    def leave(self, version: int | None) -> None:
        """Its answer has ended, whatever way it ended."""
        if version is not None:
            self._counts[version] -= 1

    def by_version(self) -> dict[int, int]:
        """Those versions that answer something now."""
        return {version: count for version, count in self._counts.items() if count}
