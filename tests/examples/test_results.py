"""Results: written and read back, the table, what a picture draws, settings from a command."""

import tomllib
from pathlib import Path

import pytest

from examples.arena.picture import draw, lines_of
from examples.arena.results import Point, Result, Version, path_of, read, read_all, table
from examples.arena.settings import override, parse_overrides, sections, write_toml
from trajectories.errors import SettingsError
from trajectories.settings import load_settings


def result(seed: int, variant: str, *accuracies: float) -> Result:
    versions = [
        Version(number, 300 * number, 100 * number, 120, accuracy)
        for number, accuracy in enumerate(accuracies)
    ]
    found = Result("calculator", "AutoGen", variant, seed, 300, versions, [Point(25, 0.4)])
    found.sessions, found.thumbs, found.seconds = 300 * (len(versions) - 1), 200, 120.0
    return found


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = path_of(tmp_path, "calculator", "as given", 2)
    result(2, "as given", 0.4, 0.8).write(path)
    assert path.name == "calculator-as-given-2.json"
    assert read(path) == result(2, "as given", 0.4, 0.8)
    assert [path] == list(tmp_path.iterdir())


def test_the_table_has_a_row_for_each_variant_with_what_was_given_first(tmp_path: Path) -> None:
    runs = [result(1, "shuffled", 0.4, 0.38), result(1, "as given", 0.4, 0.8)]
    for run in [*runs, result(2, "as given", 0.3, 0.8), result(1, "step", 0.4, 0.9)]:
        run.write(path_of(tmp_path, run.world, run.variant, run.seed))
    rows = table(read_all(tmp_path)).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["as given", "shuffled", "step"]
    assert "| 1, 2 | 300 | 200 | 0.350 | 0.800 | +45 points (+40 to +50) |" in rows[0]
    assert "-2 points" in rows[1]


def test_a_run_that_stopped_short_is_named_below_the_table() -> None:
    short = result(2, "as given", 0.4, 0.6)
    short.lacking = "a round had too little to learn from"
    lines = table([result(1, "as given", 0.4, 0.8), short]).splitlines()
    assert lines[3:] == [
        "",
        "calculator as given, seed 2, reached only version 1:"
        " a round had too little to learn from.",
    ]
    assert len(table([result(1, "as given", 0.4, 0.8)]).splitlines()) == 3


def test_a_picture_shows_each_version_after_its_sessions(tmp_path: Path) -> None:
    assert lines_of(result(1, "as given", 0.4, 0.6, 0.8)) == ([0, 300, 600], [0.4, 0.6, 0.8])
    pytest.importorskip("matplotlib")
    out = tmp_path / "images" / "example.png"
    draw([result(1, "as given", 0.4, 0.8), result(1, "shuffled", 0.4, 0.4)], "Title", out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_settings_of_an_ablation_are_read_from_the_command(tmp_path: Path) -> None:
    over = parse_overrides(["trainer.credit=discounted", "rewards.air_weight=0", "trainer.rank=8"])
    assert over == {"trainer": {"credit": "discounted", "rank": 8}, "rewards": {"air_weight": 0}}
    base = sections("calculator", tmp_path, tmp_path / "model", seed=3, is_shuffled=True)
    path = tmp_path / "ratchet.toml"
    path.write_text(write_toml(override(base, over)), encoding="utf-8")
    assert tomllib.loads(path.read_text())["trainer"]["credit"] == "discounted"
    settings = load_settings(path)
    assert (settings.trainer.rank, settings.trainer.seed) == (8, 3)
    assert settings.trainer.shuffle_rewards
    assert settings.upstream.base_model == "calculator"


@pytest.mark.parametrize("text", ["credit=step", "trainer.credit", "=1", ".x=1"])
def test_a_setting_of_another_form_is_refused_with_the_right_one(text: str) -> None:
    with pytest.raises(SettingsError, match=r"section\.key=value"):
        parse_overrides([text])
