"""The house stands as it is drawn: packages, names, sizes of the promise."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("trajectories", "gateway", "workers", "trainer", "ratchet")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BANNED = re.compile(r"(^|_)(helpers?|utils?|common|misc|manager|info|handlers?|obj|tmp2)(_|$)")
TORCH = {"torch", "trl", "peft", "transformers"}
TORCH_FILES = {
    "trainer/policy.py",
    "trainer/full.py",
    "trainer/quantization.py",
    "trainer/algorithms/grpo.py",
    "trainer/algorithms/logged.py",
    "trainer/algorithms/loss.py",
    "trainer/algorithms/tensors.py",
    "trainer/algorithms/sft.py",
    "trainer/algorithms/kto.py",
    "trainer/algorithms/dpo.py",
    "trainer/callbacks.py",
    "trainer/round.py",
    "trainer/reporting.py",
    "trainer/sharding.py",
    "trainer/launch/__main__.py",
    "ratchet/demo/model.py",
}


def imported(tree: ast.AST) -> set[str]:
    """First names of everything imported anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_and_has_a_proper_name(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "every module says what it is"
    assert not BANNED.search(path.stem), "a file is named after its subject"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            plain = node.name.lower().strip("_")
            assert not BANNED.search(plain), f"{node.name} says nothing"


def test_torch_is_imported_in_a_few_files_of_the_trainer() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in FILES
        if imported(ast.parse(path.read_text())) & TORCH
    }
    assert found <= TORCH_FILES


def test_litellm_is_imported_in_one_file_and_only_when_it_is_needed() -> None:
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}
    (name,) = [name for name, tree in trees.items() if "litellm" in imported(tree)]
    assert name == "gateway/upstreams/provider.py"
    at_import = [node for node in trees[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "litellm" not in imported(ast.Module(at_import, []))


def test_nothing_unpickles_and_nothing_trusts_remote_code() -> None:
    for path in FILES:
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "trust_remote_code=True" not in text, path
        assert not re.search(r"torch\.load\((?![^)]*weights_only=True)", text), path


def test_settings_are_read_at_the_edge_only() -> None:
    allowed = {
        "trajectories/settings/__init__.py",
        "ratchet/cli.py",
        "ratchet/processes.py",
        "workers/verdicts/custom.py",  # reads nothing: it hands on what is not ours
        "gateway/upstreams/provider.py",  # reads nothing: it sets variables of litellm's own
        "trainer/reporting.py",  # reads nothing: it tells TRL's reporting where to write
        "trainer/ranks.py",  # reads nothing of ours: how accelerate launched this process
    }
    for path in FILES:
        name = str(path.relative_to(ROOT))
        is_edge = path.name == "__main__.py" or name.startswith("ratchet/demo/")
        if name not in allowed and not is_edge:
            assert "os.environ" not in path.read_text(), name


def test_tests_hold_no_package_that_could_shadow_ours() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
