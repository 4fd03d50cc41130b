"""`[upstream]`, `[upstreams]`, `[routes]`, `[breaker]`: who answers, and how long that may take."""

from typing import Literal, Self

from pydantic import Field, model_validator

from trajectories.settings.section import Section


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
