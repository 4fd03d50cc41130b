"""Who `trainer.report_to` may name, and whether its package is here. Needs no torch."""

from importlib.util import find_spec

from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings

PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),  # either will do
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}


def check_reporters(settings: TrainerSettings) -> None:
    """Raises SettingsError for a reporter that is not installed: at the start, not in a round."""
    for name in settings.report_to:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise SettingsError(
                f"trainer.report_to names {name}, which is not installed here:"
                f" pip install {PACKAGES[name][0]}, or take it out"
            )
