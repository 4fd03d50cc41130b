"""Who shall be told of the steps is looked for before the first round, not in it."""

import pytest

from trainer.reporters import PACKAGES, check_reporters
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings


def test_a_reporter_that_is_not_installed_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PACKAGES, "wandb", ("no_such_package",))
    monkeypatch.setitem(PACKAGES, "tensorboard", ("no_such_package", "pytest"))
    check_reporters(TrainerSettings(report_to=("tensorboard",)))
    with pytest.raises(SettingsError, match=r"trainer\.report_to names wandb, .*: pip install"):
        check_reporters(TrainerSettings(report_to=("tensorboard", "wandb")))


def test_every_reporter_that_can_be_set_has_its_package() -> None:
    for name in PACKAGES:
        assert TrainerSettings(report_to=(name,)).report_to == (name,)
