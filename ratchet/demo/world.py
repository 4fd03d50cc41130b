"""The demo's machine room: its directory, its settings file, its model.

Everything lies below one directory, which a new run empties first.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

from ratchet.processes import die_with_parent
from ratchet.up import vllm_version
from trajectories.errors import SettingsError
from trajectories.settings import Settings, load_settings

ENGINE_ARGUMENTS = [
    "--kv-cache-memory-bytes", "64M", "--max-num-seqs", "16", "--disable-log-stats",
]  # fmt: skip
MARK = ".ratchet-demo"  # only a directory that holds this file is ever emptied

SETTINGS = """\
# The settings of the demo: small numbers for a tiny model and impatient users.
data_dir = "{directory}/data"

[redis]
timeout_seconds = 2  # two cores do everything here, and are busy

[gateway]
port = {gateway_port}
shutdown_seconds = 10

[upstream]
url = "http://127.0.0.1:{engine_port}"
base_model = "calculator"

[rewards]
label_window_seconds = 4

[trainer]
algorithm = "{algorithm}"
base_model_path = "{model}"
min_trajectories = {round_size}
min_labels = 8  # its users seldom say anything
min_per_outcome = 4
epochs = {epochs}
learning_rate = {learning_rate}
batch_size = {batch_size}
rank = 16
negative_weight = 0.1
alpha = 32
threads = 1
drain_seconds = 5
seed = {seed}
shuffle_rewards = {shuffle}

[engine]
serve = true
model = "{model}"
dtype = "float32"
max_model_len = 512
arguments = {arguments}
"""


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_vllm() -> None:
    """Raises SettingsError, in one line with the way out, where the demo cannot run."""
    if vllm_version() is None:
        raise SettingsError(
            "the demo serves its model with vLLM, which is not installed here: run `make install`"
            " on Linux (x86-64 or arm64), or `docker compose up` elsewhere"
        )


def empty(directory: Path) -> Path:
    """A fresh directory; raises SettingsError rather than emptying one that is not the demo's."""
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).is_file():
        raise SettingsError(f"{directory} exists and is not a demo's: choose another --directory")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARK).touch()
    return directory.resolve()


def forget_environment() -> None:
    """The demo must not reach a Redis or an engine that the user's own settings name."""
    for name in list(os.environ):
        if name.startswith("RATCHET_") or name == "REDIS_URL":
            del os.environ[name]
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched: the model is made here
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # everything is on this machine


def make_model(directory: Path, seed: int, stop: threading.Event) -> Path:
    """Make and pretrain the tiny model, in a process of its own since it needs torch.

    Ends early when `stop` is set. Raises SettingsError when the model was not made.
    """
    model = directory / "model"
    command = [sys.executable, "-m", "ratchet.demo.model", str(model), "--seed", str(seed)]
    with subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent) as child:
        while child.poll() is None and not stop.wait(0.2):
            pass
        child.terminate()
    if child.returncode and not stop.is_set():
        raise SettingsError(f"the demo's model was not made: exit status {child.returncode}")
    return model


def write_settings(directory: Path, model: Path, *, seed: int, shuffle: bool) -> Settings:
    """Write the demo's `ratchet.toml`, point the environment at it, and load it."""
    path = directory / "ratchet.toml"
    path.write_text(
        SETTINGS.format(
            directory=directory,
            gateway_port=free_port(),
            engine_port=free_port(),
            model=model,
            seed=seed,
            shuffle=str(shuffle).lower(),
            algorithm="grpo",
            round_size=96,
            epochs=6,
            learning_rate=1e-3,
            batch_size=32,
            arguments=json.dumps(ENGINE_ARGUMENTS),
        ),
        encoding="utf-8",
    )
    os.environ["RATCHET_CONFIG"] = str(path)
    return load_settings(path)
