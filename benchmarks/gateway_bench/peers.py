"""How each gateway is started in front of the scripted upstream: one worker, nothing extra on.

Pure: a `Launch` says what to run, which files to write first and how clients
have to ask. What is on and off in each of them is said in docs/benchmarks.md.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway_bench.rows import LINES

KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway listens, what it forwards to, and a directory of its own."""

    port: int
    upstream_port: int
    folder: Path
    home: Path  # where its package was installed
    metrics_port: int

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Launch:
    """A gateway's command, its files, and what its clients have to send."""

    command: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "base"


def nginx(place: Place) -> Launch:
    """A reverse proxy that keeps connections and holds nothing back."""
    configuration = f"""\
daemon off;
master_process off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {place.folder}/body;
  proxy_temp_path {place.folder}/proxy;
  fastcgi_temp_path {place.folder}/fastcgi;
  uwsgi_temp_path {place.folder}/uwsgi;
  scgi_temp_path {place.folder}/scgi;
  keepalive_requests 100000000;
  upstream engine {{
    server 127.0.0.1:{place.upstream_port};
    keepalive 1024;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""
    command = (str(place.home), "-p", str(place.folder), "-c", f"{place.folder}/nginx.conf")
    return Launch(command, files={"nginx.conf": configuration})


def vllm_router(place: Place) -> Launch:
    """As it comes, with its cheapest policy: there is one engine to choose from."""
    return Launch(
        (
            str(place.home / "bin" / "vllm-router"),
            "--host", "127.0.0.1",
            "--port", str(place.port),
            "--worker-urls", place.upstream,
            "--policy", "round_robin",
            "--log-level", "error",
            "--prometheus-port", str(place.metrics_port),
        )
    )  # fmt: skip


def smg(place: Place) -> Launch:
    """As it comes, with its cheapest policy."""
    return Launch(
        (
            str(place.home / "bin" / "smg"), "launch",
            "--host", "127.0.0.1",
            "--port", str(place.port),
            "--worker-urls", place.upstream,
            "--policy", "round_robin",
            "--log-level", "error",
            "--prometheus-port", str(place.metrics_port),
        )
    )  # fmt: skip


def litellm(place: Place) -> Launch:
    """A key and an alias, as with Ratchet, and no database: it records nothing."""
    configuration = {
        "model_list": [
            {
                "model_name": "policy",
                "litellm_params": {
                    "model": "hosted_vllm/base",
                    "api_base": f"{place.upstream}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    command = (
        str(place.home / "bin" / "litellm"),
        "--config", str(place.folder / "config.yaml"),
        "--host", "127.0.0.1",
        "--port", str(place.port),
        "--num_workers", "1",
    )  # fmt: skip
    return Launch(
        command,
        files={"config.yaml": json.dumps(configuration, indent=1)},  # JSON is YAML
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        model="policy",
    )


def portkey(place: Place) -> Launch:
    """Told where to forward to by headers, as its clients do."""
    server = place.home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return Launch(
        ("node", str(server), f"--port={place.port}", "--headless"),
        environment={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{place.upstream}/v1",
        },
    )


PEERS: dict[str, Callable[[Place], Launch]] = {
    "nginx": nginx,
    "vllm-router": vllm_router,
    "smg": smg,
    "portkey": portkey,
    "litellm": litellm,
}
NAMES = ("direct", *LINES, *PEERS)
