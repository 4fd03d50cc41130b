"""Training runs on disk: which trajectories they were trained on, and rows that have to go.

Knows of a run directory (trainer/runs.py) only what is needed here: `run.json`
with policy and version, `plan.json` with the trajectories, `batch.jsonl` with
token ids, which spell texts.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from trajectories.resources import PROBE

BATCH, PLAN, RUN = "batch.jsonl", "plan.json", "run.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that learned from something that was erased."""

    run_id: str
    policy: str
    version: int | None  # None: no adapter came out
    adapter: str | None  # its name in the engines
    path: str | None
    rows: int  # of its batch that were erased
    is_quoted: bool = False  # whether the adapter's probe quotes one of them, as token ids


def erase_rows(runs_dir: Path, members: Collection[str], *, is_dry: bool = False) -> list[Trained]:
    """Erase the rows of these trajectories (`tenant/id`) from all batches; who used them."""
    found: list[Trained] = []
    for plan_path in sorted(runs_dir.glob(f"*/{PLAN}")):
        plan = _read(plan_path)
        if not set(members) & {*plan.get("refs", ()), *plan.get("replayed", ())}:
            continue
        prompts = _erase_from(plan_path.parent / BATCH, members, is_dry=is_dry)
        run = _read(plan_path.parent / RUN)
        found.append(
            Trained(
                str(plan.get("run_id", plan_path.parent.name)),
                str(plan.get("policy", "")),
                run.get("version"),
                run.get("model"),
                run.get("path"),
                len(prompts),
                _quotes(run.get("path"), prompts),
            )
        )
    return found


def together(found: Iterable[Trained]) -> list[Trained]:
    """Each run once, with all of its rows."""
    runs: dict[str, Trained] = {}
    for run in found:
        before = runs.get(run.run_id)
        if before is not None:
            is_quoted = before.is_quoted or run.is_quoted
            run = replace(run, rows=before.rows + run.rows, is_quoted=is_quoted)
        runs[run.run_id] = run
    return [runs[name] for name in sorted(runs)]


def _quotes(adapter: str | None, prompts: list[list[int]]) -> bool:
    probes = _read(Path(adapter) / PROBE).get("probes", ()) if adapter else ()
    return any(probe.get("prompt_token_ids") in prompts for probe in probes)


def _erase_from(path: Path, members: Collection[str], *, is_dry: bool) -> list[list[int]]:
    """The prompts, as token ids, of the rows that go."""
    if not path.is_file():
        return []
    kept: list[bytes] = []
    erased: list[list[int]] = []
    with path.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            if row.get("trajectory") in members:
                erased.append(row.get("prompt_token_ids", []))
            else:
                kept.append(line)
    if erased and not is_dry:
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    return erased


def _read(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
