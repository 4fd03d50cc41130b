"""`[gateway]` and `[tracing]`: the process that serves."""

from typing import Literal

from pydantic import Field

from trajectories.settings.section import Section


class GatewaySettings(Section):
    """The process that serves."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on")
    api_key: str | None = Field(
        None, description="One key that may do everything; set alone, no other is taken"
    )
    signing_key: str | None = Field(
        None,
        min_length=16,
        description="Signs thumb links; unset: a random one in Redis. A new one voids old links",
    )
    public_url: str | None = Field(
        None, description="Where clients find this gateway; unset: as the request names it"
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


class TracingSettings(Section):
    """Spans for OpenTelemetry, one for each call: docs/tracing.md."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where spans go, by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces;"
        " unset: no tracing",
    )
