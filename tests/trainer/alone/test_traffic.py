"""A file of records: lines of a trajectory anywhere in it, packed or not, in flat memory."""

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from trainer.alone.traffic import Traffic, TrafficError
from trajectories.composition import Composition


def call(name: str | None, step: int | None = None, **more: Any) -> dict[str, Any]:
    row = {"prompt_token_ids": [1], "token_ids": [step or 0], "logprobs": [-1.0], **more}
    return row | {"trajectory_id": name, "step": step} if name else row


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def read(path: Path) -> list[tuple[str, list[int]]]:
    with Traffic(path) as traffic:
        assert not traffic.check().bad
        return [
            (found.id, [step.choices[0].token_ids[0] for step in found.transitions])
            for found in traffic.trajectories(Composition(), "policy")
        ]


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_lines_of_a_trajectory_may_lie_anywhere(order: list[str]) -> None:
    from tempfile import TemporaryDirectory

    steps = dict.fromkeys(order, 0)
    rows = []
    for name in order:
        rows.append(call(name, steps[name]))
        steps[name] += 1
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log.jsonl"
        path.write_bytes(lines(*rows))
        firsts = list(dict.fromkeys(order))
        assert read(path) == [(name, list(range(steps[name]))) for name in firsts]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_packed_files_are_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    content = lines(call("a", 1), call(None), call("a", 0))
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"log.jsonl{suffix}"
    path.write_bytes(packed[suffix](content))
    assert read(path) == [("a", [0, 1]), ("line-2", [0])]


def test_wrong_lines_are_named_by_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(call("a"), {}) + b"\n{" + b"\n" + lines(call("b", reward=7)))
    with Traffic(path) as traffic:
        checked = traffic.check()
        assert len(list(traffic.trajectories(Composition(), "policy"))) == 1
    assert (checked.lines, checked.bad) == (4, 3)
    assert [error.split(":")[0] for error in checked.errors] == ["line 2", "line 4", "line 5"]


def test_lines_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(call(None), call("a", reward=1), call("a", reward=0)))
    with Traffic(path) as traffic:
        checked = traffic.check()
        assert [found.id for found in traffic.trajectories(Composition(), "policy")] == ["line-1"]
    assert checked.errors[0].startswith("line 2 and others: trajectory a has the rewards")


def test_no_such_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrafficError, match=r"none\.jsonl cannot be read: No such file"):
        Traffic(tmp_path / "none.jsonl")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    row = call("a") | {"prompt_token_ids": [7] * 20_000}
    with path.open("wb") as file:
        for number in range(200):
            file.write(orjson.dumps({**row, "trajectory_id": f"t{number}", "step": 0}) + b"\n")
    read(path)
    tracemalloc.start()
    try:
        assert len(read(path)) == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, "all ids would be 32 MB of pointers alone"
