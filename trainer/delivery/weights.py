"""A whole model's weights on disk: what they are by their headers, and what they must be.

A reload of vLLM that fails leaves the engine broken, and one that finds too
few tensors answers 200 and serves a mix of two versions. So before anything
is paused the directory is held against the base model's own: the same names
and shapes, the served dtype, an index that leads to every tensor, and finite
numbers only. Reads safetensors' own format, since numpy knows no bfloat16;
no file is held in memory.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from trajectories.errors import AdapterError

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
TIED = "lm_head.weight"  # where embeddings are tied it may be in a file, or not
NAMES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Bits of the exponent: a number whose are all set is infinite or none.
EXPONENTS = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
}
CHUNK = 1 << 22  # numbers looked at together


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file, by the file's header."""

    file: Path
    dtype: str  # as safetensors calls it
    shape: tuple[int, ...]
    start: int  # bytes into the file


@dataclass(frozen=True, slots=True)
class Whole:
    """What full weights must fit: the base model that the engine started with, and its dtype."""

    base_path: Path
    dtype: str


def weights_sha256(files: Mapping[str, str]) -> str:
    """One digest of all weight files, of their names and digests; of one file it is its own."""
    found = sorted((name, sha) for name, sha in files.items() if name.endswith(".safetensors"))
    if len(found) == 1:
        return found[0][1]
    return hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in found).encode()).hexdigest()


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """Every tensor that a reader of the directory finds. Raises AdapterError for what is none."""
    index = directory / INDEX
    if not index.is_file():
        files: Iterable[Path] = sorted(directory.glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in header_of(file).items()}
    try:
        where: dict[str, str] = orjson.loads(index.read_bytes())["weight_map"]
        headers = {name: header_of(directory / Path(name).name) for name in set(where.values())}
        return {name: headers[file][name] for name, file in where.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{directory.name}: {INDEX} leads nowhere: {error!r}") from error


def header_of(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises AdapterError where it is none, or cut off."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= size - 8:
                raise AdapterError(f"{file.name} is no safetensors file, or cut off")
            entries: dict[str, Any] = orjson.loads(opened.read(length))
        entries.pop("__metadata__", None)
        found = {
            name: Tensor(file, said["dtype"], tuple(said["shape"]), 8 + length + begin)
            for name, said in entries.items()
            for begin in (said["data_offsets"][0],)
        }
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise AdapterError(f"{file.name} cannot be read: {error!r}") from error
    if 8 + length + end != size:
        raise AdapterError(f"{file.name} is cut off, or longer than it says")
    return found


def check_weights(directory: Path, listed: Mapping[str, tuple[int, ...]], whole: Whole) -> None:
    """Raise AdapterError, saying what is wrong, unless an engine of the base can be given them."""
    own, base = tensors_of(directory), tensors_of(whole.base_path)
    stray = {file.name for file in directory.glob("*.safetensors")}
    stray -= {tensor.file.name for tensor in own.values()}
    if stray:
        raise AdapterError(f"{INDEX} does not know of {', '.join(sorted(stray))}")
    if {name: tensor.shape for name, tensor in own.items()} != dict(listed):
        raise AdapterError(f"{directory.name}: the tensors are not those that the manifest lists")
    optional = {TIED} if _is_tied(whole.base_path) else set()
    different = sorted((own.keys() ^ base.keys()) - optional)
    if different:
        raise AdapterError(
            f"{len(different)} tensors are missing, or not the base model's: {different[:3]}"
        )
    for name, tensor in own.items():
        known = base.get(name)
        if known is not None and known.shape != tensor.shape:
            raise AdapterError(f"{name} has shape {tensor.shape}, the base model's {known.shape}")
        if tensor.dtype in EXPONENTS and tensor.dtype != NAMES[whole.dtype]:
            raise AdapterError(
                f"{name} is {tensor.dtype}, and trainer.dtype, which the engine serves, is"
                f" {whole.dtype}"
            )
        check_finite(name, tensor)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise AdapterError when one of its numbers is NaN or infinite."""
    kind = EXPONENTS.get(tensor.dtype)
    count = math.prod(tensor.shape)
    if kind is None or not count:
        return
    dtype, exponent = kind
    mask = dtype(exponent)
    numbers = np.memmap(tensor.file, dtype, "r", tensor.start, (count,))
    for start in range(0, count, CHUNK):
        if ((numbers[start : start + CHUNK] & mask) == mask).any():
            raise AdapterError(f"{name} holds NaN or infinite numbers")


def _is_tied(base: Path) -> bool:
    path = base / CONFIG
    return path.is_file() and bool(orjson.loads(path.read_bytes()).get("tie_word_embeddings"))
