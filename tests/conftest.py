"""Fixtures that several folders share: a real Redis, and a real vLLM for those who ask."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as property_settings

from ratchet.redis_server import EmbeddedRedis
from trajectories.connection import Redis, connect
from trajectories.settings import RedisSettings, Settings

# Nothing is timed: a machine that others compute on as well is no reason to fail.
property_settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
property_settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _only_our_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of whoever runs the tests reaches them, in a variable or in a ratchet.toml."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("RATCHET_") and not name.startswith("RATCHET_CONTAINER_LAB"):
                environment.delenv(name)
        environment.delenv("REDIS_URL", raising=False)
        empty = tmp_path_factory.mktemp("settings") / "ratchet.toml"
        empty.touch()
        environment.setenv("RATCHET_CONFIG", str(empty))
        yield


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a short name: a Unix socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def redis_settings(short_path: Path) -> Iterator[RedisSettings]:
    """A real server of its own, as `ratchet up` starts it."""
    patient = RedisSettings(timeout_seconds=5)  # the machine may be busy with other tests
    server = EmbeddedRedis(Settings(data_dir=short_path, redis=patient))
    server.start()
    yield server.settings
    server.stop()


@pytest.fixture
def redis(redis_settings: RedisSettings) -> Iterator[Redis]:
    """A connection to that server."""
    client = connect(redis_settings)
    yield client
    client.close()
