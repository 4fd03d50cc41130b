"""How long a verdict may take, by the settings."""

from trajectories.settings import JudgeSettings, Settings, VerdictSettings
from workers.verdicts.custom import START_SECONDS

MARGIN_SECONDS = 30.0
RETRY_SECONDS = 30.0  # after the first failure; four times that after the next, and so on
MOST_RETRY_SECONDS = 3600.0
MOST_WAIT_SECONDS = 86_400.0  # a round waits no longer, whatever the settings


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


def longest_wait(source: VerdictSettings) -> float:
    """How long after a closing a round waits for a verdict: all its tries, in seconds."""
    tries = source.attempts
    pauses = sum(min(MOST_RETRY_SECONDS, RETRY_SECONDS * 4.0**n) for n in range(tries - 1))
    seconds = tries * time_limit(source) + pauses
    if isinstance(source, JudgeSettings) and source.kind == "relative":
        seconds += tries * source.group_seconds
    return min(seconds, MOST_WAIT_SECONDS)
