"""The settings of every process: `ratchet.toml`, then the environment, validated.

An environment variable is `RATCHET_<SECTION>_<KEY>` and wins over the file:
`RATCHET_GATEWAY_PORT=9000` is `port` of `[gateway]`. The file is looked for at
`RATCHET_CONFIG`, else `ratchet.toml` in the working directory. Each process
builds one `Settings` in its `__main__` and passes it down; nothing else reads
the environment. Every key is documented in docs/settings.md (a test compares).
"""

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from trajectories.errors import SettingsError
from trajectories.settings.archive import ArchiveSettings
from trajectories.settings.gateway import GatewaySettings, TracingSettings
from trajectories.settings.policies import PolicySettings, check_policies, trainer_for
from trajectories.settings.privacy import PrivacySettings
from trajectories.settings.rewards import AgentSettings, MetricSettings, RewardSettings
from trajectories.settings.siblings import SiblingSettings
from trajectories.settings.store import RedisSettings
from trajectories.settings.trainer import EngineSettings, TrainerSettings
from trajectories.settings.upstreams import (
    POLICY,
    SPOKEN,
    BreakerSettings,
    Dialect,
    Kind,
    OtherUpstreamSettings,
    Patience,
    RouteSettings,
    UpstreamSettings,
)
from trajectories.settings.verdicts import (
    CustomSettings,
    JudgeSettings,
    VerdictSettings,
    WebhookSettings,
)

__all__ = [
    "POLICY",
    "SPOKEN",
    "AgentSettings",
    "ArchiveSettings",
    "BreakerSettings",
    "CustomSettings",
    "Dialect",
    "EngineSettings",
    "GatewaySettings",
    "JudgeSettings",
    "Kind",
    "MetricSettings",
    "OtherUpstreamSettings",
    "Patience",
    "PolicySettings",
    "PrivacySettings",
    "RedisSettings",
    "RewardSettings",
    "RouteSettings",
    "Settings",
    "SiblingSettings",
    "TracingSettings",
    "TrainerSettings",
    "UpstreamSettings",
    "VerdictSettings",
    "WebhookSettings",
    "load_settings",
]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
SWAPPED = 2  # adapters beside the current ones while versions change: one comes, one drains
PolicyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]  # part of adapters' names


