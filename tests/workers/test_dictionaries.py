"""Dictionaries are learned from traffic, shrink it, and quote nobody."""

import random
from typing import Any

from tests.workers.conftest import wait_for
from tests.workers.records import transition
from trajectories.connection import connect
from trajectories.settings import Settings
from trajectories.store import Store
from workers import dictionaries
from workers.dictionaries import SAMPLES, Dictionaries, shared_words, train

WORDS = [
    f"{first}{last}" for first in ("re", "un", "con", "dis") for last in ("call", "form", "turn")
]


def sample(number: int) -> tuple[str, bytes]:
    chosen = random.Random(number).choices(WORDS, k=60)
    text = " ".join([*chosen[:30], f"secret-{number}@example.org", *chosen[30:]])
    return f"traj_{number // 3}", b'{"role":"user","content":"%s"}' % text.encode()


def test_words_of_few_trajectories_are_left_out() -> None:
    texts = shared_words([*map(sample, range(60)), ("traj_x", b"only here")])
    assert not any(b"secret" in text or b"here" in text for text in texts)
    assert all(b"content" in text for text in texts[:60])


def test_a_dictionary_quotes_nobody() -> None:
    content = train([sample(number) for number in range(900)])
    assert content is not None
    assert b"secret" not in content
    assert b"recall" in content


def test_too_little_makes_no_dictionary() -> None:
    assert train([sample(number) for number in range(4)]) is None


def test_enough_traffic_trains_one_and_later_values_are_smaller(
    settings: Settings,
) -> None:
    redis: Any = connect(settings.redis)
    store = Store(redis)
    learning = Dictionaries(store)

    def add(number: int) -> int:
        content = sample(number)[1].decode()
        before = set(redis.keys("message:*"))
        store.add_transition(transition(number, trajectory=f"traj_{number}", content=content))
        (new,) = set(redis.keys("message:*")) - before
        return int(redis.strlen(new))

    before = sum(add(number) for number in range(20))
    for number in range(20, 20 + SAMPLES):
        learning.observe("default", *sample(number))
    learning.look()
    wait_for(lambda: learning.look() or store.dictionary("default"))
    after = sum(add(number) for number in range(50_000, 50_020))
    assert after < before
    reader = Store(redis)
    assert all(reader.trajectory(ref) is not None for ref in store.all_trajectories())
    second = Dictionaries(Store(redis))
    for number in range(SAMPLES):
        second.observe("default", *sample(number))
    second.look()
    assert not second._trained, "another dispatcher's is there"


def test_the_sample_of_a_tenant_is_bounded() -> None:
    learning = Dictionaries(Store(None))  # type: ignore[arg-type]
    for number in range(3 * SAMPLES):
        learning.observe("default", "traj_a", b"x" * 64 + b"%d" % number)
    learning.observe("default", "traj_a", b"x" * (dictionaries.LONGEST_SAMPLE + 1))
    assert len(learning._samples["default"].kept) == SAMPLES
    assert learning._samples["default"].seen == 3 * SAMPLES
