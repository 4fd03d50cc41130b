"""From the settings to a panel: rubrics read, keys and secrets there, addresses known."""

from trajectories.errors import SettingsError
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import JudgeSettings, Settings
from workers.verdicts.chat import Oracle
from workers.verdicts.custom import Custom
from workers.verdicts.judges import RUBRICS
from workers.verdicts.panel import Panel
from workers.verdicts.roster import Roster
from workers.verdicts.webhook import Webhook


def build_panel(settings: Settings) -> Panel:
    """Everybody in the settings. Raises SettingsError for a rubric or a secret that is missing."""
    return Panel(
        Roster(settings.verdict_sources),
        {name: _oracle(name, judge, settings) for name, judge in settings.judges.items()},
        {name: Webhook(name, webhook) for name, webhook in settings.webhooks.items()},
        {name: Custom(name, custom) for name, custom in settings.custom.items()},
        Scrubber(settings.privacy.scrub),
        siblings=settings.siblings.answers if settings.siblings.enabled else 0,
    )


def gateway_url(settings: Settings) -> str:
    """Where this gateway is asked from the same machine."""
    host = settings.gateway.host
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    shown = f"[{reachable}]" if ":" in reachable else reachable
    return f"http://{shown}:{settings.gateway.port}"


def _oracle(name: str, judge: JudgeSettings, settings: Settings) -> Oracle:
    rubric = judge.rubric or RUBRICS[judge.kind]
    if judge.rubric_file is not None:
        try:
            rubric = judge.rubric_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"judges.{name}.rubric_file: {error}") from error
    if judge.api_key_env is not None and judge.api_key is None:
        raise SettingsError(f"judges.{name}: the variable {judge.api_key_env} is not set")
    key = judge.api_key
    url = judge.url
    if url is None:
        url = gateway_url(settings)
        key = key or settings.gateway.api_key
    return Oracle(name, judge, url=url, key=key, rubric=rubric)
