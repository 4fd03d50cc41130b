"""Fixtures of the container tests: an engine, and the compose project running in it.

The engine is the first of these that there is: one that `docker info` reaches
and that has (or can pull) the base image; a private one, made by `lab.sh` when
RATCHET_CONTAINER_LAB=1; none, and then the tests skip and say what is missing.
Once an engine is up, whatever goes wrong is a failure, with the logs attached.
"""

import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = ("docker-compose.yml", "tests/containers/compose.test.yml")
BASE_IMAGE = "python:3.11-slim-bookworm"
VLLM_STAND_IN = "ratchet-vllm-stand-in:test"
MODEL = "base"
SERVICES = ("redis", "vllm", "gateway", "dispatcher", "worker", "archiver")
HOW = "set RATCHET_CONTAINER_LAB=1 to make a private one (root; docs/containers.md)"


def _run(
    *command: str | Path, env: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, error statuses included."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Project:
    """The compose project: commands to it, and requests to its one published port."""

    env: dict[str, str]
    port: int

    def compose(self, *arguments: str, timeout: float = 300) -> str:
        """Run `docker compose`; fails the test with its output when it fails."""
        done = self.try_compose(*arguments, timeout=timeout)
        assert done.returncode == 0, f"compose {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def try_compose(
        self, *arguments: str, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        files = [part for name in FILES for part in ("-f", name)]
        return _run("docker", "compose", *files, *arguments, env=self.env, timeout=timeout)

    def docker(self, *arguments: str) -> str:
        done = _run("docker", *arguments, env=self.env)
        assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container."""
        return self.try_compose("exec", "-T", service, *command)

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).strip()

    def wait_healthy(self, service: str) -> None:
        """A pause fails health checks, and `up --wait` gives up at once on an unhealthy service."""
        state = ("inspect", "-f", "{{.State.Health.Status}}", self.container(service))
        self.eventually(lambda: self.docker(*state) == "healthy", f"{service} healthy")

    def logs(self) -> str:
        return self.try_compose("logs", "--no-color", "--tail", "60").stdout

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 15) -> Reply:
        """Ask the gateway, over the published port."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "content-type": "application/json",
                "authorization": f"Bearer {self.env['RATCHET_GATEWAY_API_KEY']}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return _reply(answer.status, answer.headers.items(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return _reply(error.code, error.headers.items(), error.read())

    def eventually(self, check: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """The first true value of `check`; fails with the containers' logs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := check():
                return found
            time.sleep(0.25)
        pytest.fail(f"not within {seconds:.0f} s: {what}\n{self.logs()}")


def _reply(status: int, headers: Any, raw: bytes) -> Reply:
    try:
        body = json.loads(raw)
    except ValueError:
        body = raw.decode(errors="replace")
    return Reply(status, {name.lower(): value for name, value in headers}, body)


@pytest.fixture(scope="session")
def compose_command() -> list[str] | None:
    """`docker compose` when the plugin is there. It parses files without an engine."""
    if shutil.which("docker") is None:
        return None
    for command in (
        ["docker", "compose"],
        ["docker", "--config", str(_lab_dir() / "cli"), "compose"],
    ):
        if _run(*command, "version", env=dict(os.environ)).returncode == 0:
            return command
    return None


def _lab_dir() -> Path:
    return Path(os.environ.get("RATCHET_CONTAINER_LAB_DIR") or "/tmp/ratchet-container-lab")


def _lab_env(lab: Path) -> dict[str, str]:
    return {
        "DOCKER_HOST": f"unix://{lab}/s/d.sock",
        "DOCKER_CONFIG": f"{lab}/cli",
        "DOCKER_BUILDKIT": "1",
    }


@pytest.fixture(scope="session")
def engine() -> Iterator[dict[str, str]]:
    """The environment in which `docker` reaches an engine that has the base image."""
    env = dict(os.environ)
    if shutil.which("docker") is None:
        pytest.skip(f"no container engine: docker is not on PATH; {HOW}")
    info = _run("docker", "info", env=env)
    usable = info.returncode == 0
    if usable and _run("docker", "compose", "version", env=env).returncode == 0:
        if _run("docker", "image", "inspect", BASE_IMAGE, env=env).returncode == 0:
            yield env
            return
        if _run("docker", "pull", "-q", BASE_IMAGE, env=env, timeout=600).returncode == 0:
            yield env
            return
    if env.get("RATCHET_CONTAINER_LAB") != "1":
        if usable:
            pytest.skip(
                f"base image {BASE_IMAGE} absent and no registry reachable,"
                f" or no compose plugin; {HOW}"
            )
        pytest.skip(f"no container engine: docker info failed ({_last_line(info.stderr)}); {HOW}")
    missing = [tool for tool in ("dockerd", "debootstrap") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        pytest.skip(f"RATCHET_CONTAINER_LAB=1 also needs: {', '.join(missing)}")

    lab = _lab_dir()
    script = HERE / "lab.sh"
    try:
        up = _run("bash", script, "up", lab, env=env, timeout=900)
        assert up.returncode == 0, f"lab.sh up failed\n{up.stdout}\n{up.stderr}"
        yield env | _lab_env(lab)
    finally:
        down = _run("bash", script, "down", lab, env=env, timeout=900)
        left = _run("bash", script, "check", lab, env=env)
    assert down.returncode == 0, f"lab.sh down failed\n{down.stderr}"
    assert left.returncode == 0, f"the lab left something behind:\n{left.stdout}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the base model: as little as the trainer takes for one when it starts."""
    path = tmp_path_factory.mktemp("model")
    path.chmod(0o755)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture(scope="session")
def built(
    engine: dict[str, str], model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """Images built: the gateway's from the repository, vLLM's from tests/fakes/vllm.py."""
    port = _free_port()
    project = Project(
        port=port,
        env=engine
        | {
            "COMPOSE_PROJECT_NAME": f"ratchet-test-{os.getpid()}",
            "REDIS_PASSWORD": secrets.token_hex(16),
            "RATCHET_GATEWAY_API_KEY": secrets.token_hex(16),
            "RATCHET_UPSTREAM_BASE_MODEL": MODEL,
            "BASE_MODEL_DIR": str(model_dir),
            "GATEWAY_PORT": str(port),
            "VLLM_IMAGE": VLLM_STAND_IN,
        },
    )
    project.compose("build", "-q", "gateway", "dispatcher", "worker", "archiver", timeout=900)
    context = tmp_path_factory.mktemp("vllm")
    shutil.copy(HERE / "Dockerfile.vllm", context / "Dockerfile")
    shutil.copy(ROOT / "tests/fakes/vllm.py", context / "vllm.py")
    project.docker("build", "-q", "-t", VLLM_STAND_IN, str(context))
    return project


@pytest.fixture(scope="session")
def project(built: Project) -> Iterator[Project]:
    """The loop without the trainer, up and healthy; all of it removed afterwards."""
    try:
        up = built.try_compose("up", "-d", "--wait", "--wait-timeout", "120", *SERVICES)
        assert up.returncode == 0, f"up --wait failed\n{up.stderr}\n{built.logs()}"
        yield built
    finally:
        built.try_compose("down", "-v", "-t", "5", "--remove-orphans")
