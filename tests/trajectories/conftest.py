"""A fake Redis whose keys are checked when the test is over."""

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest

from tests.key_leak import key_leaks


@pytest.fixture
def redis() -> Iterator[Any]:
    """A fake Redis; the test fails when it leaves a key that nothing bounds."""
    client = fakeredis.FakeRedis()
    yield client
    assert key_leaks(client) == []
