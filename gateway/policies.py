"""Which policy answers whom: the settings as look-ups, and the versions as they were last seen.

Used from the event loop only; no I/O. `gateway/snapshot.py` brings new
snapshots, `gateway/routing.py` chooses the version of a policy.
"""

from collections.abc import Iterator, Sequence

from gateway.attribution import clean_id
from gateway.routing import InFlight, Route, Stickiness, at_version, choose
from trajectories.registry import Snapshot
from trajectories.settings import Settings

_CONVERSATIONS = 20_000  # without a session, remembered to keep them on one version


class Served:
    """One policy as this gateway serves it: its versions, and who is on which."""

    def __init__(self, settings: Settings, snapshot: Snapshot, aliases: tuple[str, ...]) -> None:
        """`settings` are this policy's (`Settings.for_policy`)."""
        self.settings = settings
        self.name = settings.policy
        self.tenant = settings.policy_tenant  # whose calls it answers
        self.aliases = aliases  # all names that mean its current version
        self.snapshot = snapshot
        self.in_flight = InFlight()
        self.stickiness = Stickiness(settings.gateway.sticky_seconds)
        self.conversations = Stickiness(settings.gateway.sticky_seconds, _CONVERSATIONS)

    def route(self, name: str, trajectory: str, is_named: bool, now: float) -> Route:
        """The route of a call for `name`; its trajectory stays on the version it began on."""
        memory = self.stickiness if is_named else self.conversations
        bound = memory.version_of(trajectory, now)
        route = choose(name, aliases=self.aliases, snapshot=self.snapshot, bound=bound)
        if route.alias is not None and route.version is not None:
            memory.bind(trajectory, route.version, now)
        return route

    def current_route(self, name: str) -> Route:
        """The route of a call for `name` that no conversation binds to a version."""
        return choose(name, aliases=self.aliases, snapshot=self.snapshot)

    def tokenizing(self, name: str) -> str:
        """Who counts tokens for `name`: the base model, which is always loaded, for any version."""
        route = choose(name, aliases=self.aliases, snapshot=self.snapshot)
        return route.model if route.version is None else self.snapshot.versions[0].model

    def base_route(self, alias: str) -> Route:
        """The base model, in this policy's name."""
        return at_version(alias, 0, self.snapshot)


class Policies:
    """All of them, the default one first."""

    def __init__(self, served: Sequence[Served], agents: Sequence[tuple[str, ...] | None]) -> None:
        """`agents` says for each policy which ones it is for: () all, None those that name it."""
        self.default = served[0]
        self._by_name = {policy.name: policy for policy in served}
        self._is_alone = len(served) == 1
        self._whose: dict[tuple[str, str | None], Served] = {}
        for policy, own in zip(served, agents, strict=True):
            if own is not None:
                for agent in own or (None,):
                    self._whose[policy.tenant, agent] = policy
        self._by_model: dict[str, Served] = {}  # names that mean one policy, whoever asks
        for policy in served[1:]:
            for alias in policy.aliases:
                if alias not in self.default.aliases:
                    self._by_model[alias] = policy
        for policy in served:
            self.put(policy, policy.snapshot)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Served:
        return self._by_name[name]

    def get(self, name: str | None) -> Served | None:
        """The policy of that name, if it is served here."""
        return None if name is None else self._by_name.get(name)

    def put(self, policy: Served, snapshot: Snapshot) -> None:
        """Route by a newer snapshot from now on."""
        policy.snapshot = snapshot
        for version, entry in snapshot.versions.items():
            if version > 0:  # the base model is everybody's
                self._by_model[entry.model] = policy

    def answering(self, name: str, tenant: str, agent: str | None) -> Served | None:
        """The policy that answers a call for `name`; None: the base model does.

        What one tenant's traffic made answers nobody else's.
        """
        if self._is_alone:
            return self.default if tenant == self.default.tenant else None
        named = self._by_model.get(name)
        if named is not None:
            return named if named.tenant == tenant else None
        found = self._whose.get((tenant, agent))
        return found if found is not None else self._whose.get((tenant, None))

    def is_adapter(self, model: object) -> bool:
        """Whether that is an engine's name for a version of some policy."""
        named = self._by_model.get(model) if isinstance(model, str) else None
        return named is not None and model not in named.aliases

    def of_tenant(self, tenant: str) -> list[Served]:
        """Those that learn from a tenant's traffic, the one for all its agents first."""
        own = [policy for policy in self if policy.tenant == tenant]
        whole = self._whose.get((tenant, None))
        return sorted(own, key=lambda policy: policy is not whole)

    def enter(self, route: Route) -> None:
        """A request was routed."""
        if route.version is not None:
            self._by_name[route.policy or ""].in_flight.enter(route.version)

    def leave(self, route: Route) -> None:
        """Its answer has ended, whatever way it ended."""
        if route.version is not None:
            self._by_name[route.policy or ""].in_flight.leave(route.version)


def serve_policies(
    settings: Settings, snapshots: Sequence[Snapshot], aliases: tuple[str, ...]
) -> Policies:
    """The policies of the settings, in their order; `aliases` are everybody's."""
    served: list[Served] = []
    agents: list[tuple[str, ...] | None] = []
    for name, snapshot in zip(settings.policy_names, snapshots, strict=True):
        policy = Served(settings.for_policy(name), snapshot, aliases)
        own = settings.policies.get(name)
        if own is not None:
            policy.aliases = (*aliases, *own.aliases)
        is_whole = own is None or policy.tenant != settings.policy_tenant
        served.append(policy)
        names = own.agents if own is not None else ()
        # As calls name them: odd ones are hashed on their way in.
        kept = tuple([clean_id(name) or name for name in names])
        agents.append(kept or (() if is_whole else None))
    return Policies(served, agents)
