"""The picture."""

from pathlib import Path

import pytest

from ratchet.demo.picture import draw, held_out, read_results
from ratchet.demo.results import Point, Results, Version


@pytest.fixture
def results() -> Results:
    return Results(
        seed=0,
        is_shuffled=False,
        sessions=250,
        labels=24,
        accuracy_before=0.4,
        accuracy_after=0.7,
        curve=[Point(100, 0.4, None), Point(200, 0.6, 0.2)],
        versions=[Version(1, 120, 0.6, 64, 0.1), Version(2, 220, 0.68, 64, 0.1)],
    )


def test_a_picture_is_drawn_from_results(tmp_path: Path, results: Results) -> None:
    pytest.importorskip("matplotlib")
    draw(results, tmp_path / "curve.png", control=results)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_results_survive_their_file(tmp_path: Path, results: Results) -> None:
    results.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results


def test_the_last_version_is_drawn_with_the_final_measurement(results: Results) -> None:
    assert held_out(results) == ([0, 120, 220], [0.4, 0.6, 0.7])
