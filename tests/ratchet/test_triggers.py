"""Whoever asks the running trainer for a round hears how it ended, or that it will not be."""

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import orjson
import pytest

from ratchet.triggers import request_round
from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import NotEnoughRewards, RatchetError

Step = Callable[[], object]


class Trainer:
    """What a trainer does to Redis, one step at each look of the one who waits."""

    def __init__(self) -> None:
        self.redis: Redis = fakeredis.FakeRedis()
        self.steps: Iterator[Step] = iter(())
        self.at = 0.0
        self.say()

    @property
    def asked(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.redis.get(keys.trigger("p")) or b"{}")
        return found

    def say(self, run_id: str | None = None) -> None:
        self.at += 2
        run = run_id and {"run_id": run_id}
        self.redis.set(keys.status("p"), orjson.dumps({"run": run, "at": self.at}))

    def begin(self) -> None:
        """The request goes at once, the status follows."""
        self.run_id = self.asked["run_id"]
        self.redis.delete(keys.trigger("p"))

    def end(self, **run: Any) -> None:
        self.redis.lpush(keys.runs("p"), orjson.dumps({"run_id": self.run_id, **run}))

    def look(self, _: float) -> None:
        next(self.steps)()


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    found = Trainer()
    monkeypatch.setattr("ratchet.triggers.time.sleep", found.look)
    return found


def test_a_round_is_waited_for_however_long_it_takes(trainer: Trainer) -> None:
    trainer.steps = iter(
        [
            *[trainer.say] * 5,  # another policy's round goes first
            trainer.begin,
            trainer.say,  # was on its way
            *[lambda: trainer.say(trainer.run_id)] * 9,
            lambda: trainer.end(phase="promoted", version=3, reason="", attempts=1),
        ]
    )
    assert request_round(trainer.redis, "p")["version"] == 3


def test_a_round_whose_request_another_one_replaced_is_not_waited_for(trainer: Trainer) -> None:
    trainer.steps = iter(
        [
            lambda: trainer.redis.set(keys.trigger("p"), orjson.dumps({"roll_back": 1})),
            lambda: trainer.redis.delete(keys.trigger("p")),
            *[trainer.say] * 9,
        ]
    )
    with pytest.raises(RatchetError, match="took its place"):
        request_round(trainer.redis, "p")


def test_a_refusal_is_told_and_a_trainer_that_left_too(trainer: Trainer) -> None:
    trainer.steps = iter(
        [trainer.begin, lambda: trainer.end(phase="failed", attempts=0, reason="needs 4 more")]
    )
    with pytest.raises(NotEnoughRewards, match="needs 4 more"):
        request_round(trainer.redis, "p")
    trainer.steps = iter([lambda: trainer.redis.delete(keys.status("p"))])
    with pytest.raises(RatchetError, match="gone away"):
        request_round(trainer.redis, "p")
