"""How long a verdict may take, by the settings."""

from trajectories.settings import JudgeSettings, Settings, VerdictSettings
from workers.verdicts.custom import START_SECONDS

MARGIN_SECONDS = 30.0


def time_limit(source: VerdictSettings) -> float:
    """The longest that one verdict may take, in seconds."""
    seconds = source.timeout_seconds
    if isinstance(source, JudgeSettings):
        return 2 * source.votes * seconds + MARGIN_SECONDS  # twice: without a response_format
    return 2 * seconds + START_SECONDS + MARGIN_SECONDS


def job_seconds(settings: Settings) -> int:
    """The time limit of a verdict's job: that of the slowest."""
    limits = [time_limit(source) for source in settings.verdict_sources.values()]
    return int(max(limits, default=MARGIN_SECONDS))
