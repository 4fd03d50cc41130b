"""The command of the examples: what is kept under whose name, and that nothing else is."""

import sys
from pathlib import Path
from typing import Any

import pytest

from examples import run
from examples.arena import experiment
from examples.arena.results import Result, Version

Asked = list[dict[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the experiment was asked for, which is not run."""
    found: Asked = []

    def pretend(world: Any, seed: int, **options: Any) -> Result:
        found.append(options)
        versions = [Version(0, 0, 0, 0, 0.4), Version(1, 300, 100, 120, 0.8)]
        return Result(world.name, "AutoGen", options["variant"], seed, 300, versions)

    monkeypatch.setattr(experiment, "run", pretend)
    monkeypatch.setattr(run, "draw", lambda *_: 0)
    return found


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run", "calculator", *words])
    return run.main()


@pytest.mark.parametrize(
    "changed", [("--rounds", "1"), ("--sessions", "20"), ("--held-out", "10"), ("--set", "a.b=1")]
)
def test_a_run_of_another_kind_is_not_kept_among_those_as_given(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: tuple[str, str],
) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, "--seeds", "1", *changed)
    assert "--variant" in capsys.readouterr().err
    assert asked == []


def test_a_short_run_of_ones_own_lies_elsewhere(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert command(monkeypatch, "--seeds", "1", "--rounds", "1", "--out", str(tmp_path)) == 0
    assert asked[0]["rounds"] == 1
    assert (tmp_path / "calculator-as-given-1.json").exists()


def test_only_the_flag_shuffles(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = ("--seeds", "1", "--out", str(tmp_path))
    for words in ((), ("--shuffle",), ("--variant", "step"), ("--variant", "step", "--shuffle")):
        assert command(monkeypatch, *own, *words) == 0
    assert [(one["variant"], one["is_shuffled"]) for one in asked] == [
        ("as given", False),
        ("shuffled", True),
        ("step", False),
        ("shuffled step", True),
    ]
    for taken in ("shuffled step", "shuffled", "as given", "as-given"):
        with pytest.raises(SystemExit):
            command(monkeypatch, *own, "--variant", taken)
