"""Who writes, who waits, and what one that is not the first says when it gives up."""

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from trainer import ranks


def test_a_process_alone_is_the_first_of_one() -> None:
    ranks.join("cpu", "start 1 of run_1")
    ranks.wait()
    assert (ranks.count(), ranks.is_first()) == (1, True)


@pytest.mark.parametrize("name", ranks.SHARDING)
def test_sharding_is_what_accelerate_launch_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ranks.is_sharded()
    monkeypatch.setenv(name, "true")
    assert ranks.is_sharded()


def test_one_that_gave_up_ends_well_once_the_first_has_said_why(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    assert ranks.status_of_follower(result, seconds=0) == 1, "the first goes on: end the round"
    result.touch()
    assert ranks.status_of_follower(result, seconds=0) == 0
