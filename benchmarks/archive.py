"""A million archived transitions: written, exported, filtered and replayed, with flat memory?

    python benchmarks/archive.py --transitions 1000000 --json figures.json

Each phase is a process of its own, which notes its largest resident set at 10 %, 50 % and the end.
The archive stays in `--directory`: run again, it goes on where it was cut short.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TURNS = 20
SYSTEM_BYTES = 2_000
QUESTION_BYTES, ANSWER_BYTES = 700, 650  # about 16 KB of messages a call, as in the store's shape
TOKEN_BYTES = 4.5
PHASES = ("write", "archiver", "export", "filtered", "replay")
ARCHIVER_TRAJECTORIES = 500
STARTED_AT = 1_760_000_000.0
WORDS = 4_000


class Meter:
    """Progress of a phase, with the largest resident set so far at 10 %, 50 % and the end."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.began = time.monotonic()
        self.rss: dict[str, float] = {"start": _peak_mb()}
        self._marks = {max(1, int(total * share)): f"{share:.0%}" for share in (0.1, 0.5)}

    def advance(self, count: int = 1) -> None:
        """`count` trajectories more are done."""
        for _ in range(count):
            self.done += 1
            if name := self._marks.get(self.done):
                self.rss[name] = _peak_mb()

    def figures(self, transitions: int) -> dict[str, Any]:
        seconds = time.monotonic() - self.began
        self.rss["100%"] = _peak_mb()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "trajectories": self.done,
            "transitions": transitions,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "transitions_per_second": round(transitions / seconds),
            "rss_mb": self.rss,
        }


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


class Pool:
    """Made-up words and log probabilities, made once and cut from: text that packs as people's."""

    def __init__(self) -> None:
        dice = random.Random(0)
        letters = "eeeetttaaooinnsshhrrddlucmfwypvbgkjqxz"
        words = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(WORDS)]
        frequent = [1 / (rank + 10) for rank in range(WORDS)]
        self._text = " ".join(dice.choices(words, frequent, k=3_000_000))
        self._logprobs = tuple(round(-dice.expovariate(2), 6) for _ in range(500_000))

    def text(self, dice: random.Random, size: int) -> str:
        at = dice.randrange(len(self._text) - size)
        return self._text[at : at + size]

    def logprobs(self, dice: random.Random, count: int) -> tuple[float, ...]:
        at = dice.randrange(len(self._logprobs) - count)
        return self._logprobs[at : at + count]

    @staticmethod
    def ids(dice: random.Random, size: int) -> tuple[int, ...]:
        """Token ids of so many bytes of text."""
        return tuple(array("H", dice.randbytes(2 * int(size / TOKEN_BYTES))))


def conversation(number: int, pool: Pool) -> Any:
    """Trajectory `number`: the same whoever makes it."""
    from trajectories.archive import Archived
    from trajectories.model import Choice, Feedback, Reward, Sampling, Trajectory, Transition

    dice = random.Random(number)
    name = f"traj_{number:028x}"
    agent = ("support", "coder", "search", "planner")[number % 4]
    system = pool.text(random.Random(agent), SYSTEM_BYTES)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    prompt = pool.ids(dice, SYSTEM_BYTES)
    at = STARTED_AT + number * 20.0
    steps = []
    for turn in range(TURNS):
        question = pool.text(dice, QUESTION_BYTES)
        answer = pool.text(dice, ANSWER_BYTES)
        messages.append({"role": "user", "content": question})
        prompt += pool.ids(dice, QUESTION_BYTES)
        ids = pool.ids(dice, ANSWER_BYTES)
        message = {"role": "assistant", "content": answer}
        steps.append(
            Transition.model_construct(
                id=f"tr_{number:024x}{turn:04x}",
                tenant="default",
                trajectory_id=name,
                session_id=f"session-{number}",
                agent=agent,
                gateway="0190aa",
                started_at=at + turn,
                latency_seconds=0.8,
                request={"model": "policy", "messages": list(messages), "temperature": 0.7},
                response_id=f"chatcmpl-{number:x}-{turn}",
                policy="policy",
                policy_version=number // 10_000,
                model="base",
                sampling=Sampling(temperature=0.7),
                prompt_token_ids=prompt,
                choices=(
                    Choice.model_construct(
                        message=message,
                        finish_reason="length" if dice.random() < 0.02 else "stop",
                        token_ids=ids,
                        logprobs=pool.logprobs(dice, len(ids)),
                    ),
                ),
            )
        )
        messages.append(message)
        prompt += ids
    votes: tuple[Feedback, ...] = ()
    rewards: tuple[Reward, ...] = ()
    reward = None
    if number % 5 == 0:  # one in five is judged
        reward = round(dice.uniform(-1, 1), 3)
        votes = (
            Feedback(
                id=f"fb_{number}", identity=f"{name}|reward", trajectory_id=name, reward=reward,
                received_at=at + 60,
            ),
        )  # fmt: skip
        rewards = (
            Reward(
                id=f"rw_{number}", trajectory_id=name, name="reward", source="feedback:human",
                value=reward,
            ),
        )  # fmt: skip
    trajectory = Trajectory.model_construct(
        id=name, tenant="default", session_id=f"session-{number}", agent=agent, policy="policy",
        started_at=at, updated_at=at + TURNS, is_closed=True, reward=reward,
        transitions=tuple(steps), rewards=rewards,
    )  # fmt: skip
    return Archived(trajectory, votes, (), 1, reward is not None)


