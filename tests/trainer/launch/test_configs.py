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


def test_the_pattern_for_several_machines_is_to_be_copied_first(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"10\.0\.0\.1 .* copy .*nodes\.yaml"):
        command_for(TrainerSettings(launch="nodes"))
    copy = tmp_path / "nodes.yaml"
    copy.write_text((HERE / "nodes.yaml").read_text())
    assert str(copy) in command_for(TrainerSettings(launch=str(copy)))
    assert "ddp" in command_for(TrainerSettings(launch="ddp"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ddp", {}),
        ("fsdp", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}),
        ("nodes", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}),
        ("zero3", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),
    ],
)
def test_accelerate_tells_each_process_what_the_configuration_means(
    name: str, said: dict[str, str]
) -> None:
    """As far as there is no GPU: what `accelerate launch` would set for the ranks."""
    commands = pytest.importorskip("accelerate.commands.launch")
    prepare = pytest.importorskip("accelerate.utils.launch")
    launch = find_launch(name, ("--main_process_port", "0") if name != "nodes" else ())
    command = [*launch.on_machine(1).command("trainer.round", gpus=4), "run", "--parent", "7"]
    arguments = commands.launch_command_parser().parse_args(command)
    arguments, defaults, _ = commands._validate_launch_command(arguments)
    assert arguments.training_script_args == ["run", "--parent", "7"]
    assert arguments.num_processes == (16 if name == "nodes" else 4)
    if name == "zero3":
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare.prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare.prepare_multi_gpu_env(arguments)
    assert said.items() <= environment.items()
    if name == "nodes":
        assert (arguments.nnodes, arguments.node_rank) == ("2", 1)
