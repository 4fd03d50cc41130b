"""`ratchet up`: the whole loop on one machine.

Which processes there are, in which order they start, and how each one learns
its settings. Docker compose starts the same commands, one container each.
"""

import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from ratchet.processes import LineSink, ProcessSpec, Supervisor
from ratchet.redis_server import EmbeddedRedis, is_configured
from trajectories.errors import SettingsError
from trajectories.settings import Settings

ENGINE_START_SECONDS = 600.0
START_SECONDS = 60.0
PYTHON = sys.executable


# Everything asked here is a process of ours: a proxy of the machine has no business in between.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether `url` answers 200 within a second."""
    try:
        with _DIRECT.open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def vllm_version() -> str | None:
    """The installed vLLM, or None."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("vllm")
    return None


def engine_spec(settings: Settings, environment: Mapping[str, str]) -> ProcessSpec:
    """vLLM at the address of `upstream.url`, ready for new adapters, or for other weights."""
    version = vllm_version()
    if version is None:
        raise SettingsError(
            "engine.serve is on but vLLM is not installed: `make install` brings it, or start"
            " vLLM elsewhere and set upstream.url"
        )
    if settings.engine.model is None:
        raise SettingsError("engine.serve is on: set engine.model to what vLLM should serve")
    address = urlsplit(settings.upstream.url)
    is_cpu = "cpu" in version
    command = [
        str(Path(PYTHON).with_name("vllm")), "serve", settings.engine.model,
        "--served-model-name", settings.upstream.base_model,
        "--host", address.hostname or "127.0.0.1",
        "--port", str(address.port or 8000),
        "--dtype", settings.engine.dtype,
        "--max-model-len", str(settings.engine.max_model_len),
        *(_whole_arguments(is_cpu) if settings.is_full else _adapter_arguments(settings)),
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
        "--disable-uvicorn-access-log",
        *settings.engine.arguments,
    ]  # fmt: skip
    own = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if settings.is_full:
        own["VLLM_SERVER_DEV_MODE"] = "1"  # the routes that exchange its weights
    if is_cpu:
        # Else the first request with logprobs compiles C++ for half a minute, or dies of it.
        own["TORCHDYNAMO_DISABLE"] = "1"
    return ProcessSpec(
        "vllm",
        command,
        {**environment, **own},
        stop_seconds=20,
        ready=lambda: answers(f"{settings.upstream.url}/health"),
        is_group=True,
    )


def _adapter_arguments(settings: Settings) -> list[str]:
    """Room for the current, the candidate, the draining and the previous version."""
    return [
        "--enable-lora", "--max-loras", str(settings.adapter_slots),
        "--max-cpu-loras", str(2 * settings.adapter_slots),
        "--max-lora-rank", str(settings.engine.max_lora_rank),
    ]  # fmt: skip


def _whole_arguments(is_cpu: bool) -> list[str]:
    """Nothing is compiled on a CPU: what --enable-lora brings about has to be said without it."""
    return ["--enforce-eager"] if is_cpu else []


def process_specs(
    settings: Settings, environment: Mapping[str, str], *, with_trainer: bool = True
) -> list[ProcessSpec]:
    """Every process of the loop but Redis, in the order they start."""
    host = settings.gateway.host
    # A gateway that listens everywhere is asked on the loopback address.
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://[{reachable}]" if ":" in reachable else f"http://{reachable}"
    specs = [engine_spec(settings, environment)] if settings.engine.serve else []
    specs += [
        ProcessSpec("dispatcher", [PYTHON, "-m", "workers", "dispatcher"], environment),
        ProcessSpec("worker", [PYTHON, "-m", "workers", "worker"], environment),
    ]
    if settings.archive.enabled:
        archiver = [PYTHON, "-m", "workers", "archiver"]
        specs.append(ProcessSpec("archiver", archiver, environment, stop_seconds=30))
    if settings.verdict_sources:
        specs.append(ProcessSpec("verdicts", [PYTHON, "-m", "workers", "verdicts"], environment))
    if settings.siblings.enabled:
        specs.append(ProcessSpec("siblings", [PYTHON, "-m", "workers", "siblings"], environment))
    if with_trainer:
        specs.append(ProcessSpec("trainer", [PYTHON, "-m", "trainer"], environment))
    specs.append(
        ProcessSpec(
            "gateway",
            [PYTHON, "-m", "gateway"],
            environment,
            stop_seconds=settings.gateway.shutdown_seconds + 5,
            ready=lambda: answers(f"{address}:{settings.gateway.port}/healthz"),
        )
    )
    return specs


class Loop:
    """Redis and all processes of one data directory."""

    def __init__(
        self,
        settings: Settings,
        sink: LineSink,
        *,
        environment: Mapping[str, str] | None = None,
        with_trainer: bool = True,
    ) -> None:
        self.settings = settings
        self.redis = None if is_configured(settings) else EmbeddedRedis(settings)
        own = {"RATCHET_DATA_DIR": str(settings.data_dir.resolve()), **(environment or {})}
        if self.redis is not None:
            own["RATCHET_REDIS_URL"] = self.redis.settings.url
        self.supervisor = Supervisor(process_specs(settings, own, with_trainer=with_trainer), sink)

    def start(self, stop: threading.Event | None = None) -> None:
        """Start everything and wait until the gateway (and vLLM, if ours) answers.

        Raises SettingsError naming what did not come up.
        """
        if self.redis is not None:
            self.redis.start()
        self.supervisor.start()
        seconds = ENGINE_START_SECONDS if self.settings.engine.serve else START_SECONDS
        missing = self.supervisor.wait_ready(seconds, stop)
        if missing and not (stop and stop.is_set()):
            raise SettingsError(f"{', '.join(missing)} did not come up within {seconds:.0f} s")

    def supervise(self) -> None:
        """One look at every process, the embedded Redis included."""
        if self.redis is not None:
            self.redis.supervise()
        self.supervisor.supervise()

    def run(self, stop: threading.Event) -> None:
        """Supervise until `stop` is set."""
        while not stop.wait(0.3):
            self.supervise()

    def stop(self) -> None:
        """Stop everything, the gateway first and Redis last."""
        self.supervisor.stop()
        if self.redis is not None:
            self.redis.stop()
