"""The hot path is compiled where that is asked for, and nowhere else (docs/compiled.md)."""

import os
import pkgutil
import tomllib
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import gateway

ROOT = Path(__file__).parents[2]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
    "wheel"
]
HOT = {path.removesuffix(".py").replace("/", ".") for path in WHEEL["hooks"]["custom"]["modules"]}
# Read before a fixture takes away whatever begins with RATCHET_.
IS_EXPECTED = os.environ.get("RATCHET_EXPECT_COMPILED") == "1"  # set by `make test-compiled`


def test_the_hot_path_is_compiled_where_that_was_asked_for_and_nothing_in_the_source_is() -> None:
    suffixes = tuple(EXTENSION_SUFFIXES) if IS_EXPECTED else (".py",)
    files = {str(import_module(name).__file__) for name in HOT}
    found = {
        file
        for package in WHEEL["packages"]
        for file in (ROOT / package).rglob("*")
        if file.suffix in {".so", ".pyd"}
    }

    assert {file for file in files if not file.endswith(suffixes)} == set()
    assert found == set()


def test_what_inherits_from_a_class_of_the_hot_path_is_of_it() -> None:
    """A class of plain Python cannot be instantiated when one that it inherits from is compiled."""
    names = {found.name for found in pkgutil.walk_packages(gateway.__path__, "gateway.")}
    classes = [
        one
        for name in names - HOT
        for one in vars(import_module(name)).values()
        if isinstance(one, type) and one.__module__ == name
    ]

    assert len(classes) > 20
    assert {one for one in classes if {base.__module__ for base in one.__mro__} & HOT} == set()
