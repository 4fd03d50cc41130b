"""Two fake engines, their registry, and a swap of full weights over them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.trainer.delivery.test_weights import FULL
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.fake_round import write_whole
from trainer.delivery.engine import Engine
from trainer.delivery.full_swap import FullSwap
from trainer.delivery.gate import Expected
from trainer.delivery.publish import publish
from trainer.delivery.shelf import Shelf
from trainer.delivery.weights import Whole
from trajectories.connection import Redis
from trajectories.registry import Registry, Weights
from trajectories.resources import Kind, PolicyVersion, VersionState


class House:
    """Two engines, their registry, and a clock that is turned by hand."""

    def __init__(self, path: Path, redis: Redis, engines: list[FakeEngine]) -> None:
        self.now = 0.0
        self.path, self.redis, self.engines = path, redis, engines
        self.registry = Registry(redis, "policy", "base")
        (path / "base").mkdir()
        save_file({"w": np.ones(4, np.float32)}, path / "base" / "model.safetensors")
        self.restart()

    def restart(
        self, pause_seconds: float = 30.0, guard: Callable[[], None] = lambda: None
    ) -> None:
        """What a kill of the trainer leaves is in Redis, on disk and in the engines."""
        self.swap = FullSwap(
            [Engine(engine.url) for engine in self.engines],
            self.registry,
            expected=Expected("base", "b" * 64, whole=Whole(self.path / "base", "float32")),
            drain_seconds=100,
            pause_seconds=pause_seconds,
            shelf=Shelf(self.path / "runs", self.path / "versions", 2),
            silence_seconds=0.0,
            guard=guard,
            clock=lambda: self.now,
        )
        self.swap.check()

    def add(self, version: int) -> PolicyVersion:
        trained = self.path / "runs" / f"run_{version}" / "trained"
        write_whole(trained, seed=version)
        path = publish(
            trained,
            self.path / "versions",
            plan=FULL,
            version=version,
            base_model="base",
            base_sha256="b" * 64,
            metrics={},
            reached=lambda _: None,
        )
        entry = PolicyVersion(
            policy="policy",
            version=version,
            model=path.name,
            state=VersionState.CANDIDATE,
            kind=Kind.FULL,
            path=str(path),
            parent=self.registry.snapshot().current,
            run_id=f"run_{version}",
        )
        self.registry.add(entry)
        return entry

    def promote(self, version: int) -> PolicyVersion:
        entry = self.add(version)
        self.swap.load(entry)
        self.swap.prove(entry)
        self.swap.promote(version)
        return entry

    def noted(self) -> list[int | None]:
        weights = self.registry.snapshot().weights
        return [weights[engine.url].version for engine in self.engines]

    def weights(self) -> Weights:
        """What is noted of the first engine."""
        return self.registry.snapshot().weights[self.engines[0].url]

    def served(self) -> list[str]:
        """What the engines really have, by their directories."""
        return [Path(engine.weights or "the first").name for engine in self.engines]

    def state(self, version: int) -> VersionState:
        return self.registry.snapshot().versions[version].state


@pytest.fixture
def house(tmp_path: Path, redis: Redis) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(tmp_path, redis, [stack.enter_context(FakeEngine()) for _ in range(2)])
