"""Each peer from its package registry, in an environment of its own under the cache directory."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_bench.errors import BenchmarkError

REQUIREMENTS = {
    "vllm-router": "vllm-router",
    "smg": "smg",
    "litellm": "litellm[proxy]>=1.83.10",
}
PORTKEY = "@portkey-ai/gateway"
# Later ones hand Portkey headers that it may not add to, and every stream is a 500
# (https://github.com/Portkey-AI/gateway/issues/1389).
PORTKEY_WISHES = {
    "private": True,
    "dependencies": {PORTKEY: "^1.15.2"},
    "overrides": {"@hono/node-server": "1.14.1"},
}
INSTALL_SECONDS = 1200
COMPLETE = "complete"  # written last, with what was asked for


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a gateway is, and which version of it."""

    home: Path
    version: str


def installed(name: str, cache: Path) -> Installed:
    """A peer, installed unless it already is. Raises BenchmarkError with the reason."""
    home = cache / name
    if name in REQUIREMENTS:
        return _from_pypi(name, REQUIREMENTS[name], home)
    return _from_npm(home) if name == "portkey" else _from_debian(home)


def _is_complete(home: Path, requirement: str) -> bool:
    note = home / COMPLETE
    return note.is_file() and note.read_text() == requirement


def _from_pypi(name: str, requirement: str, home: Path) -> Installed:
    python = home / "bin" / "python"
    if not _is_complete(home, requirement):
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", requirement])
        (home / COMPLETE).write_text(requirement)
    question = f"from importlib.metadata import version; print(version('{name}'))"
    return Installed(home, _run([str(python), "-c", question]).strip())


def _from_npm(home: Path) -> Installed:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise BenchmarkError(f"{tool} is not on the PATH")
    package = home / "node_modules" / PORTKEY / "package.json"
    requirement = json.dumps(PORTKEY_WISHES, indent=1)
    if not _is_complete(home, requirement):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "package.json").write_text(requirement)
        _run(["npm", "install", "--no-audit", "--no-fund"], folder=home)
        (home / COMPLETE).write_text(requirement)
    return Installed(home, str(json.loads(package.read_text())["version"]))


def _from_debian(home: Path) -> Installed:
    """The one on the PATH, else Debian's package: installed by root, unpacked by anybody else."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    unpacked = home / "usr" / "sbin" / "nginx"
    if program is None and not unpacked.is_file():
        if shutil.which("apt-get") is None:
            raise BenchmarkError("nginx is not on the PATH, and there is no apt-get")
        home.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", "nginx"], folder=home)
        for package in sorted(home.glob("nginx*.deb")):
            _run(["dpkg", "-x", str(package), str(home)])
    found = Path(program) if program else unpacked
    return Installed(found, _run([str(found), "-v"]).strip().rpartition("/")[2].split()[0])


def _run(command: list[str], folder: Path | None = None) -> str:
    """What a command says. Raises BenchmarkError with the last line when it fails."""
    # pip must not find the packages of the environment that runs the benchmark.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        found = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"{command[0]}: {error}") from error
    if found.returncode:
        lines = [line for line in found.stdout.splitlines() if line.strip()] or ["no output"]
        raise BenchmarkError(f"{Path(command[0]).name} failed: {lines[-1].strip()[:200]}")
    return found.stdout
