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
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from trajectories.errors import SettingsError


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error, not silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RedisSettings(Section):
    """Where the records are."""

    url: str = Field("redis://127.0.0.1:6379/0", description="Any Redis or Valkey, 6.2 or later")
    timeout_seconds: float = Field(0.5, gt=0, description="Limit of one command")


class GatewaySettings(Section):
    """The process that serves."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on")
    api_key: str | None = Field(
        None, description="One key that may do everything; set alone, no other is taken"
    )
    require_keys: bool = Field(
        False, description="Ask for a key made by `ratchet keys`; off and no api_key: all may call"
    )
    aliases: tuple[str, ...] = Field(
        ("policy",), description='Model names that mean the current policy version; "*": any name'
    )
    max_body_mb: float = Field(32, gt=0, description="Larger request bodies get a 413")
    max_connections: int = Field(10_000, ge=1, description="Further ones get a 503, per process")
    header_seconds: float = Field(20, gt=0, description="Limit for the headers of a request")
    body_seconds: float = Field(60, gt=0, description="Limit for the body of a request")
    write_seconds: float = Field(60, gt=0, description="How long a client may not read its answer")
    keep_alive_seconds: float = Field(75, gt=0, description="How long a connection may be idle")
    hot_protocol: bool = Field(
        True, description="Answer calls inside uvicorn's HTTP protocol; off: through ASGI"
    )
    workers: int = Field(1, ge=1, le=64, description="Processes, each with a spool of its own")
    shutdown_seconds: int = Field(25, ge=1, description="How long open streams may run on SIGTERM")
    sticky_seconds: float = Field(
        3600, gt=0, description="How long an idle trajectory is remembered as bound to a version"
    )
    spool_mb: int = Field(10_240, ge=1, description="Disk budget of the write-ahead spool")
    durability: Literal["best_effort", "required"] = Field(
        "best_effort",
        description="What a full spool means: serve and count the loss, or answer 503",
    )


class Patience(Section):
    """How long an upstream may take, and how often it is asked."""

    connect_seconds: float = Field(5, gt=0, description="Limit for opening a connection")
    first_byte_seconds: float = Field(300, gt=0, description="Limit for the first byte")
    idle_seconds: float = Field(120, gt=0, description="Limit between two reads of an answer")
    total_seconds: float = Field(3600, gt=0, description="Limit for a whole answer")
    retries: int = Field(
        1, ge=0, description="Most further tries of a call before its first byte; 0: none"
    )


class UpstreamSettings(Patience):
    """The inference engine behind the gateway."""

    url: str = Field("http://127.0.0.1:8000", description="Base address of vLLM, without /v1")
    replicas: tuple[str, ...] = Field(
        (),
        description="Every vLLM address: calls are balanced over them, adapters loaded into each;"
        " empty: just `url`",
    )
    api_key: str | None = Field(None, description="The key vLLM was started with, if any")
    base_model: str = Field("base", description="The name vLLM serves the base model under")

    @property
    def engines(self) -> tuple[str, ...]:
        """Every engine the swap controller has to keep in step."""
        return self.replicas or (self.url,)


POLICY = "policy"  # the upstream of that name is `[upstream]`: the policy's own engine
Dialect = Literal["chat", "completions", "responses", "messages", "embeddings"]
Kind = Literal["vllm", "openai", "anthropic", "litellm"]
SPOKEN: dict[Kind, tuple[Dialect, ...]] = {
    # vLLM's own responses and messages carry no token ids: they are translated to chat.
    "vllm": ("chat", "completions", "embeddings"),
    "openai": ("chat", "completions", "embeddings"),
    "anthropic": ("messages",),
    "litellm": ("chat", "embeddings"),
}


class OtherUpstreamSettings(Patience):
    """Another server that answers, under a name of its own."""

    kind: Kind = Field(
        "openai",
        description="vllm; openai: an OpenAI-compatible URL; anthropic: the Messages API;"
        " litellm: a provider spoken to through that library",
    )
    url: str | None = Field(
        None,
        description="Base address, without /v1; of litellm: its `api_base`, unset: the usual one",
    )
    replicas: tuple[str, ...] = Field(
        (), description="Every address, to balance over; empty: just `url`"
    )
    api_key: str | None = Field(None, description="The key it asks for")
    api_key_env: str | None = Field(
        None, description="The environment variable that holds the key, instead of `api_key`"
    )
    dialects: tuple[Dialect, ...] = Field(
        (), description="What it speaks itself; empty: what is usual for its kind"
    )
    provider: str | None = Field(
        None, description='litellm\'s name of the provider, such as "anthropic" or "bedrock"'
    )

    @property
    def engines(self) -> tuple[str, ...]:
        """Every address; none for a provider whose address litellm knows."""
        return self.replicas or ((self.url,) if self.url is not None else ())

    @property
    def spoken(self) -> tuple[Dialect, ...]:
        """The dialects it is asked in without translation."""
        return self.dialects or SPOKEN[self.kind]

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.kind == "litellm":
            if not self.provider:
                raise ValueError('kind = "litellm" needs a provider, such as "anthropic"')
            if self.replicas:
                raise ValueError('kind = "litellm" takes one url and no replicas')
            if not set(self.dialects) <= set(SPOKEN["litellm"]):
                raise ValueError('kind = "litellm" speaks "chat" and "embeddings" only')
        elif self.provider is not None:
            raise ValueError('a provider is for kind = "litellm" only')
        elif not self.engines:
            raise ValueError(f'kind = "{self.kind}" needs a url')
        for url in self.engines:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url} is not a url: it begins with http:// or https://")
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env are two ways to say one thing: keep one")
        return self


class RouteSettings(Section):
    """What a model name that clients send means."""

    upstream: str = Field(description='Name of an upstream; "policy": `[upstream]`')
    model: str | None = Field(
        None, description="The model it is asked for; unset: the route's name, or the policy"
    )
    fallbacks: tuple[str, ...] = Field(
        (), description="Routes and aliases to try, in order, when it gives no first byte"
    )


class BreakerSettings(Section):
    """When an address of an upstream is left alone for a while, and calls fail at once."""

    failures: int = Field(5, ge=1, description="So many failures in a row open it")
    share: float = Field(0.5, gt=0, le=1, description="So does this share of failures")
    minimum_calls: int = Field(
        20, ge=1, description="The share counts from this many calls in the window"
    )
    window_seconds: float = Field(10, gt=0, description="The window that the share is taken over")
    open_seconds: float = Field(5, gt=0, description="How long it is open before one call may try")


class TracingSettings(Section):
    """Spans for OpenTelemetry, one for each call: docs/tracing.md."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where spans go, by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces;"
        " unset: no tracing",
    )


