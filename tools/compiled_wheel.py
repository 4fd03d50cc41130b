"""The build hook that puts the gateway's hot path into a wheel as machine code (docs/compiled.md).

Hatchling runs it when HATCH_BUILD_HOOKS_ENABLE=1. mypyc compiles the modules that pyproject.toml
lists beside it, in a copy of the packages: a .so in the source tree would go on being imported
after its .py was edited. In the wheel both lie side by side, and Python takes the .so. Where
nothing can be compiled the wheel is plain Python, with a warning; RATCHET_COMPILE=required makes
that an error.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CACHES = shutil.ignore_patterns("__pycache__")
LAST_LINES = 20  # of what mypyc and the C compiler say
# The versions that types are checked against are those of constraints.txt; a build in isolation
# finds newer ones, in which a `type: ignore` may have become needless.
LENIENT = "--no-warn-unused-ignores"


class NotCompiledError(Exception):
    """mypyc or the C compiler failed; the message is what they said last."""


class CompiledWheel(BuildHookInterface[BuilderConfig]):
    """Adds the compiled modules to a wheel. An editable install stays plain Python, always."""

    _copy: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        # Hatchling reads the files once this has returned: `finalize` takes the copy away.
        self._copy = TemporaryDirectory(prefix="ratchet-compiled-")
        place = Path(self._copy.name)
        for package in self.build_config.packages:
            shutil.copytree(Path(self.root, package), place / package, ignore=CACHES)
        # Under its own name setuptools would read it too, and build the project instead.
        shutil.copyfile(Path(self.root, "pyproject.toml"), place / "mypy.toml")
        try:
            made = compiled(place, self.config["modules"])
        except NotCompiledError as error:
            if os.environ.get("RATCHET_COMPILE") == "required":
                raise
            self.app.display_warning(f"{error}\nNOT COMPILED, for the reason above: plain Python.")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(file): str(file.relative_to(place)) for file in made}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._copy is not None:
            self._copy.cleanup()


def compiled(place: Path, modules: list[str]) -> list[Path]:
    """The extension modules made of `modules`, all below `place`. Raises NotCompiledError."""
    found = subprocess.run(
        [sys.executable, "-m", "mypyc", "--config-file", "mypy.toml", LENIENT, *modules],
        cwd=place,
        env={**os.environ, "MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if found.returncode:
        said = "\n".join(found.stdout.splitlines()[-LAST_LINES:])
        raise NotCompiledError(
            f"{said}\nThe hot path could not be compiled. It takes mypyc, a C compiler and the"
            " headers of Python (Debian: gcc libc6-dev, and python3-dev for Debian's Python)."
        )
    shutil.rmtree(place / "build")
    return sorted(path for path in place.rglob("*") if path.suffix in {".so", ".pyd"})