class Settings(BaseSettings):
    """All of it. Frozen; build with `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="RATCHET_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    data_dir: Path = Field(
        Path("ratchet-data"), description="Spool, adapters, runs, embedded Redis"
    )
    policy: PolicyName = Field("policy", description="Name of the trained policy")
    policy_tenant: str = Field(
        "default",
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="The tenant whose traffic the policy learns from, and whose calls it answers;"
        " other tenants' are answered by the base model, or by a policy of theirs",
    )
    policies: dict[PolicyName, PolicySettings] = Field(
        {}, description="Policies beside this one, by name"
    )
    redis: RedisSettings = RedisSettings()
    gateway: GatewaySettings = GatewaySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    upstreams: dict[Name, OtherUpstreamSettings] = Field({}, description="Other servers, by name")
    routes: dict[str, RouteSettings] = Field({}, description="Model names of clients")
    breaker: BreakerSettings = BreakerSettings()
    tracing: TracingSettings = TracingSettings()
    rewards: RewardSettings = RewardSettings()
    agents: dict[str, AgentSettings] = Field({}, description="Agents that differ, by name")
    archive: ArchiveSettings = ArchiveSettings()
    privacy: PrivacySettings = PrivacySettings()
    judges: dict[Name, JudgeSettings] = Field({}, description="Models that judge, by name")
    webhooks: dict[Name, WebhookSettings] = Field({}, description="Servers that reward, by name")
    custom: dict[Name, CustomSettings] = Field({}, description="Functions that reward, by name")
    siblings: SiblingSettings = SiblingSettings()
    trainer: TrainerSettings = TrainerSettings()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _policies_are_told_apart(self) -> Self:
        taken = {*self.routes, *self.gateway.aliases, self.upstream.base_model}
        check_policies(self.policies, default=self.policy, tenant=self.policy_tenant, taken=taken)
        return self

    @model_validator(mode="after")
    def _a_whole_model_is_alone(self) -> Self:
        full = [where for where, trainer in self._trainers() if trainer.weights == "full"]
        if full and self.policies:
            raise ValueError(
                f"{full[0]}.weights = full, but there are several policies"
                f" ({', '.join(self.policy_names)}): an engine has one set of weights. Set it to"
                " lora, or give each policy a house and an engine of its own"
            )
        return self

    @property
    def is_full(self) -> bool:
        """Whether the engine's own weights are what a round changes (`trainer.weights`)."""
        return self.trainer.weights == "full"

    @model_validator(mode="after")
    def _a_round_may_have_what_it_needs(self) -> Self:
        for where, trainer in self._trainers():
            by_interval = trainer.interval_seconds is not None  # what there is will do
            if trainer.most_unused < trainer.min_trajectories and not by_interval:
                raise ValueError(
                    f"{where}.min_trajectories = {trainer.min_trajectories} is never reached: a"
                    f" round looks at {trainer.most_unused} that none has used ({where}"
                    ".max_trajectories without the share that is replayed, replay_share): lower"
                    " the first or raise the second"
                )
        return self

    @model_validator(mode="after")
    def _what_is_tracked_is_compared(self) -> Self:
        for where, trainer in self._trainers():
            if trainer.baseline == "tracker" and trainer.credit == "step":
                raise ValueError(
                    f"{where}.baseline = tracker remembers final rewards, which {where}.credit ="
                    " step takes apart: choose another of the two"
                )
        return self

    @model_validator(mode="after")
    def _what_is_put_right_is_final(self) -> Self:
        for where, trainer in self._trainers():
            if trainer.missing != "aipw":
                continue
            if trainer.credit in ("step", "stepgroup"):
                raise ValueError(
                    f"{where}.missing = aipw puts final rewards right, and {where}.credit ="
                    f" {trainer.credit} reads what was said of calls: take identical or discounted"
                )
            if trainer.negative_weight != 1:
                raise ValueError(
                    f"{where}.missing = aipw puts rewards right on average, which"
                    f" {where}.negative_weight = {trainer.negative_weight:g} undoes: set it to 1"
                )
        return self

    @model_validator(mode="after")
    def _rank_fits_the_engine(self) -> Self:
        for where, trainer in self._trainers():
            if self.engine.serve and trainer.rank > self.engine.max_lora_rank:
                raise ValueError(
                    f"{where}.rank is {trainer.rank} but engine.max_lora_rank is"
                    f" {self.engine.max_lora_rank}: raise the second or lower the first"
                )
        return self

    @model_validator(mode="after")
    def _every_policy_fits_into_the_engine(self) -> Self:
        least = len(self.policy_names) + SWAPPED
        if self.policies and self.adapter_slots < least:
            raise ValueError(
                f"engine.max_loras is {self.adapter_slots}, but {len(self.policy_names)} policies"
                f" need {least}: one each, one that comes and one that drains"
            )
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        if POLICY in self.upstreams:
            raise ValueError(f'no upstream may be called "{POLICY}": that is [upstream]')
        upstreams = [POLICY, *sorted(self.upstreams)]
        own = (alias for policy in self.policies.values() for alias in policy.aliases)
        targets = {*self.routes, *self.gateway.aliases, *own}
        for name, route in self.routes.items():
            if route.upstream not in upstreams:
                known = ", ".join(upstreams)
                raise ValueError(
                    f'routes."{name}".upstream: there is no "{route.upstream}" (there are: {known})'
                )
            for fallback in route.fallbacks:
                if fallback not in targets and "*" not in self.gateway.aliases:
                    known = ", ".join(sorted(targets))
                    raise ValueError(
                        f'routes."{name}".fallbacks: "{fallback}" is neither a route nor an alias'
                        f" (there are: {known})"
                    )
        if circle := _circle({name: route.fallbacks for name, route in self.routes.items()}):
            raise ValueError(f"routes: the fallbacks run in a circle: {' -> '.join(circle)}")
        return self

    @model_validator(mode="after")
    def _verdicts_are_told_apart(self) -> Self:
        names = [*self.judges, *self.webhooks, *self.custom]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"{', '.join(twice)}: judges, webhooks and custom rewards need different names"
            )
        return self

    @model_validator(mode="after")
    def _siblings_are_of_a_policy(self) -> Self:
        for name in self.siblings.policies:
            if name not in self.policy_names:
                known = ", ".join(self.policy_names)
                raise ValueError(f'siblings.policies: there is no "{name}" (there are: {known})')
        tenants = self.tenants_of_policies()
        if len({tenants[name] for name in self.siblings.policies}) > 1:
            raise ValueError(
                "siblings.policies learn from several tenants' traffic, but siblings.api_key is of"
                " one: name those of one tenant, and start a process with other settings for others"
            )
        return self

    def with_algorithm(self, written: str) -> Self:
        """The same with another `trainer.algorithm`. Raises SettingsError for what is no name."""
        fields = {**self.trainer.model_dump(), "algorithm": written}
        try:
            trainer = TrainerSettings.model_validate(fields)
        except ValidationError as error:
            raise SettingsError(f"algorithm: {error.errors()[0]['msg']}") from error
        return self.model_copy(update={"trainer": trainer})

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Every policy that is trained here, the default one first."""
        return (self.policy, *self.policies)

    @property
    def adapter_slots(self) -> int:
        """How many adapters an engine holds at once, of all policies together."""
        return self.engine.max_loras or len(self.policy_names) + SWAPPED + 1

    def for_policy(self, name: str) -> Self:
        """The settings as they are for one policy: its name, its tenant, its `[trainer]`.

        Raises SettingsError, naming those that there are.
        """
        if name not in self.policy_names:
            known = ", ".join(self.policy_names)
            raise SettingsError(f'there is no policy "{name}" (there are: {known})')
        engine = self.engine.model_copy(update={"max_loras": self.adapter_slots})
        changes: dict[str, Any] = {"policies": {}, "engine": engine}
        if own := self.policies.get(name):
            changes |= {
                "policy": name,
                "policy_tenant": own.tenant or self.policy_tenant,
                "trainer": trainer_for(name, self.trainer, own),
            }
        return self.model_copy(update=changes)

    def tenants_of_policies(self) -> dict[str, str]:
        """Policy -> the tenant whose traffic it learns from."""
        own = {name: policy.tenant or self.policy_tenant for name, policy in self.policies.items()}
        return {self.policy: self.policy_tenant, **own}

    def _trainers(self) -> list[tuple[str, TrainerSettings]]:
        """`[trainer]` and what each policy makes of it, with where that stands."""
        own = [
            (f"policies.{name}.trainer", trainer_for(name, self.trainer, policy))
            for name, policy in self.policies.items()
        ]
        return [("trainer", self.trainer), *own]

    @property
    def verdict_sources(self) -> dict[str, VerdictSettings]:
        """Everything that gives verdicts, by name."""
        return {**self.judges, **self.webhooks, **self.custom}

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir / "adapters"

    @property
    def archive_url(self) -> str:
        return self.archive.url or str(self.data_dir / "archive")

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the file and the environment; `overrides` win over both, the environment over the file.

    `config` names the file (default: RATCHET_CONFIG, else ratchet.toml if it is
    there). Raises SettingsError, naming the key and what is wrong with it.
    """
    named = config or (
        Path(os.environ["RATCHET_CONFIG"]) if "RATCHET_CONFIG" in os.environ else None
    )
    if named is not None and not named.is_file():
        raise SettingsError(f"the settings file {named} does not exist")
    path = named or Path("ratchet.toml")
    if "REDIS_URL" in os.environ and "RATCHET_REDIS_URL" not in os.environ:
        # The name that hosting platforms use.
        overrides.setdefault("redis", {"url": os.environ["REDIS_URL"]})
    _refuse_unknown_variables()
    try:
        return _with_keys(_reading(path)(**overrides))
    except SourceError as error:
        raise SettingsError(
            f"wrong settings: {error} (lists and tables are written as JSON in the environment,"
            """ such as '["a"]')"""
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in issue['loc']) or 'settings'}: {issue['msg']}"
            for issue in error.errors()
        ]
        raise SettingsError("wrong settings: " + "; ".join(lines)) from error


