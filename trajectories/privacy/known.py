"""The secrets a process knows by their value: what stands in its own settings."""

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from trajectories.privacy.secrets import Redactor
from trajectories.settings import Settings


def known_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Kind and value of every key and password of the settings."""
    if settings.gateway.api_key:
        yield "gateway_key", settings.gateway.api_key
    others = [upstream.api_key for upstream in settings.upstreams.values()]
    for key in (settings.upstream.api_key, *others):
        if key:
            yield "upstream_key", key
    password = urlsplit(settings.redis.url).password
    if password:
        yield "redis_password", password
        if unquote(password) != password:
            yield "redis_password", unquote(password)


def open_redactor(settings: Settings) -> Redactor:
    """The redactor that these settings ask for."""
    return Redactor(known_secrets(settings), is_on=settings.privacy.redact_secrets)
