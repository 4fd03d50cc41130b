#!/usr/bin/env python3
"""Install the real clients that tests/clients runs, each set in an environment of its own.

    python tools/client_environments.py DIRECTORY [NAME ...]

Makes DIRECTORY/NAME from tests/clients/requirements-NAME.txt (several, because
the clients disagree on their openai package) and DIRECTORY/node from
tests/clients/package-lock.json. What is up to date is left alone. Without npm
the node client is left out, and its tests skip themselves. With names, only those are made.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

UV = "uv==0.13.8"
CLIENTS = Path(__file__).resolve().parent.parent / "tests" / "clients"
STAMP = ".installed"


def make_python(name: str, requirements: Path, directory: Path) -> None:
    """One environment of Python clients. They are pinned wholly: nothing is resolved."""
    uv = directory / "uv" / "bin" / "uv"
    if not uv.exists():
        venv.create(uv.parent.parent, with_pip=True)
        pip = [str(uv.parent / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", UV], check=True)
    place = directory / name
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True
    )
    python = str(place / "bin" / "python")
    install = [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", python]
    subprocess.run([*install, "-r", str(requirements)], check=True)


def make_node(lock: Path, directory: Path) -> None:
    """The client of node, if there is an npm."""
    npm = shutil.which("npm")
    if npm is None:
        print("no npm here: the node client is left out")
        return
    place = directory / "node"
    place.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.parent / name, place / name)
    subprocess.run([npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=place, check=True)


def is_current(place: Path, wanted: Path) -> bool:
    """Whether `place` was made from `wanted` as it is now."""
    stamp = place / STAMP
    return stamp.is_file() and stamp.read_text() == _digest(wanted)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    directory, wanted = Path(sys.argv[1]).absolute(), sys.argv[2:]
    known = {path.stem.removeprefix("requirements-"): path for path in CLIENTS.glob("*.txt")}
    if unknown := set(wanted) - {*known, "node"}:
        sys.exit(f"no such environment: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    for name, requirements in sorted(known.items()):
        if wanted and name not in wanted:
            continue
        if not is_current(directory / name, requirements):
            make_python(name, requirements, directory)
            (directory / name / STAMP).write_text(_digest(requirements))
    lock = CLIENTS / "package-lock.json"
    if (not wanted or "node" in wanted) and not is_current(directory / "node", lock):
        make_node(lock, directory)
        if (directory / "node").is_dir():
            (directory / "node" / STAMP).write_text(_digest(lock))


if __name__ == "__main__":
    main()
