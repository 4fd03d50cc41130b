"""A launch is found by name or by path, and says in words what is wrong with it."""

from pathlib import Path

import pytest

from trainer.launch.configs import HERE, built_in, find_launch
from trainer.training import COMMAND, command_for
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings


def test_the_configurations_are_those_that_are_documented() -> None:
    assert built_in() == ("cpu", "ddp", "fsdp", "nodes", "one_gpu", "zero3")
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text()
    assert not [name for name in built_in() if f"`{name}`" not in page]


@pytest.mark.parametrize("name", built_in())
def test_accelerate_reads_each_of_them(name: str) -> None:
    config = pytest.importorskip("accelerate.commands.config.config_args")
    read = config.load_config_from_file(str(HERE / f"{name}.yaml"))
    assert read.mixed_precision == "no", "the weights already have the wanted dtype"
    assert (read.num_machines > 1) == (name == "nodes")


def test_one_process_per_visible_gpu_unless_the_file_or_the_arguments_say_how_many() -> None:
    fsdp = find_launch("fsdp").command("trainer.round", gpus=4)
    assert fsdp[fsdp.index("--num_processes") + 1] == "4"
    told = find_launch("fsdp", ["--num_processes", "2"]).command("trainer.round", gpus=4)
    assert told.count("--num_processes") == 1
    assert told[told.index("--num_processes") + 1] == "2"
    assert "--num_processes" not in find_launch("nodes").command("trainer.round", gpus=4)


def test_a_file_of_ones_own_is_taken_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: MULTI_GPU\nnum_processes: 3\n")
    assert find_launch(str(file)).command("m", gpus=8) == ["--config_file", str(file), "-m", "m"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "neither a file nor one of cpu, ddp"),
        ("[1", "cannot be read"),
        ("a: 1", "accelerate config"),
    ],
)
def test_what_is_no_configuration_is_refused_in_words(
    content: str | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=words):
        command_for(TrainerSettings(launch=str(file)))


def test_without_a_launch_a_round_is_one_process() -> None:
    assert command_for(TrainerSettings()) == COMMAND
    launched = command_for(TrainerSettings(launch="ddp", launch_arguments=("--num_processes", "2")))
    assert launched[-4:] == ("--config", "ddp", "--argument=--num_processes", "--argument=2")
