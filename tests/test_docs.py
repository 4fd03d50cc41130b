"""The documents say what is there: settings, keys, metrics, files."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from trajectories.keys import KEYS

ROOT = Path(__file__).parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_documented_as_it_is() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == load(ROOT / "tools" / "settings_doc.py").page(), (
        "run: python tools/settings_doc.py"
    )


def test_every_redis_key_is_documented() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    missing = [key.pattern for key in KEYS if f"`{key.pattern}`" not in page]
    assert not missing


def test_every_metric_is_documented() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names: set[str] = set()
    for process in ("gateway", "trainer"):
        source = (ROOT / process / "metrics.py").read_text()
        found = set(re.findall(r'"(ratchet_[a-z_]+)"', source))
        assert found
        names |= found
    from trainer.metrics import LAST

    names |= {f"ratchet_trainer_last_{name}" for name in LAST}
    assert not {name for name in names if name not in page}


def test_the_tree_in_the_readme_is_on_the_disk() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = readme.split("<!-- tree -->")[1]
    names = re.findall(r"^([a-zA-Z_.\-]+/?)\s", tree, flags=re.MULTILINE)
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_every_command_of_the_makefile_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used <= targets


def test_the_newcomers_page_stays_short() -> None:
    assert len((ROOT / "AGENTS.md").read_text().splitlines()) <= 80
