"""The build hook, on a project of one module: compiled, or plain with a warning, or refused."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOOK = "tools/compiled_wheel.py"
PROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "small"
version = "1"
[tool.hatch.build.targets.wheel]
packages = ["small"]
[tool.hatch.build.targets.wheel.hooks.custom]
path = "{HOOK}"
enable-by-default = false
modules = ["small/sums.py"]
[tool.mypy]
strict = true
"""
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "small").mkdir(parents=True)
    (root / "tools").mkdir()
    shutil.copy(ROOT / HOOK, root / HOOK)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "small" / "__init__.py").touch()
    (root / "small" / "sums.py").write_text("def twice(a: int) -> int:\n    return 2 * a\n")
    return root


def build(
    root: Path, kind: str = "wheel", **variables: str
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What building says, and what is in the wheel; nothing may be left behind in the source."""
    before = set(root.rglob("*"))
    place = root.parent / "dist"
    command = f"import hatchling.build as b; b.build_{kind}({str(place)!r})"
    environment = {"HATCH_BUILD_HOOKS_ENABLE": "1", **variables}
    said = subprocess.run(
        [sys.executable, "-B", "-c", command],
        cwd=root,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert set(root.rglob("*")) == before
    return said, {
        name for wheel in place.glob("*.whl") for name in zipfile.ZipFile(wheel).namelist()
    }


def compiled(names: set[str]) -> list[str]:
    return [name for name in names if name.endswith((".so", ".pyd"))]


@needs_compiler
def test_machine_code_lies_beside_the_source_and_is_what_is_imported(project: Path) -> None:
    said, names = build(project, RATCHET_COMPILE="required")

    assert said.returncode == 0, said.stdout
    assert "small/sums.py" in names
    assert {name.partition(".")[0] for name in compiled(names)} > {"small/sums"}
    (wheel,) = (project.parent / "dist").iterdir()
    assert not wheel.name.endswith("none-any.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(project.parent / "installed")
    question = "import small.sums as s; print(s.__file__, s.twice(4))"
    answer = subprocess.run(
        [sys.executable, "-c", question],
        cwd=project.parent / "installed",
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split()[0].endswith((".so", ".pyd"))
    assert answer.stdout.split()[1] == "8"


def test_without_a_compiler_the_wheel_is_plain_python_and_the_build_says_so(project: Path) -> None:
    said, names = build(project, CC="no-compiler-of-this-name")

    assert said.returncode == 0, said.stdout
    assert "no-compiler-of-this-name" in said.stdout
    assert "NOT COMPILED" in said.stdout
    assert "small/sums.py" in names
    assert compiled(names) == []


def test_what_must_be_compiled_and_cannot_be_is_no_wheel(project: Path) -> None:
    (project / "small" / "sums.py").write_text('def twice(a: int) -> int:\n    return "2"\n')

    said, names = build(project, RATCHET_COMPILE="required")

    assert said.returncode != 0
    assert "small/sums.py:2: error: Incompatible return value" in said.stdout
    assert "could not be compiled" in said.stdout
    assert names == set()


@pytest.mark.parametrize(
    ("kind", "enabled"), [("wheel", "0"), ("editable", "1")], ids=["not asked for", "editable"]
)
def test_nothing_is_compiled(project: Path, kind: str, enabled: str) -> None:
    said, names = build(project, kind, HATCH_BUILD_HOOKS_ENABLE=enabled, RATCHET_COMPILE="required")

    assert said.returncode == 0, said.stdout
    assert names
    assert compiled(names) == []


def test_mypyc_is_the_one_whose_types_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    pins = (ROOT / "constraints.txt").read_text().splitlines()

    (pinned,) = [pin for pin in pins if pin.startswith("mypy==")]
    assert hook["dependencies"] == [pinned.replace("mypy==", "mypy[mypyc]==")]
