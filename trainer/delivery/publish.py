"""Publishing: from what the training left to an immutable, stamped directory of a version.

    .publishing-{run}/  files -> fsync -> manifest.json -> rename
    {policy}-v{version}-{sha8 of the weights}/

The name is the adapter's name in the engines, too, so that it can never come
to mean other weights. A directory without a manifest does not exist for
anybody; killed at any step, the next start publishes again and finds either
nothing or all of it. optimizer.pt stays behind in the run: engines are never
shown anything but safetensors and JSON. Weights of a whole model are linked,
not copied, where the disk allows it: neither side ever writes into a file.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from trainer.advantages.tracker import TRACKER
from trainer.delivery.gate import ALLOWED, CONFIG, WEIGHTS
from trainer.delivery.weights import tensors_of, weights_sha256
from trainer.durable import sha256_of, sync_directory, sync_file, write_atomic
from trainer.runs import Plan
from trajectories.resources import MANIFEST, PROBE, AdapterManifest, Kind, Lineage

Reached = Callable[[str], None]


def publish(
    trained: Path,
    adapters_dir: Path,
    *,
    plan: Plan,
    version: int,
    base_model: str,
    base_sha256: str,
    metrics: Mapping[str, float],
    reached: Reached,
) -> Path:
    """Make the directory of `version`; one that is already there is left alone."""
    adapters_dir.mkdir(parents=True, exist_ok=True)
    names = published_files(trained, Kind(plan.trainer.weights))
    files = {name: sha256_of(trained / name) for name in names}
    final = adapters_dir / adapter_name(plan.policy, version, weights_sha256(files))
    if (final / MANIFEST).is_file():
        return final
    beside = adapters_dir / f".publishing-{plan.run_id}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for name in names:
        bring(trained / name, beside / name, is_large=plan.trainer.weights == "full")
        sync_file(beside / name)
        reached(f"publish_{name}")
    manifest = describe(beside, plan, version, base_model, base_sha256, metrics)
    write_atomic(beside / MANIFEST, manifest.to_json())
    sync_directory(beside)
    reached("publish_manifest")
    beside.rename(final)
    reached("publish_renamed")
    sync_directory(adapters_dir)
    return final


def published_files(trained: Path, kind: Kind) -> list[str]:
    """Which files of what a training left belong to the version."""
    if kind is Kind.LORA:
        return [WEIGHTS, CONFIG, PROBE]
    return sorted(
        path.name
        for path in trained.iterdir()
        if path.is_file() and path.suffix in ALLOWED[kind] and path.name != TRACKER
    )


def bring(source: Path, target: Path, *, is_large: bool) -> None:
    """Copy a file, or link it."""
    try:
        if is_large:
            os.link(source, target)
            return
    except OSError:
        pass  # another disk, or one without links
    shutil.copyfile(source, target)


def adapter_name(policy: str, version: int, weights_sha256: str) -> str:
    """The directory's name, and the adapter's name in every engine."""
    return f"{policy}-v{version}-{weights_sha256[:8]}"


def describe(
    directory: Path,
    plan: Plan,
    version: int,
    base_model: str,
    base_sha256: str,
    metrics: Mapping[str, float],
) -> AdapterManifest:
    """The manifest of what lies in `directory`, with its whole lineage."""
    if plan.trainer.weights == "full":
        form: dict[str, Any] = {"kind": Kind.FULL, "dtype": plan.trainer.dtype}
    else:
        config = orjson.loads((directory / CONFIG).read_bytes())
        form = {"rank": config["r"], "target_modules": tuple(sorted(config["target_modules"]))}
    return AdapterManifest(
        policy=plan.policy,
        version=version,
        base_model=base_model,
        base_sha256=base_sha256,
        **form,
        tensors={name: tensor.shape for name, tensor in tensors_of(directory).items()},
        files={path.name: sha256_of(path) for path in sorted(directory.iterdir())},
        parent=plan.parent,
        created_at=time.time(),
        metrics=dict(metrics),
        lineage=Lineage(
            run_id=plan.run_id,
            algorithm=plan.algorithm,
            trajectory_ids=plan.refs,
            reward_sources=plan.reward_sources,
            excluded=plan.excluded,
            config=plan.trainer.model_dump(mode="json"),
        ),
    )


def published(adapters_dir: Path) -> list[Path]:
    """Every adapter that exists: visible directories with a manifest."""
    return sorted(
        path.parent
        for path in adapters_dir.glob(f"*/{MANIFEST}")
        if not path.parent.name.startswith(".")
    )


def highest_version(adapters_dir: Path, policy: str) -> int:
    """The highest version number any directory on disk carries; 0 for none."""
    pattern = re.compile(rf"{re.escape(policy)}-v(\d+)-[0-9a-f]{{8}}")
    matches = (pattern.fullmatch(path.name) for path in adapters_dir.glob("*"))
    return max((int(match[1]) for match in matches if match), default=0)
