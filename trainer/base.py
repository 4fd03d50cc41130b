"""The base model's weights on disk: where they are, and which ones they are.

Its fingerprint goes into every manifest, so that an adapter is never put on
top of another base than the one it was trained on. Imports no torch; a hub
name is looked up in the local cache only.
"""

import hashlib
from pathlib import Path

import orjson

from trainer.durable import sha256_of, write_atomic
from trajectories.errors import SettingsError


def resolve_base(path_or_name: str | None) -> Path:
    """The directory with the weights. Raises SettingsError when there is none."""
    if not path_or_name:
        raise SettingsError(
            "trainer.base_model_path is not set: write the directory or hub name of the weights"
            " that upstream.base_model serves"
        )
    path = Path(path_or_name)
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download  # only for hub names

    try:
        return Path(snapshot_download(path_or_name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"trainer.base_model_path is {path_or_name!r}: neither a directory nor a model in the"
            f" local hub cache ({error})"
        ) from error


def fingerprint(base: Path, cache: Path) -> str:
    """The SHA-256 over the base model's weight files, remembered in `cache`.

    The cache is keyed by names, sizes and times, so that gigabytes are hashed
    once and not at every start.
    """
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise SettingsError(f"{base} holds no .safetensors file: is it a model directory?")
    stats = [(file.name, file.stat()) for file in files]
    key = orjson.dumps(
        [str(base), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]
    ).decode()
    known = orjson.loads(cache.read_bytes()) if cache.is_file() else {}
    if known.get("key") == key:
        return str(known["sha256"])
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, orjson.dumps({"key": key, "sha256": digest.hexdigest()}))
    return digest.hexdigest()
