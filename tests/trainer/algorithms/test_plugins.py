"""The door for algorithms: ours are found through it, and what is wrong is said in words."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.algorithms import plugins
from trainer.algorithms.plugins import AlgorithmError, asks_of, find, installed, joint, names_in
from trainer.algorithms.protocol import Algorithm, Asks
from trajectories.settings import TrainerSettings

ROOT = Path(__file__).parents[3]


def test_what_pyproject_says_is_installed() -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(written[plugins.GROUP]) <= set(installed()), "run: pip install -e . --no-deps"


@pytest.mark.parametrize("name", ["dpo", "grpo", "kto", "sft"])
def test_ours_go_by_the_protocol(name: str) -> None:
    assert isinstance(find(name), Algorithm)


def test_the_names_and_what_they_ask_are_known_without_torch() -> None:
    script = (
        "import sys\n"
        "from trainer.algorithms.plugins import asks_of, installed\n"
        "from trajectories.settings import TrainerSettings\n"
        "[asks_of(name, TrainerSettings()) for name in ('grpo', 'sft')]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_name_is_answered_with_those_that_are_there() -> None:
    with pytest.raises(AlgorithmError, match=r"no algorithm 'gpro' \(installed: .*grpo.*sft.*\)"):
        asks_of("sft+gpro", TrainerSettings())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no.such.module:X", "cannot be imported: ModuleNotFoundError"),
        ("trainer.algorithms.builtin:NOTHING", "cannot be imported: AttributeError"),
        ("trainer.algorithms.builtin:SFT", "has no `name` equal to 'mine'"),
        ("json", "`asks` and `make_trainer`"),
    ],
)
def test_what_is_no_algorithm_says_why(
    value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("mine", value, plugins.GROUP)
    monkeypatch.setattr(plugins, "_found", lambda: {"mine": point})
    with pytest.raises(AlgorithmError, match=said):
        find("mine")


def test_a_module_may_be_an_algorithm() -> None:
    def nothing(*_: Any) -> None: ...

    assert isinstance(SimpleNamespace(name="mine", asks=nothing, make_trainer=nothing), Algorithm)


def test_a_sequence_asks_for_what_any_of_its_stages_can_use() -> None:
    assert names_in("sft+grpo") == ("sft", "grpo")
    strict = Asks(needs_ratio=True, max_staleness=4, is_shuffling=True)
    assert joint([strict, Asks(above=0.5)]) == Asks()
    assert joint([strict]) == strict
    assert joint([Asks(above=0.5, max_staleness=1), Asks(above=0.2, max_staleness=3)]) == Asks(
        above=0.2, max_staleness=3
    )


def test_shuffling_is_refused_where_rows_are_chosen_by_reward() -> None:
    settings = TrainerSettings(shuffle_rewards=True)
    assert asks_of("grpo", settings).is_shuffling
    with pytest.raises(AlgorithmError, match="no control for sft"):
        asks_of("sft", settings)


@pytest.mark.parametrize("algorithm", ["kto", "dpo", "sft+dpo"])
def test_what_is_for_one_process_is_refused_on_several(algorithm: str, tmp_path: Path) -> None:
    for launch, arguments in (("ddp", ()), ("cpu", ()), ("one_gpu", ("--num_processes", "2"))):
        several = TrainerSettings(launch=launch, launch_arguments=arguments)
        with pytest.raises(AlgorithmError, match=rf"trainer\.launch is '{launch}'.*one process"):
            asks_of(algorithm, several)
        asks_of("sft+grpo", several)
    asks_of(algorithm, TrainerSettings(launch="one_gpu"))
    mine = tmp_path / "mine.yaml"
    mine.write_text("distributed_type: 'NO'\nnum_processes: 1\n")
    asks_of(algorithm, TrainerSettings(launch=str(mine)))
