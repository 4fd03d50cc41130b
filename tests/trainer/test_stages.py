"""What a round is at, for whoever watches, and how long each part of it took."""

from pathlib import Path

import orjson

from trainer.runs import PROGRESS
from trainer.stages import COMPARING, TRAINING, Stages
from trainer.status import read_progress, read_stage


def test_a_round_says_what_it_is_at(tmp_path: Path) -> None:
    assert (read_stage(tmp_path), read_progress(tmp_path)) == ("", 0.0)
    stages = Stages(tmp_path)
    with stages.stage(TRAINING):
        assert (read_stage(tmp_path), read_progress(tmp_path)) == (TRAINING, 0.0)
        stages.show(TRAINING, 3, 4)
        assert read_progress(tmp_path) == 0.75
    assert set(stages.metrics) == {"step_seconds"}


def test_a_part_that_comes_twice_is_added_up_and_one_that_fails_is_counted(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    for _ in range(2):
        with stages.stage(COMPARING):
            pass
    once = Stages(tmp_path)
    with once.stage(COMPARING):
        pass
    assert stages.metrics["gap_seconds"] >= 0
    assert set(stages.metrics) == set(once.metrics) == {"gap_seconds"}


def test_of_several_processes_one_writes(tmp_path: Path) -> None:
    with Stages(tmp_path, is_writing=False).stage(TRAINING):
        assert not (tmp_path / PROGRESS).exists()
    (tmp_path / PROGRESS).write_bytes(orjson.dumps({"step": 1, "total": 2}))
    assert read_stage(tmp_path) == "", "a training process of before"
