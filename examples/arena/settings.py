"""The settings of an example: small numbers for a tiny model, as a `ratchet.toml` of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ratchet.demo.world import ENGINE_ARGUMENTS, free_port
from trajectories.errors import SettingsError
from trajectories.settings import Settings, load_settings

Sections = dict[str, dict[str, Any]]


def sections(name: str, directory: Path, model: Path, *, seed: int, is_shuffled: bool) -> Sections:
    """What every example starts from. The learning is that of `ratchet demo`."""
    gateway, engine = free_port(), free_port()
    return {
        "": {"data_dir": str(directory / "data")},
        "redis": {"timeout_seconds": 5},  # two cores do everything here, and are busy
        "gateway": {"port": gateway, "shutdown_seconds": 10},
        "upstream": {"url": f"http://127.0.0.1:{engine}", "base_model": name},
        "rewards": {"label_window_seconds": 4},
        "trainer": {
            "algorithm": "grpo",
            "base_model_path": str(model),
            "min_trajectories": 32,
            "min_labels": 16,
            "min_principals": 1,
            "min_per_outcome": 4,
            "epochs": 6,
            "learning_rate": 1e-3,
            "batch_size": 32,
            "rank": 16,
            "alpha": 32,
            "negative_weight": 0.1,
            "threads": 1,
            "drain_seconds": 5,
            "seed": seed,
            "shuffle_rewards": is_shuffled,
        },
        "engine": {
            "serve": True,
            "model": str(model),
            "dtype": "float32",
            "max_model_len": 512,
            "arguments": ENGINE_ARGUMENTS,
        },
    }


def override(base: Sections, over: Mapping[str, Mapping[str, Any]]) -> Sections:
    """`base` with a world's or a command's own values."""
    names = list(dict.fromkeys([*base, *over]))
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in names}


def parse_overrides(texts: Iterable[str]) -> Sections:
    """`trainer.credit=step` and the like; a value is read as JSON where it can be, else as text.

    Raises SettingsError on what is not of that form.
    """
    found: Sections = {}
    for text in texts:
        name, equals, value = text.partition("=")
        section, dot, key = name.rpartition(".")
        if not (equals and dot and section and key):
            raise SettingsError(f"--set takes section.key=value, not {text!r}")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        found.setdefault(section, {})[key] = read
    return found


def write_toml(all_sections: Sections) -> str:
    """The sections as TOML, whose strings, numbers, truths and lists are JSON's."""
    parts = []
    for name, values in all_sections.items():
        head = [f"[{name}]"] if name else []
        parts.append("\n".join([*head, *(f"{k} = {json.dumps(v)}" for k, v in values.items())]))
    return "\n\n".join(parts) + "\n"


def load(all_sections: Sections, path: Path) -> Settings:
    """Write the file, point this process and its children at it, and read it back."""
    path.write_text(write_toml(all_sections), encoding="utf-8")
    os.environ["RATCHET_CONFIG"] = str(path)
    return load_settings(path)