def write(directory: Path, trajectories: int) -> dict[str, Any]:
    """Write what is not there yet, as the archiver does."""
    from trajectories.archive import Archive, Place, Writer

    place = Place(str(directory))
    pool = Pool()
    there = sum(manifest.rows for manifest in Archive(place).manifests().values())
    meter = Meter(trajectories - there)
    raw = made = 0.0
    writer = Writer(place, there + 1)
    for number in range(there, trajectories):
        began = time.process_time()
        record = conversation(number, pool)
        made += time.process_time() - began
        if number % 500 == 0:
            raw = sum(len(step.to_json()) for step in record.trajectory.transitions) / TURNS
        writer.add(record)
        if writer.nbytes >= 256 << 20:
            _seal(writer)
        meter.advance()
    _seal(writer)
    figures = meter.figures((trajectories - there) * TURNS)
    stored = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return figures | {
        "cpu_seconds_of_making_them": round(made, 1),
        "raw_json_bytes_per_transition": round(raw),
        "bytes_per_transition": round(stored / trajectories / TURNS, 1),
        "segments": len(Archive(place).manifests()),
    }


def _seal(writer: Any) -> None:
    for _ in writer.seal():
        pass


def archiver(directory: Path, trajectories: int) -> dict[str, Any]:
    """The archiver itself: from Redis to a directory of its own."""
    from threading import Event

    from trajectories.archive import Archive, Place
    from trajectories.model import Transition
    from trajectories.settings import ArchiveSettings, RewardSettings
    from trajectories.store import Store, TrajectoryRef
    from workers.archiver import Archiver, Pace
    from workers.jobs import Scorer

    pool = Pool()
    count = min(ARCHIVER_TRAJECTORIES, trajectories)
    scorer = Scorer.from_settings(RewardSettings())
    with _redis() as redis, tempfile.TemporaryDirectory() as name:
        store = Store(redis)
        for number in range(count):
            record = conversation(number, pool)
            for step in record.trajectory.transitions:
                store.add_transition(Transition.from_json(step.to_json()))
            ref = TrajectoryRef("default", record.trajectory.id)
            store.close(ref)
            scorer.score(store, ref)
        place, settings = Place(name), ArchiveSettings(settle_seconds=0, roll_seconds=3600)

        class UntilDone(Event):
            def is_set(self) -> bool:
                return len(made._taken) >= count

        made = Archiver(redis, place, settings, scorer, pace=Pace(idle=0))
        meter = Meter(count)
        made.run(UntilDone())
        meter.advance(count)
        figures = meter.figures(count * TURNS)
        assert sum(m.rows for m in Archive(place).manifests().values()) == count
        assert store.count_archiving() == 0
        return figures


