"""The secrets a process knows by their value: what stands in its own settings."""

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from trajectories.privacy.secrets import Redactor
from trajectories.settings import Settings


def known_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Kind and value of every key and password of the settings."""
    gateway = settings.gateway
    others = [upstream.api_key for upstream in settings.upstreams.values()]
    for kind, values in {
        "gateway_key": [gateway.api_key],
        "upstream_key": [settings.upstream.api_key, *others],
        "judge_key": [judge.api_key for judge in settings.judges.values()],
        "webhook_secret": [webhook.secret for webhook in settings.webhooks.values()],
        "signing_key": [gateway.signing_key],
    }.items():
        yield from ((kind, value) for value in values if value)
    password = urlsplit(settings.redis.url).password
    if password:
        yield "redis_password", password
        if unquote(password) != password:
            yield "redis_password", unquote(password)


def open_redactor(settings: Settings) -> Redactor:
    """The redactor that these settings ask for."""
    return Redactor(known_secrets(settings), is_on=settings.privacy.redact_secrets)
