"""Rows on disk: read one by one, in their order, whichever is asked for."""

import pickle
import tracemalloc
from pathlib import Path

import pytest

from tests.trainer.records import a_sample
from trainer.batch.stored import CHUNK_BYTES, StoredSamples


def stored(path: Path, count: int, tokens: int = 2) -> StoredSamples:
    ids, logprobs = tuple(range(tokens)), (-1.0,) * tokens
    with path.open("wb") as file:
        for number in range(count):
            sample = a_sample(f"t{number}", number / 1000, token_ids=ids, logprobs=logprobs)
            file.write(sample.to_json() + b"\n")
    return StoredSamples(path)


def test_rows_are_a_sequence(tmp_path: Path) -> None:
    rows = stored(tmp_path / "batch.jsonl", 5)
    assert len(rows) == 5
    assert [row.trajectory for row in rows] == ["t0", "t1", "t2", "t3", "t4"]
    assert rows[-1] == rows[4] == list(rows)[4]
    assert [row.trajectory for row in rows[1:4:2]] == ["t1", "t3"]
    assert next(row.trajectory for row in reversed(rows)) == "t4"
    with pytest.raises(IndexError):
        rows[5]
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)


def test_nothing_is_no_row_and_a_last_line_needs_no_end(tmp_path: Path) -> None:
    assert list(stored(tmp_path / "empty", 0)) == []
    (tmp_path / "one").write_bytes(a_sample("t0", 1.0).to_json())
    assert len(StoredSamples(tmp_path / "one")) == 1


def test_lines_that_cross_the_border_of_a_chunk_are_whole(tmp_path: Path) -> None:
    rows = stored(tmp_path / "batch.jsonl", 40, tokens=10_000)
    assert (tmp_path / "batch.jsonl").stat().st_size > 2 * CHUNK_BYTES
    assert {len(row.token_ids) for row in rows} == {10_000}


def test_a_file_put_in_its_place_leaves_what_was_opened_alone(tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    rows = stored(path, 3)
    (tmp_path / "new").write_bytes(b"")
    (tmp_path / "new").replace(path)
    assert [row.trajectory for row in rows] == ["t0", "t1", "t2"]


def test_reading_all_of_them_keeps_none(tmp_path: Path) -> None:
    rows = stored(tmp_path / "batch.jsonl", 200, tokens=5_000)
    tracemalloc.start()
    try:
        assert sum(len(row.token_ids) for row in rows) == 1_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, "all of them would be sixteen megabytes of pointers alone"