def export(directory: Path, trajectories: int) -> dict[str, Any]:
    """Everything, as trajectories, packed."""
    from ratchet.export import Format
    from trajectories.archive import Filters

    return _export(directory, trajectories, Filters(), Format.TRAJECTORY)


def filtered(directory: Path, trajectories: int) -> dict[str, Any]:
    """Chat rows of one agent's judged, good trajectories of half the time."""
    from ratchet.export import Format
    from trajectories.archive import Filters

    half = STARTED_AT + trajectories * 10.0
    filters = Filters(agent="support", min_reward=0.5, is_labelled=True, until=half)
    return _export(directory, trajectories, filters, Format.OPENAI)


def _export(directory: Path, trajectories: int, filters: Any, form: Any) -> dict[str, Any]:
    import orjson

    from ratchet.export import export_rows
    from trajectories.archive import Archive, Place
    from trajectories.archive.merged import scan
    from trajectories.lines import writing
    from trajectories.store import Store

    with _redis() as redis, tempfile.TemporaryDirectory() as name:
        archive = Archive(Place(str(directory)), look_seconds=float("inf"))
        target = Path(name) / "out.jsonl.zst"
        expected = trajectories if filters.agent is None else trajectories // 160
        meter = Meter(expected)
        rows = transitions = 0

        def records() -> Iterator[Any]:
            nonlocal transitions
            for record, _ in scan(Store(redis), archive, filters):
                transitions += len(record.trajectory.transitions)
                meter.advance()
                yield record

        with writing(target) as stream:
            for row in export_rows(records, form):
                stream.write(orjson.dumps(row) + b"\n")
                rows += 1
        read = trajectories * TURNS if filters.agent is None else transitions
        figures = meter.figures(read)
        return figures | {"rows": rows, "file_mb": round(target.stat().st_size / 1e6, 1)}


def replay(directory: Path, trajectories: int) -> dict[str, Any]:
    """Every reward computed anew, with another value for one signal; nothing written."""
    from trajectories.archive import Filters, Place
    from trajectories.settings import RewardSettings
    from workers.jobs import Scorer
    from workers.replay import replay as replay_all

    scorer = Scorer.from_settings(RewardSettings.model_validate({"air": {"truncated": -0.2}}))
    with _redis() as redis:
        meter = Meter(trajectories)
        report = replay_all(redis, Place(str(directory)), scorer, Filters(), advance=meter.advance)
        return meter.figures(report.transitions) | {"changed": report.changed}


class _redis:
    """A server for as long as a phase takes."""

    def __enter__(self) -> Any:
        from ratchet.redis_server import EmbeddedRedis
        from trajectories.connection import connect
        from trajectories.settings import RedisSettings, Settings

        self._directory = tempfile.TemporaryDirectory(prefix="rt")
        patient = RedisSettings(timeout_seconds=10)
        self._server = EmbeddedRedis(Settings(data_dir=Path(self._directory.name), redis=patient))
        self._server.start()
        return connect(self._server.settings)

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._directory.cleanup()


def main() -> None:
    """Run the phases, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, default=Path("archive-benchmark"))
    parser.add_argument("--json", type=Path, help="where the figures go, and come from again")
    parser.add_argument("--phase", choices=PHASES, action="append", help="only this, repeatable")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    trajectories = given.transitions // TURNS
    phases: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "write": write, "archiver": archiver, "export": export, "filtered": filtered,
        "replay": replay,
    }  # fmt: skip
    if given.child is not None:
        figures = phases[given.phase[0]](given.directory, trajectories)
        given.child.write_text(json.dumps(figures))
        return
    report = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    report["command"] = f"python benchmarks/archive.py --transitions {given.transitions}"
    report["cores"] = os.cpu_count()
    for name in given.phase or PHASES:
        with tempfile.TemporaryDirectory() as scratch:
            child = Path(scratch) / "figures.json"
            command = [sys.executable, __file__, "--phase", name, "--child", str(child)]
            command += ["--transitions", str(given.transitions)]
            command += ["--directory", str(given.directory)]
            subprocess.run(command, check=True)
            report[name] = json.loads(child.read_text())
        print(name, json.dumps(report[name]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
