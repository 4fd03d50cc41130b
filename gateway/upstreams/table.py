"""What a client's model name means: the upstreams to ask, in order. Pure, prepared once.

A route of the settings wins over an alias; a name that is neither goes to the
policy's own engine unchanged. Which policy version answers is decided later
(`gateway/routing.py`, with `Table.aliases`); which replica, in `balance.py`.
"""

from dataclasses import dataclass
from typing import get_args

from gateway.errors import ApiError
from gateway.routing import ANY
from trajectories.errors import SettingsError
from trajectories.settings import POLICY, SPOKEN, Dialect, Kind, Settings

# Dialects that are translated to chat for an upstream that does not speak them itself.
_TRANSLATED = frozenset({"responses", "messages"})


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream to ask, and for what."""

    upstream: str
    kind: Kind
    model: str  # of the policy's engine: an alias, or a name that the engine knows
    is_policy: bool  # the engine of `[upstream]`: asked for token ids, stamped with a version
    is_native: bool  # the body may pass as it is; otherwise it is translated to chat
    alias: str | None = None  # the client's name, which the reply echoes, where it is not `model`


class Table:
    """`targets(name, dialect)` is one look-up.

    `aliases` are all names that mean the current policy version, those of
    `gateway.aliases` and the routes that lead there; `names` are all names that
    mean something of their own, for the list of models.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when a key that a variable should hold is not there."""
        for name, upstream in settings.upstreams.items():
            if upstream.api_key_env is not None and not upstream.api_key:
                raise SettingsError(
                    f"wrong settings: upstreams.{name}.api_key_env: the variable"
                    f" {upstream.api_key_env} is not set"
                )
        self._settings = settings
        led_to_policy = [
            name
            for name, route in settings.routes.items()
            if route.upstream == POLICY and route.model is None
        ]
        self.aliases = tuple(dict.fromkeys([*settings.gateway.aliases, *led_to_policy]))
        named = [*settings.routes, *(name for name in settings.gateway.aliases if name != ANY)]
        self.names = tuple(dict.fromkeys(named))
        dialects: tuple[Dialect, ...] = get_args(Dialect)
        self._prepared = {
            (name, dialect): self._flattened(name, dialect)
            for name in self.names
            for dialect in dialects
        }

    def targets(self, name: str, dialect: Dialect) -> tuple[Target, ...]:
        """At least one. Raises ApiError 400 when nothing behind `name` can speak `dialect`."""
        found = self._prepared.get((name, dialect))
        if found is None:
            return (self._target(name, name, dialect),)
        if not found:
            message = f"the model `{name}` does not answer in this dialect ({dialect})"
            raise ApiError(400, "unsupported_dialect", message, param="model")
        return found

    def _flattened(self, name: str, dialect: Dialect) -> tuple[Target, ...]:
        """The route itself, then its fallbacks in their order, then the fallbacks of those."""
        queue, found = [name], dict[tuple[str, str], Target]()
        for step in queue:  # it grows while it is read
            route = self._settings.routes.get(step)
            if route is not None:
                queue += [fallback for fallback in route.fallbacks if fallback not in queue]
            if self._can_answer(route.upstream if route else POLICY, dialect):
                target = self._target(name, step, dialect)
                found.setdefault((target.upstream, target.model), target)
        return tuple(found.values())

    def _target(self, name: str, step: str, dialect: Dialect) -> Target:
        """Where `step` of the client's `name` leads."""
        route = self._settings.routes.get(step)
        upstream = route.upstream if route else POLICY
        model = (route.model if route else None) or step
        return Target(
            upstream=upstream,
            kind=self._kind(upstream),
            model=model,
            is_policy=upstream == POLICY,
            is_native=dialect in self._spoken(upstream),
            alias=name if name != model else None,
        )

    def _can_answer(self, upstream: str, dialect: Dialect) -> bool:
        spoken = self._spoken(upstream)
        return dialect in spoken or (dialect in _TRANSLATED and "chat" in spoken)

    def _kind(self, upstream: str) -> Kind:
        return "vllm" if upstream == POLICY else self._settings.upstreams[upstream].kind

    def _spoken(self, upstream: str) -> tuple[Dialect, ...]:
        if upstream == POLICY:
            return SPOKEN["vllm"]
        return self._settings.upstreams[upstream].spoken
