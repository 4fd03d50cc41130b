"""A closed conversation in a store, and somebody to judge it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.fakes.answering import Answer, AnsweringServer, answering
from tests.workers.records import transition
from trajectories.settings import Settings, load_settings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer
from workers.verdicts.assembly import build_panel
from workers.verdicts.panel import Panel
from workers.verdicts.roster import Roster

REF = TrajectoryRef("default", "traj_a")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], AnsweringServer]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(answering(answer))


class Court:
    """A store with trajectories in it, a scorer that asks, and a panel that answers."""

    def __init__(self, redis: Any, settings: Settings) -> None:
        self.redis = redis
        self.store = Store(redis)
        self.settings = settings
        self.panel: Panel = build_panel(settings)
        self.scorer = Scorer.from_settings(
            settings.rewards, settings.agents, roster=Roster(settings.verdict_sources)
        )

    def hear(self, trajectory: str = "traj_a", **fields: Any) -> TrajectoryRef:
        """A conversation of two turns that is over."""
        first = {"role": "user", "content": "weather in Seoul?"}
        said = {"role": "assistant", "content": "Sunny."}
        second = {"role": "user", "content": "thanks, that helps"}
        turns = [
            transition(0, trajectory=trajectory, content="Sunny.", messages=[first]),
            transition(1, trajectory=trajectory, content="Bye.", messages=[first, said, second]),
        ]
        for turn in turns:
            self.store.add_transition(turn.model_copy(update=fields))
        ref = TrajectoryRef(fields.get("tenant", "default"), trajectory)
        self.store.close(ref)
        self.scorer.score(self.store, ref)
        return ref

    def asks(self) -> list[str]:
        return [member.decode() for member in self.redis.zrange("verdicts", 0, -1)]

    def decide(self) -> None:
        """Answer every ask that stands, whenever it is due, once; then score."""
        for ask in self.asks():
            self.panel.give(self.store, self.redis, ask)
        for ref in self.store.waiting_for_scoring(float("inf")):
            self.scorer.score(self.store, ref)

    def reward(self, ref: TrajectoryRef = REF) -> float | None:
        found = self.store.trajectory(ref)
        return found.reward if found else None

    def rewards(self, ref: TrajectoryRef = REF) -> dict[tuple[str, str | None], float]:
        found = self.store.trajectory(ref)
        assert found is not None
        return {(reward.source, reward.transition_id): reward.value for reward in found.rewards}

    def state(self, judge: str, ref: TrajectoryRef = REF) -> tuple[str, str]:
        state = self.store.verdict_states(ref)[judge]
        return state.state, state.reason

    def counts(self, judge: str, tenant: str = "default") -> dict[str, int]:
        return self.store.verdict_counts(judge, tenant)


@pytest.fixture
def court(redis: Any) -> Iterator[Callable[..., Court]]:
    """Build a court from settings: `court(judges={...}, webhooks={...})`."""
    built: list[Court] = []

    def build(**sections: Any) -> Court:
        built.append(Court(redis, load_settings(**sections)))
        return built[-1]

    yield build
    for one in built:
        one.panel.close()
