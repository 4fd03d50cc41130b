"""How long from `ratchet train` to the first step, out of a log of a million transitions?

    python benchmarks/archive.py --transitions 1000000 --directory archive-benchmark --phase write
    python benchmarks/round_start.py --directory archive-benchmark --hot 2000 --json figures.json

The log is the archive that benchmarks/archive.py writes, and `--hot` conversations more in a Redis
of our own. Each round is a process of its own, which draws, sorts and writes `--sample`
conversations of 20 calls, then opens the rows as the training process does, and notes its
largest resident set.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.archive import TURNS, Pool, _redis, conversation

MAX_LENGTH = 16_384
FIRST_HOT = 1_000_000  # the number of the first conversation in Redis: none is archived
AFTER = """\
Drawn and sorted is all that a trainer does before it writes: `trainer.max_trajectories` decides how
long it takes, and not the size of the log. Memory grows by 8 KB for each conversation."""
TITLE = "## A round out of a million transitions"


def fill(store: Any, first: int, count: int) -> float:
    """Put conversations into Redis, closed and rewarded; the seconds it took."""
    from trajectories.model import Transition
    from trajectories.settings import RewardSettings
    from trajectories.store import TrajectoryRef
    from workers.jobs import Scorer

    began, pool = time.monotonic(), Pool()
    scorer = Scorer.from_settings(RewardSettings())
    for number in range(first, first + 5 * count, 5):  # those that are judged
        record = conversation(number, pool)
        ref = TrajectoryRef("default", record.trajectory.id)
        for step in record.trajectory.transitions:
            store.add_transition(Transition.from_json(step.to_json()))
        for vote in record.feedback:
            store.add_feedback(vote)
        store.close(ref)
        scorer.score(store, ref)
    return time.monotonic() - began


def start_round(given: argparse.Namespace, url: str) -> dict[str, Any]:
    """What a trainer does before it starts a training process, and what that does before a step."""
    from trainer.advantages.advantage import lean
    from trainer.batch.batching import look, selection_for, write_batch
    from trainer.runs import Plan, RunDirectory
    from trajectories.connection import connect
    from trajectories.settings import ArchiveSettings, RedisSettings, Settings, TrainerSettings
    from trajectories.store import Store

    with tempfile.TemporaryDirectory() as name:
        settings = Settings(
            data_dir=Path(name),
            redis=RedisSettings(url=url, timeout_seconds=30),
            archive=ArchiveSettings(url=str(given.directory.resolve())),
            trainer=TrainerSettings(
                algorithm="sft",
                sft_threshold=-1.0,
                cold=True,
                min_trajectories=1,
                max_trajectories=given.sample,
                max_length=MAX_LENGTH,
            ),
        )
        settings.runs_dir.mkdir(parents=True)
        before = _peak_mb()
        began, cpu = time.monotonic(), time.process_time()
        store = Store(connect(settings.redis))
        batch = look(store, settings, selection_for(settings, "sft", 0))
        drawn = time.monotonic()
        directory = RunDirectory(settings.runs_dir / "run")
        directory.path.mkdir()
        plan = Plan(
            run_id="run", policy=settings.policy, algorithm="sft", base_path="", parent=0,
            parent_path=None, optimizer_path=None, trainer=settings.trainer, refs=batch.refs,
        )  # fmt: skip
        write_batch(directory, batch, plan)
        written = time.monotonic()
        rows = directory.samples()
        [lean(row) for row in rows]  # what advantages are computed from
        opened = time.monotonic()
        return {
            "trajectories": len(batch.refs),
            "of_redis": sum(ref >= f"default/traj_{FIRST_HOT:028x}" for ref in batch.refs),
            "samples": len(rows),
            "tokens": batch.samples.tokens,
            "batch_mb": round((directory.path / "batch.jsonl").stat().st_size / 1e6, 1),
            "draw_seconds": round(drawn - began, 1),
            "write_seconds": round(written - drawn, 1),
            "open_seconds": round(opened - written, 1),
            "seconds": round(opened - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "rss_start_mb": before,
            "rss_mb": _peak_mb(),
        }


def _peak_mb() -> float:
    """The largest resident set so far; rusage would count that of the parent before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    largest = next(line for line in lines if line.startswith("VmHWM"))
    return round(int(largest.split()[1]) / 1024, 1)


def table_of(report: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    lines = [
        TITLE,
        "",
        "<!-- begin round start -->",
        f"`{report['command']}` on {report['date']}: {report['cores']} cores, shared. The log:"
        f" {report['archived']:,} transitions in the archive, {report['hot_transitions']:,} in"
        " Redis; conversations of 20 calls, one in five judged, each call a sample, up to 6,500"
        " tokens long. First what is in Redis, then the archive, newest first.",
        "",
        "| conversations of the round (of Redis) | samples | tokens | rows | drawn and sorted"
        " | written | opened | all | CPU s | RSS before | largest |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['trajectories']:,} ({row['of_redis']:,}) | {row['samples']:,} |"
        f" {row['tokens'] / 1e6:,.1f} M | {row['batch_mb']:,} MB | {row['draw_seconds']} s |"
        f" {row['write_seconds']} s | {row['open_seconds']} s | {row['seconds']} s |"
        f" {row['cpu_seconds']} | {row['rss_start_mb']} MB | {row['rss_mb']} MB |"
        for row in report["rounds"]
    ]
    return "\n".join([*lines, "", AFTER, "<!-- end round start -->", ""])


def main() -> None:
    """Fill Redis, then a process for each size of round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("archive-benchmark"))
    parser.add_argument("--hot", type=int, default=500, help="conversations in Redis")
    parser.add_argument("--sample", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--page", type=Path, help="the page whose section is written anew")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        given.sample = given.sample[0]
        given.child.write_text(json.dumps(start_round(given, given.url)))
        return
    from trajectories.archive import Archive, Place
    from trajectories.store import Store

    archived = sum(m.rows for m in Archive(Place(str(given.directory))).manifests().values())
    report: dict[str, Any] = {
        "command": f"python benchmarks/round_start.py --hot {given.hot}",
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "archived": archived * TURNS,
        "hot_transitions": given.hot * TURNS,
        "rounds": [],
    }
    with _redis() as redis, tempfile.TemporaryDirectory() as scratch:
        report["fill_seconds"] = round(fill(Store(redis), FIRST_HOT, given.hot), 1)
        url = f"unix://{redis.connection_pool.connection_kwargs['path']}"
        for size in given.sample:
            child = Path(scratch) / "figures.json"
            command = [sys.executable, "-m", "benchmarks.round_start", "--sample", str(size)]
            command += ["--directory", str(given.directory), "--child", str(child), "--url", url]
            subprocess.run(command, check=True)
            report["rounds"].append(json.loads(child.read_text()))
            print(json.dumps(report["rounds"][-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if given.page:
        text = given.page.read_text()
        before, _, rest = text.partition(TITLE)
        _, _, after = rest.partition("<!-- end round start -->\n")
        given.page.write_text(before.rstrip("\n") + "\n\n" + table_of(report) + after)


if __name__ == "__main__":
    main()
