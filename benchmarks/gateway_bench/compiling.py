"""Ratchet's packages with the hot path compiled, as in its image; built once for these sources."""

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks.gateway_bench.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
BUILD = (
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-deps",
    "--no-build-isolation",
)


def compiled_packages(cache: Path) -> Path:
    """A folder for PYTHONPATH, built unless these very sources were. Raises BenchmarkError."""
    folder = cache / f"ratchet-{digest(ROOT)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        made = Path(place) / "packages"
        found = subprocess.run(
            [sys.executable, "-m", *BUILD, "--target", str(made), str(ROOT)],
            env={**os.environ, "HATCH_BUILD_HOOKS_ENABLE": "1", "RATCHET_COMPILE": "required"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if found.returncode:
            raise BenchmarkError(
                f"Ratchet does not compile (--pure measures it without):\n{found.stdout[-2000:]}"
            )
        made.rename(folder)
    return folder


def digest(root: Path) -> str:
    """What the packages are made of, and for which Python, as sixteen letters."""
    project = root / "pyproject.toml"
    wheel = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = [project, root / wheel["hooks"]["custom"]["path"]]
    for package in wheel["packages"]:
        files += sorted((root / package).rglob("*.py"))
    found = hashlib.sha256(sys.version.encode())
    for file in files:
        found.update(f"\n{file.relative_to(root)}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]
