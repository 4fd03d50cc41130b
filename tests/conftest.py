"""Fixtures that several folders share: a real Redis, and a real vLLM for those who ask."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.redis_server import EmbeddedRedis
from trajectories.connection import Redis, connect
from trajectories.settings import RedisSettings, Settings


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a short name: a Unix socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def redis_settings(short_path: Path) -> Iterator[RedisSettings]:
    """A real server of its own, as `ratchet up` starts it."""
    server = EmbeddedRedis(Settings(data_dir=short_path))
    server.start()
    yield server.settings
    server.stop()


@pytest.fixture
def redis(redis_settings: RedisSettings) -> Iterator[Redis]:
    """A connection to that server."""
    client = connect(redis_settings)
    yield client
    client.close()
