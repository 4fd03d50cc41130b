"""An algorithm of somebody else's: installed as any package is, found, run; and one that breaks."""

import os
import re
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from trainer.algorithms import plugins
from trainer.batch.samples import Sample
from trainer.runs import BATCH

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.rounds import a_plan, a_run, mean_logprob, said_by
    from tests.trainer.tiny_model import save_base
    from trainer import round as training_round
    from trainer.policy import load_policy

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return said_by(base)


def install(where: Path, name: str, source: str) -> None:
    """What pip leaves of a package with one module and one entry point."""
    where.mkdir()
    (where / f"{name}.py").write_text(source)
    about = where / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")


def test_the_example_of_the_page_is_found_and_trains(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    install(tmp_path / "site", "rwr", source)
    plan = a_plan(base, "rwr", epochs=4)
    directory = a_run(tmp_path / "run", plan, samples)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-m", "trainer.round", str(directory.path)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    result = directory.result()
    assert result is not None
    assert result.is_trained, result.reason
    assert result.metrics["steps"] == 8
    before, _ = load_policy(plan)
    after, _ = load_policy(plan.model_copy(update={"parent_path": str(directory.trained)}))
    good, bad = (
        mean_logprob(after, rows) - mean_logprob(before, rows)
        for rows in (samples[1::2], samples[::2])
    )
    assert good > 0.1
    assert good > bad, "the better weighs more"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise OSError('no licence')", r"cannot be imported: OSError: no licence"),
        (
            "from trainer.algorithms.protocol import Asks\n"
            "name = 'broken'\n"
            "def asks(settings): return Asks()\n"
            "def make_trainer(round_): return {}['loss']\n",
            r"'broken' made no trainer: KeyError: 'loss'",
        ),
        (
            "from trainer.algorithms.protocol import Asks\n"
            "name = 'broken'\n"
            "def asks(settings): return Asks()\n"
            "def make_trainer(round_): return None\n",
            r"'broken' made no trainer: it returned a NoneType",
        ),
    ],
)
def test_one_that_breaks_ends_the_round_with_its_reason_and_costs_no_row(
    source: str,
    said: str,
    base: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_path / "site", "broken", source)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    point = EntryPoint("broken", "broken", plugins.GROUP)
    monkeypatch.setattr(plugins, "_found", lambda: {"broken": point})
    directory = a_run(tmp_path / "run", a_plan(base, "broken"), samples)
    rows = (directory.path / BATCH).read_bytes()
    monkeypatch.setattr(sys, "argv", ["trainer.round", str(directory.path)])
    assert training_round.main() == 0, "it is no crash: nobody starts it again"
    result = directory.result()
    assert result is not None
    assert (result.is_trained, result.is_tried) == (False, False)
    assert re.search(said, result.reason)
    assert (directory.path / BATCH).read_bytes() == rows
