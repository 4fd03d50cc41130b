"""Keys as they are stored: hashed, counted once, read back by every process."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from trajectories import keys
from trajectories.access import Batch, KeyRecord, KeyStore, Usage, digest_of, new_key
from trajectories.connection import RedisError
from trajectories.errors import RatchetError


@pytest.fixture
def store(redis: Any) -> KeyStore:
    return KeyStore(redis)


def create(store: KeyStore, **fields: Any) -> tuple[KeyRecord, str]:
    return store.create(**{"name": "app", "scopes": ["inference"], "now": time.time(), **fields})


def hand_in(
    store: KeyStore,
    number: int,
    usage: dict[str, Usage],
    *,
    process: str = "proc_1",
    is_repeat: bool = False,
    **asked: Any,
) -> Any:
    batch = Batch(process, number, usage, is_repeat=is_repeat)
    return store.exchange(batch, **{"followed": [], "revision": None, **asked})


def test_a_key_is_long_random_and_says_whose_it_is() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("rk_") and len(key) == 3 + 43 for key in made)


def test_only_the_hash_of_a_key_is_stored(store: KeyStore, redis: Any) -> None:
    record, key = create(store, tenant="acme", requests_per_minute=5)
    dumps = [redis.dump(name) for name in redis.scan_iter()]
    everything = repr(dumps) + repr(redis.hgetall(keys.API_KEYS))
    assert key not in everything
    assert key.removeprefix("rk_") not in everything
    assert digest_of(key) == record.digest
    assert store.records() == ([record], [])


def test_a_record_is_read_back_as_it_was_written(store: KeyStore) -> None:
    record, _ = create(
        store,
        scopes=["read", "admin"],
        tenant="acme",
        is_trainable=False,
        is_recorded=False,
        requests_per_minute=1,
        tokens_per_minute=2,
        token_budget=3,
        models=frozenset({"policy"}),
        expires_at=4.5,
    )
    assert store.records()[0] == [record]
    assert record.is_limited


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant": "a:b"},
        {"tenant": "a/b"},
        {"tenant": ""},
        {"scopes": ["root"]},
        {"name": ""},
        {"token_budget": 0},
        {"requests_per_minute": -1},
    ],
)
def test_a_wrong_field_is_refused_and_nothing_is_written(
    store: KeyStore, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        create(store, **wrong)
    assert store.records() == ([], [])


def test_revoking_twice_keeps_the_first_time(store: KeyStore) -> None:
    record, _ = create(store)
    assert store.revoke(record.id, 10.0).revoked_at == 10.0
    assert store.revoke(record.id, 20.0).revoked_at == 10.0
    with pytest.raises(RatchetError, match="key_unknown"):
        store.revoke("key_unknown", 1.0)


def test_every_change_raises_the_revision_and_is_announced(store: KeyStore, redis: Any) -> None:
    heard = redis.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(keys.API_CHANNEL)
    heard.get_message(timeout=1)
    record, _ = create(store)
    store.revoke(record.id, 1.0)
    assert [heard.get_message(timeout=1)["data"].decode() for _ in range(2)] == [record.id] * 2
    assert redis.get(keys.API_REVISION) == b"2"
    heard.close()


def test_one_record_that_cannot_be_read_does_not_hide_the_others(
    store: KeyStore, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    record, _ = create(store)
    redis.hset(keys.API_KEYS, "key_broken", b'{"name": "secret')
    assert store.records() == ([record], ["key_broken"])
    assert hand_in(store, 1, {}).records == [record]
    assert "key_broken" in caplog.text
    assert "secret" not in caplog.text


def test_usage_adds_up_over_processes(store: KeyStore) -> None:
    limited, _ = create(store, token_budget=1000)
    plain, _ = create(store)
    one = {limited.id: Usage(1, 100), plain.id: Usage(2, 7)}
    found = hand_in(store, 1, one, process="proc_1")
    assert found.totals == {limited.id: Usage(1, 100)}
    assert found.processes == 1
    found = hand_in(store, 1, {limited.id: Usage(0, 50)}, process="proc_2")
    assert found.totals == {limited.id: Usage(1, 150)}
    assert found.processes == 2
    assert store.usage([plain.id, limited.id]) == {
        plain.id: Usage(2, 7),
        limited.id: Usage(1, 150),
    }


def test_records_are_read_again_only_when_they_have_changed(store: KeyStore) -> None:
    limited, _ = create(store, requests_per_minute=5)
    first = hand_in(store, 1, {})
    again = hand_in(store, 2, {}, revision=first.revision, followed=[limited.id])
    assert again.records is None
    assert again.totals == {limited.id: Usage()}
    create(store)
    third = hand_in(store, 3, {}, revision=first.revision)
    assert len(third.records) == 2
    assert third.totals == {limited.id: Usage()}


def test_a_batch_whose_reply_was_lost_is_counted_once(store: KeyStore) -> None:
    record, _ = create(store, token_budget=1000)
    usage = {record.id: Usage(1, 10)}
    hand_in(store, 1, usage)
    hand_in(store, 2, usage)  # it arrived; the sender does not know
    found = hand_in(store, 2, usage, is_repeat=True)
    assert found.totals == {record.id: Usage(2, 20)}
    found = hand_in(store, 3, usage, is_repeat=True)  # and this one had not arrived
    assert found.totals == {record.id: Usage(3, 30)}


def test_a_process_that_was_not_heard_of_for_long_is_not_counted(
    store: KeyStore, redis: Any
) -> None:
    redis.zadd(keys.API_PROCESSES, {"proc_old": time.time() - keys.API_PROCESS_SECONDS - 1})
    assert hand_in(store, 1, {}).processes == 1


def test_nothing_is_half_written_when_redis_fails(store: KeyStore, redis: Any) -> None:
    record, _ = create(store, token_budget=1000)
    redis.set(keys.API_USAGE, "of the wrong type", ex=60)
    with pytest.raises(RedisError):
        hand_in(store, 1, {record.id: Usage(1, 10)})
    redis.delete(keys.API_USAGE)
    assert hand_in(store, 2, {}).totals == {record.id: Usage()}