class RewardSettings(Section):
    """How signals and votes become one number."""

    label_window_seconds: float = Field(
        600, gt=0, description="A trajectory closes when nothing happened for this long"
    )
    air: dict[str, float] = Field(
        default_factory=dict, description="AIR signal -> reward, overriding the defaults; 0 is off"
    )
    air_weight: float = Field(
        1.0, ge=0, le=1, description="Weight of the sum of AIR rewards in the final reward"
    )
    max_share_per_source: float = Field(
        1.0, gt=0, le=1, description="Largest share of a round's labels from one feedback source"
    )


class TrainerSettings(Section):
    """When and how a round is trained."""

    algorithm: Literal["grpo", "sft"] = Field("grpo", description="What a round runs")
    base_model_path: str | None = Field(
        None, description="Directory or hub name of the base model's weights"
    )
    min_trajectories: int = Field(
        64, ge=1, description="Rewarded, closed trajectories that start a round"
    )
    max_trajectories: int = Field(4096, ge=1, description="Most trajectories of one round")
    interval_seconds: float | None = Field(
        None, gt=0, description="Also start a round this long after the last, with what there is"
    )
    min_per_outcome: int = Field(
        4, ge=0, description="Least trajectories above and below the mean reward in a round"
    )
    max_staleness: int = Field(
        4, ge=0, description="Oldest policy version trained on, counted back from the current one"
    )
    epochs: int = Field(2, ge=1, description="Passes over a round's samples")
    learning_rate: float = Field(1e-4, gt=0, description="Of AdamW, constant over the round")
    batch_size: int = Field(16, ge=2, description="Samples of one optimizer step")
    rank: int = Field(16, ge=1, le=256, description="Rank of the LoRA matrices")
    alpha: int = Field(32, ge=1, description="LoRA scale, divided by the rank")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Modules that get LoRA matrices",
    )
    negative_weight: float = Field(
        0.25, ge=0, le=1, description="Factor on negative advantages (GRPO)"
    )
    shrinkage: float = Field(
        4.0, ge=0, description="Weight of the batch mean in a task's baseline, in trajectories"
    )
    clip_low: float = Field(
        0.2, gt=0, lt=1, description="Importance ratios below 1 minus this are clipped (GRPO)"
    )
    clip_high: float = Field(
        0.28, gt=0, lt=1, description="Importance ratios above 1 plus this are clipped (GRPO)"
    )
    dual_clip: float = Field(
        1.5, gt=1, description="Largest ratio that a negative advantage is multiplied with (GRPO)"
    )
    off_policy_threshold: float | None = Field(
        0.2, gt=0, description="Mean per-token KL beyond which a negative sample is masked"
    )
    kl_to_base: float = Field(0.0, ge=0, description="Coefficient of the KL to the base model")
    sft_threshold: float = Field(
        0.0, ge=-1, le=1, description="SFT learns from trajectories rewarded above this"
    )
    max_length: int = Field(4096, ge=16, description="Longest sample, in tokens")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the base model's weights; the same as vLLM's"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto: a GPU if there is one"
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves it to torch")
    seed: int = Field(0, ge=0, description="Of the order of rows and of fresh LoRA matrices")
    probe_tolerance: float = Field(
        0.0,
        ge=0,
        description="Largest served-to-trained logprob difference; 0: 1e-3 float32, 0.3 bfloat16",
    )
    drain_seconds: float = Field(
        120, gt=0, description="Longest wait for running trajectories before a version retires"
    )
    shuffle_rewards: bool = Field(
        False, description="Control experiment: permute the rewards of a round. Never in production"
    )


