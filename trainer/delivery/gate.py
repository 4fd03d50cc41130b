"""The gate: what the directory of a version must be before any engine may see it.

vLLM checks little: NaN weights load with 200 and then corrupt other requests,
a flipped bit goes unnoticed, and a pickle may run code. So every file is held
against the manifest's SHA-256, every tensor against its shape, and every
number must be finite (of a whole model: weights.py). Needs safetensors and
numpy, not torch. Each refusal is an AdapterError that says what is wrong.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError, safe_open

from trainer.delivery.weights import CONFIG as WHOLE_CONFIG
from trainer.delivery.weights import Whole, check_weights
from trainer.durable import sha256_of
from trajectories.errors import AdapterError, RecordError
from trajectories.resources import MANIFEST, PROBE, AdapterManifest, Kind

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
REQUIRED = {
    Kind.LORA: frozenset({WEIGHTS, CONFIG, PROBE}),
    Kind.FULL: frozenset({WHOLE_CONFIG, PROBE}),
}
ALLOWED = {
    Kind.LORA: frozenset({".safetensors", ".json"}),
    Kind.FULL: frozenset({".safetensors", ".json", ".jinja", ".txt"}),  # a tokenizer's are text
}
MAX_NORM = 1e3  # of one LoRA matrix; a healthy one stays below 10
TENSOR = re.compile(r"\.(?P<module>[^.]+)\.lora_(?P<side>[AB])\.weight$")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the adapter must fit. Rank and modules only matter for a new one."""

    base_model: str
    base_sha256: str
    rank: int | None = None
    target_modules: frozenset[str] | None = None
    whole: Whole | None = None  # where it must be a whole model

    @property
    def kind(self) -> Kind:
        return Kind.LORA if self.whole is None else Kind.FULL


def check_adapter(directory: Path, expected: Expected) -> AdapterManifest:
    """The version's manifest, if everything about the directory is right."""
    manifest = read_manifest(directory)
    if manifest.kind is not expected.kind:
        raise AdapterError(
            f"{directory.name} is {manifest.kind.value}, and trainer.weights is"
            f" {expected.kind.value}: roll back to version 0 before you change the setting"
        )
    check_files(directory, manifest)
    check_base(manifest, expected)
    if expected.whole is not None:
        check_weights(directory, manifest.tensors, expected.whole)
        return manifest
    check_config(directory, manifest, expected)
    check_tensors(directory / WEIGHTS, manifest)
    return manifest


def read_manifest(directory: Path) -> AdapterManifest:
    path = directory / MANIFEST
    if not directory.is_dir():
        raise AdapterError(f"{directory} is missing")
    if not path.is_file():
        raise AdapterError(f"{directory.name} has no {MANIFEST}: it was never fully published")
    try:
        return AdapterManifest.from_json(path.read_bytes())
    except RecordError as error:
        raise AdapterError(f"{directory.name}: {MANIFEST} cannot be read: {error}") from error


def check_files(directory: Path, manifest: AdapterManifest) -> None:
    """Exactly the listed files, with the listed contents."""
    present = {path.name for path in directory.iterdir()} - {MANIFEST}
    unlisted = sorted(present - set(manifest.files))
    if unlisted:
        raise AdapterError(
            f"{directory.name} holds {', '.join(unlisted)}, which the manifest does not list;"
            " only .safetensors weights are ever loaded"
        )
    for name in sorted(REQUIRED[manifest.kind] | set(manifest.files)):
        if Path(name).suffix not in ALLOWED[manifest.kind]:
            raise AdapterError(f"{directory.name} holds {name}: only .safetensors may be loaded")
        if name not in present or name not in manifest.files:
            raise AdapterError(f"{directory.name}: {name} is missing")
        if sha256_of(directory / name) != manifest.files[name]:
            raise AdapterError(
                f"{directory.name}: {name} is not what was published (SHA-256 differs):"
                " truncated or changed on disk"
            )


def check_base(manifest: AdapterManifest, expected: Expected) -> None:
    """It was trained on the base model that is served."""
    if manifest.base_model != expected.base_model:
        raise AdapterError(
            f"wrong base model: trained on {manifest.base_model!r}, serving {expected.base_model!r}"
        )
    if manifest.base_sha256 != expected.base_sha256:
        raise AdapterError(
            f"wrong base model: the weights of {manifest.base_model!r} have changed since"
            f" ({manifest.base_sha256[:8]}, now {expected.base_sha256[:8]})"
        )


def check_config(directory: Path, manifest: AdapterManifest, expected: Expected) -> None:
    """adapter_config.json, the manifest and the settings agree."""
    try:
        config: dict[str, Any] = orjson.loads((directory / CONFIG).read_bytes())
    except orjson.JSONDecodeError as error:
        raise AdapterError(f"{directory.name}: {CONFIG} is not JSON: {error}") from error
    modules = frozenset(manifest.target_modules)
    if config.get("r") != manifest.rank:
        raise AdapterError(f"wrong rank: {CONFIG} says {config.get('r')}, manifest {manifest.rank}")
    if frozenset(config.get("target_modules") or ()) != modules:
        raise AdapterError(f"wrong target modules: {CONFIG} and manifest differ")
    if config.get("modules_to_save") or config.get("use_dora") or config.get("bias") != "none":
        raise AdapterError(f"{CONFIG} asks for more than plain LoRA matrices")
    if expected.rank is not None and manifest.rank != expected.rank:
        raise AdapterError(
            f"wrong rank: the adapter has {manifest.rank}, trainer.rank is {expected.rank}"
        )
    if expected.target_modules is not None and modules != expected.target_modules:
        raise AdapterError(
            f"wrong target modules: the adapter has {sorted(modules)},"
            f" trainer.target_modules is {sorted(expected.target_modules)}"
        )


def check_tensors(weights: Path, manifest: AdapterManifest) -> None:
    """Every tensor is listed, has its shape and rank, and holds only sane numbers."""
    try:
        with safe_open(weights, framework="numpy") as file:
            names = set(file.keys())
            if names != set(manifest.tensors) or not names:
                different = sorted(names ^ set(manifest.tensors))[:3]
                raise AdapterError(f"tensors differ from the manifest: {different}")
            for name in sorted(names):
                check_tensor(name, file.get_tensor(name), manifest)
    except (SafetensorError, TypeError) as error:
        raise AdapterError(f"{weights.name} cannot be read: {error}") from error


def check_tensor(name: str, tensor: "np.ndarray[Any, Any]", manifest: AdapterManifest) -> None:
    shape = tuple(tensor.shape)
    if shape != tuple(manifest.tensors[name]):
        raise AdapterError(f"{name} has shape {shape}, manifest says {manifest.tensors[name]}")
    match = TENSOR.search(name)
    if match is None or match["module"] not in manifest.target_modules:
        raise AdapterError(f"{name} is no LoRA matrix of a target module")
    if len(shape) != 2 or shape[0 if match["side"] == "A" else 1] != manifest.rank:
        raise AdapterError(f"wrong rank: {name} has shape {shape}, rank is {manifest.rank}")
    if not np.isfinite(tensor).all():
        raise AdapterError(f"{name} holds NaN or infinite numbers")
    norm = float(np.linalg.norm(tensor.astype(np.float64)))
    if norm > MAX_NORM:
        raise AdapterError(f"{name} has norm {norm:.3g}, more than {MAX_NORM:g}")
