"""The index: found under its name, within its tenant and its time, on a fake and a real Redis."""

import time
from typing import Any

import pytest

from trajectories import keys
from trajectories.connection import Redis
from trajectories.ids import new_id
from trajectories.store import Entry, Index, Noted, TrajectoryRef
from trajectories.store.index import LIVES, MOST_MEMBERS


@pytest.fixture
def index(redis: Any) -> Index:
    return Index(redis)


def note(index: Index, *entries: Entry, tenant: str = "default") -> None:
    pipe = index._redis.pipeline(transaction=True)
    index.note(pipe, tenant, entries)
    pipe.execute()


def test_an_entry_is_found_under_its_name_and_kind(index: Index) -> None:
    member = f"{new_id('traj')} {new_id('tr')}"
    note(index, Entry("request", "r1", member, 5.25), Entry("text", "r2", "traj_own", 6.0))
    assert index.find("default", "request", ["r1", "r2"]) == {"r1": [Noted(member, 5.25)]}
    assert index.find("default", "text", ["r2"]) == {"r2": [Noted("traj_own", 6.0)]}


def test_another_tenant_finds_nothing(index: Index) -> None:
    note(index, Entry("text", "t", "traj_a", 1.0))
    assert index.find("other", "text", ["t"]) == {}


def test_several_members_are_kept_oldest_first_and_a_repetition_raises_the_time(
    index: Index,
) -> None:
    note(index, Entry("text", "t", "b", 2.0), Entry("text", "t", "a", 1.0))
    note(index, Entry("text", "t", "a", 3.0), Entry("text", "t", "b", 1.0))
    assert index.find("default", "text", ["t"]) == {"t": [Noted("b", 2.0), Noted("a", 3.0)]}


def test_what_everybody_answers_costs_no_more_than_the_rest(redis_settings: Any) -> None:
    redis = Redis.from_url(redis_settings.url)
    notes = 3 * MOST_MEMBERS
    for number in range(notes):
        note(Index(redis), Entry("text", "t", f"m{number}", float(number)))
    spent = redis.info("commandstats")
    assert spent["cmdstat_hmget"]["calls"] <= 2 * notes
    assert "cmdstat_hget" not in spent
    redis.close()


def test_the_oldest_of_too_many_gives_way(index: Index) -> None:
    for number in range(MOST_MEMBERS + 6):
        note(index, Entry("text", "t", f"m{number}", float(number)))
    found = index.find("default", "text", ["t"])["t"]
    assert [noted.member for noted in found] == [f"m{n}" for n in range(6, MOST_MEMBERS + 6)]


@pytest.mark.parametrize("kind", LIVES)
def test_an_entry_lives_as_long_as_its_kind_and_then_goes(
    index: Index, redis: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seconds = LIVES[kind].seconds
    begin = seconds * 1000.0
    for at, age, is_found in ((0.0, 1.9, True), (0.9, 1.0, True), (0.9, 1.2, False)):
        name = f"{at} {age}"
        monkeypatch.setattr(time, "time", lambda at=at: begin + at * seconds)
        note(index, Entry(kind, name, "traj_a", begin))
        monkeypatch.setattr(time, "time", lambda at=at, age=age: begin + (at + age) * seconds)
        assert (name in index.find("default", kind, [name])) is is_found
    assert all(0 < redis.ttl(key) <= 2 * seconds for key in redis.scan_iter())


def test_erased_entries_are_gone_and_the_others_stay(index: Index) -> None:
    ref = TrajectoryRef("default", new_id("traj"))
    for member in (f"{ref.id} tr_a", "traj_own tr_b"):
        note(index, Entry("text", "t", member, 1.0), Entry("request", member, member, 1.0))
    note(index, Entry("text", "t", f"{ref.id} tr_a", 1.0), tenant="other")
    assert index.erase_entries("default", [ref]) == 2
    assert index.find("default", "text", ["t"]) == {"t": [Noted("traj_own tr_b", 1.0)]}
    assert len(index.find("other", "text", ["t"])) == 1
    note(index, Entry("text", "t", "traj_new", 1.0))
    assert len(index.find("default", "text", ["t"])["t"]) == 2


def test_a_bucket_stays_one_block_of_memory(redis_settings: Any) -> None:
    redis = Redis.from_url(redis_settings.url)
    index = Index(redis)
    for _ in range(50):
        entries = [
            Entry("text", new_id("x"), f"{new_id('traj')} {'f' * 32} 4000 {'e' * 32}", 1.0)
            for _ in range(50)
        ]
        note(index, *entries)
    names = list(redis.scan_iter(match="index:*"))
    assert {redis.object("encoding", name) for name in names} <= {b"listpack", b"ziplist"}
    assert sum(redis.hlen(name) for name in names) == 2500
    assert keys.DAY < redis.ttl(names[0]) <= 2 * keys.DAY
    redis.close()