class EngineSettings(Section):
    """The vLLM that `ratchet up` starts by itself."""

    serve: bool = Field(False, description="Start vLLM here; false: `upstream.url` runs elsewhere")
    model: str | None = Field(None, description="Model directory or hub name to serve")
    max_model_len: int = Field(2048, ge=16, description="Longest prompt plus answer, in tokens")
    dtype: str = Field("auto", description="As vLLM takes it")
    max_lora_rank: int = Field(16, ge=1, description="Not below trainer.rank")
    arguments: tuple[str, ...] = Field((), description="More arguments for `vllm serve`")


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
    policy: str = Field(
        "policy", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="Name of the trained policy"
    )
    redis: RedisSettings = RedisSettings()
    gateway: GatewaySettings = GatewaySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    upstreams: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], OtherUpstreamSettings
    ] = Field({}, description="Other servers, by name")
    routes: dict[str, RouteSettings] = Field({}, description="Model names of clients")
    breaker: BreakerSettings = BreakerSettings()
    tracing: TracingSettings = TracingSettings()
    rewards: RewardSettings = RewardSettings()
    trainer: TrainerSettings = TrainerSettings()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _shuffling_is_a_control_of_grpo(self) -> Self:
        if self.trainer.shuffle_rewards and self.trainer.algorithm != "grpo":
            raise ValueError(
                "trainer.shuffle_rewards needs trainer.algorithm = grpo: SFT chooses its rows by"
                " reward before they are shuffled"
            )
        return self

    @model_validator(mode="after")
    def _rank_fits_the_engine(self) -> Self:
        if self.engine.serve and self.trainer.rank > self.engine.max_lora_rank:
            raise ValueError(
                f"trainer.rank is {self.trainer.rank} but engine.max_lora_rank is"
                f" {self.engine.max_lora_rank}: raise the second or lower the first"
            )
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        if POLICY in self.upstreams:
            raise ValueError(f'no upstream may be called "{POLICY}": that is [upstream]')
        upstreams = [POLICY, *sorted(self.upstreams)]
        targets = {*self.routes, *self.gateway.aliases}
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

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir / "adapters"

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

    A variable that is not set is no error here: only the gateway needs the keys,
    and it says so.
    """
    named = {
        name: upstream.model_copy(update={"api_key": os.environ.get(upstream.api_key_env)})
        for name, upstream in settings.upstreams.items()
        if upstream.api_key_env is not None
    }
    return settings.model_copy(update={"upstreams": {**settings.upstreams, **named}})


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
