"""Budgets: however many spend at once, no more is granted than there is."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fakeredis
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.redis_server import RedisServer
from trajectories import keys
from workers.spending import reserve, settle

KEY = keys.siblings_spent("policy", "2026-11-28")
LIMITS = {"answers": 20, "tokens": 1_000}


def test_several_at_once_are_granted_no_more_than_the_budget(server: RedisServer) -> None:
    with server.client() as client:

        def spend(_: int) -> bool:
            return reserve(client, KEY, {"answers": 1, "tokens": 40}, LIMITS) is None

        with ThreadPoolExecutor(8) as threads:
            granted = sum(threads.map(spend, range(60)))
        spent = {name.decode(): int(value) for name, value in client.hgetall(KEY).items()}
    assert granted <= 20
    assert spent == {"answers": granted, "tokens": 40 * granted}


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=30))
def test_what_is_granted_never_adds_up_to_more(wishes: list[tuple[int, int]]) -> None:
    client: Any = fakeredis.FakeRedis()
    total = 0
    for number, (wanted, used) in enumerate(wishes):
        refused = reserve(client, KEY, {"answers": 1, "tokens": wanted}, LIMITS)
        if refused is not None:
            assert total + wanted > 1_000 or int(client.hget(KEY, "answers")) >= 20
            continue
        used = min(used, wanted)
        settle(client, KEY, {"tokens": used - wanted})
        total += used
        assert total <= 1_000, number
    assert int(client.hget(KEY, "tokens") or 0) == total