def _circle(successors: dict[str, tuple[str, ...]]) -> list[str]:
    """Names that lead back to the first of them, or nothing."""
    sound: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in sound:
            for successor in successors.get(name, ()):
                if circle := walk(successor, [*path, name]):
                    return circle
            sound.add(name)
        return []

    return next((circle for name in successors if (circle := walk(name, []))), [])


def _with_keys(settings: Settings) -> Settings:
    """`settings` with the keys that stand in variables of their own (`api_key_env`).

    A variable that is not set is no error here: only the process that uses a key
    needs it, and says so.
    """
    named = {
        name: upstream.model_copy(update={"api_key": os.environ.get(upstream.api_key_env)})
        for name, upstream in settings.upstreams.items()
        if upstream.api_key_env is not None
    }
    judges = {
        name: judge.model_copy(update={"api_key": os.environ.get(judge.api_key_env)})
        for name, judge in settings.judges.items()
        if judge.api_key_env is not None
    }
    webhooks = {
        name: webhook.model_copy(update={"secret": os.environ.get(webhook.secret_env)})
        for name, webhook in settings.webhooks.items()
        if webhook.secret_env is not None
    }
    siblings = settings.siblings
    if siblings.api_key_env is not None:
        key = os.environ.get(siblings.api_key_env)
        siblings = siblings.model_copy(update={"api_key": key})
    return settings.model_copy(
        update={
            "siblings": siblings,
            "upstreams": {**settings.upstreams, **named},
            "judges": {**settings.judges, **judges},
            "webhooks": {**settings.webhooks, **webhooks},
        }
    )


def _refuse_unknown_variables() -> None:
    """A slip in a section's name, such as RATCHET_GATWAY_PORT; pydantic-settings passes it over.

    Names that resemble no section are let be: they may be somebody else's.
    """
    names = list(Settings.model_fields)
    prefixes = tuple(f"RATCHET_{name.upper()}_" for name in names)
    for variable in sorted(os.environ):
        if not variable.startswith("RATCHET_") or f"{variable}_".startswith(prefixes):
            continue
        rest = variable.removeprefix("RATCHET_").lower()
        for written in (rest, rest.partition("_")[0]):
            if meant := get_close_matches(written, names, n=1, cutoff=0.8):
                raise SettingsError(
                    f"wrong settings: {variable} is the name of no setting (meant {meant[0]}?)"
                )


def _reading(path: Path) -> type[Settings]:
    """`Settings` with `path` as its file; pydantic-settings binds sources to a class."""

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file_settings = TomlConfigSettingsSource(settings_cls, path)
            return init_settings, env_settings, file_settings

    return FileSettings
