"""Several policies in one trainer: each learns from its own traffic, and none touches another's."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import ConnectionError as Gone

import trainer.loop
from tests.trainer.conftest import FAKE_ROUND, LoopMaker
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.records import make_trainable
from tests.trainer.test_loop import cycle_until
from trainer.__main__ import left_over
from trainer.delivery.swap import superfluous
from trainer.loop import Loop
from trainer.phases import find_base
from trainer.rota import Rota
from trainer.runs import OWNER, Phase, Run, RunDirectory, all_runs, sweep
from trainer.training import Training
from trainer.turn import Turn
from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import SettingsError
from trajectories.lease import Lease, LeaseHeld, LeaseLost
from trajectories.registry import Registry, Snapshot
from trajectories.resources import PolicyVersion, VersionState
from trajectories.settings import PolicySettings, Settings
from trajectories.store import Store

NAMES = ("policy", "planner", "writer")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Three policies; the writer's rounds are larger and its matrices smaller."""
    own = {"rank": 2, "min_trajectories": 6}
    policies = {
        "planner": PolicySettings(agents=("planner",)),
        "writer": PolicySettings(agents=("writer",), trainer=own),
    }
    return settings.model_copy(update={"policies": policies})


class RotaMaker:
    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.settings = settings
        self.redis = redis

    @contextmanager
    def __call__(self, *names: str) -> Iterator[Rota]:
        turn = Turn()
        loops = [self.loop(name, turn) for name in names or NAMES]
        with Rota(loops, turn) as rota:
            yield rota

    def loop(self, name: str, turn: Turn) -> Loop:
        return Loop(
            self.settings.for_policy(name),
            redis=self.redis,
            base=find_base(self.settings),
            training=Training(FAKE_ROUND),
            turn=turn,
            neighbours=[other for other in NAMES if other != name],
        )

    def registry(self, name: str) -> Registry:
        return Registry(self.redis, name, self.settings.upstream.base_model)

    def current(self, name: str) -> int:
        return self.registry(name).snapshot().current


@pytest.fixture
def rotas(make_loop: LoopMaker, settings: Settings, redis: Redis) -> RotaMaker:
    return RotaMaker(settings, redis)  # make_loop has set the clock of the tests


def go_round(rota: Rota, condition: Callable[[], bool]) -> None:
    """Cycle until `condition` holds."""

    class Whole:
        board = rota.loops[0].board
        guarded_cycle = staticmethod(rota.cycle)

    cycle_until(Whole, condition)  # type: ignore[arg-type]


def contents(directory: Path) -> dict[str, str]:
    """File -> digest of what it holds."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def last_run(redis: Redis, policy: str) -> Run:
    return Run.from_json(redis.lrange(keys.runs(policy), 0, 0)[0])


def test_every_policy_learns_from_its_own_traffic_with_its_own_settings(
    rotas: RotaMaker,
    store: Store,
    redis: Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[tuple[str, int]] = []
    start = Training.start

    def counted(self: Training, directory: RunDirectory) -> None:
        running = sum(loop._training.is_started for loop in rota.loops)
        starts.append((directory.plan().policy, running))
        start(self, directory)

    monkeypatch.setattr(Training, "start", counted)
    make_trainable(store, 4, start=0)
    make_trainable(store, 4, start=100, policy="planner")
    make_trainable(store, 6, start=200, policy="writer")
    with rotas() as rota:
        go_round(rota, lambda: all(rotas.current(name) == 1 for name in NAMES))
        go_round(rota, lambda: all(redis.llen(keys.runs(name)) for name in NAMES))
        assert tuple(loop.policy for loop in rota.loops) == NAMES, "whoever had a round comes last"
    assert starts == [(name, 0) for name in NAMES], "one at a time"
    runs = {name: last_run(redis, name) for name in NAMES}
    assert {name: run.trajectories for name, run in runs.items()} == {
        "policy": 4,
        "planner": 4,
        "writer": 6,
    }
    plans = {d.plan().policy: d.plan() for d in all_runs(settings.runs_dir)}
    assert {name: plan.trainer.rank for name, plan in plans.items()} == {
        "policy": 4,
        "planner": 4,
        "writer": 2,
    }
    assert all(ref.startswith("default/t02") for ref in plans["writer"].refs)
    assert {run.model.split("-")[0] for run in runs.values() if run.model} == set(NAMES)


def test_a_round_of_one_policy_leaves_anothers_adapter_and_versions_as_they_are(
    rotas: RotaMaker, store: Store, engine: FakeEngine
) -> None:
    make_trainable(store, 4, start=100, policy="planner")
    make_trainable(store, 6, start=200, policy="writer")
    with rotas() as rota:
        go_round(rota, lambda: rotas.current("planner") == rotas.current("writer") == 1)
        planner = rotas.registry("planner").snapshot()
        entry = planner.versions[1]
        assert entry.path is not None
        before, names = contents(Path(entry.path)), dict(engine.loaded)
        engine.events.clear()
        make_trainable(store, 6, start=300, policy="writer")
        go_round(rota, lambda: rotas.current("writer") == 2)
        assert rotas.registry("planner").snapshot() == planner
    assert contents(Path(entry.path)) == before
    assert engine.loaded[entry.model] == names[entry.model] == entry.path
    assert {name for _, name in engine.events if not name.startswith("writer-v2")} == set()


def test_a_trigger_waits_for_the_round_of_another_policy(
    rotas: RotaMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "slow")
    make_trainable(store, 4, start=0)
    make_trainable(store, 4, start=100, policy="planner")
    with rotas("policy", "planner") as rota:
        go_round(rota, lambda: rota._turn.holder == "policy")
        redis.set(keys.trigger("planner"), orjson.dumps({"run_id": "run_asked"}))
        for _ in range(3):
            rota.cycle()
        planner = next(loop for loop in rota.loops if loop.policy == "planner")
        assert redis.get(keys.trigger("planner")) is not None
        assert planner.board.note == "waits for the round of policy to end"
        rota.loops[0]._training.stop()  # it is started again, and is quick now
        monkeypatch.setenv("FAKE_ROUND", "ok")
        go_round(rota, lambda: rotas.current("planner") == 1)
    assert last_run(redis, "planner").run_id == "run_asked"


def test_a_rollback_is_served_while_another_policy_has_its_round(
    rotas: RotaMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainable(store, 4, start=100, policy="planner")
    with rotas() as rota:
        go_round(rota, lambda: rotas.current("planner") == 1)
        monkeypatch.setenv("FAKE_ROUND", "slow")
        make_trainable(store, 4, start=0)
        go_round(rota, lambda: rota._turn.holder == "policy")
        redis.set(keys.trigger("planner"), orjson.dumps({"roll_back": 0}))
        go_round(rota, lambda: rotas.current("planner") == 0)
        assert rota._turn.holder == "policy"


@pytest.mark.parametrize("failing", ["announce", "_pause_after"])
def test_an_end_that_redis_did_not_hear_is_told_again_and_the_turn_given_back(
    failing: str, rotas: RotaMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loop.FIRST_BACKOFF_SECONDS", 0.02)
    where: Any = trainer.loop if failing == "announce" else Loop
    real, calls = getattr(where, failing), 0

    def cut_off_once(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Gone("cut off")
        real(*arguments)

    make_trainable(store, 4, start=0)
    make_trainable(store, 4, start=100, policy="planner")
    with rotas("policy", "planner") as rota:
        monkeypatch.setattr(where, failing, cut_off_once)
        go_round(rota, lambda: rotas.current("planner") == 1 and redis.llen(keys.runs("planner")))
        assert {loop.board.note for loop in rota.loops} == {""}
    assert redis.llen(keys.runs("policy")) == 1
    assert last_run(redis, "policy").version == 1


def test_a_policy_with_a_trainer_of_its_own_is_left_to_it(
    rotas: RotaMaker, store: Store, redis: Redis
) -> None:
    other = Lease(redis, keys.lease("planner"))
    other.acquire()
    with rotas() as rota:
        assert [loop.policy for loop in rota.loops] == ["policy", "writer"]
        other.release()
        rota._ask_at = 0.0
        rota.cycle()
        assert [loop.policy for loop in rota.loops] == ["policy", "writer", "planner"]
    with rotas() as rota, pytest.raises(LeaseHeld), rotas():
        pass  # all of them are held


@pytest.mark.parametrize("error", [Gone("away"), ValueError("no run")])
def test_a_policy_that_cannot_be_taken_over_yet_stops_no_other(
    error: Exception,
    rotas: RotaMaker,
    store: Store,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "slow")
    other = Lease(redis, keys.lease("planner"))
    other.acquire()
    make_trainable(store, 4, start=0)
    with rotas() as rota:
        go_round(rota, lambda: rota._turn.holder == "policy")
        other.release()
        with monkeypatch.context() as away:
            away.setattr(Loop, "_resume", raising(error))
            rota._ask_at = 0.0
            rota.cycle()
        assert rota._turn.holder == "policy"
        assert {loop.policy for loop in rota.loops} == {"policy", "writer"}
        rota._ask_at = 0.0
        rota.cycle()
        assert {loop.policy for loop in rota.loops} == set(NAMES)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_whoever_loses_one_policys_lease_goes_on_with_the_others_and_takes_it_back(
    rotas: RotaMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "slow")
    make_trainable(store, 4, start=0)
    make_trainable(store, 4, start=100, policy="planner")
    with rotas("policy", "planner") as rota:
        loop = rota.loops[0]
        go_round(rota, lambda: loop._training.is_started)
        redis.set(keys.lease("policy"), b"another trainer's")
        loop._lease._renewed = float("-inf")
        monkeypatch.setenv("FAKE_ROUND", "ok")
        go_round(rota, lambda: rotas.current("planner") == 1)
        assert [loop.policy for loop in rota.loops] == ["planner"]
        assert not loop._training.is_started
        redis.delete(keys.lease("policy"))
        rota._ask_at = 0.0
        go_round(rota, lambda: rotas.current("policy") == 1)
        assert redis.get(keys.status("policy")) is not None
        rota.loops[0]._lease._renewed = float("-inf")
        rota.cycle()
        rota.loops[0]._lease._renewed = float("-inf")
        with pytest.raises(LeaseLost):
            rota.cycle()  # nothing is left to do


def test_policies_with_a_trainer_of_their_own_are_left_out_by_name() -> None:
    assert left_over(NAMES, ()) == NAMES
    assert left_over(NAMES, ["planner"]) == ("policy", "writer")
    with pytest.raises(SettingsError, match="--without planer: this trains policy, planner"):
        left_over(NAMES, ["planer"])
    with pytest.raises(SettingsError, match="no policy is left"):
        left_over(("planner",), ["planner"])


def test_unfinished_rounds_of_two_policies_end_one_after_the_other(
    rotas: RotaMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two trainers leave them that were killed, and are one from now on."""
    monkeypatch.setenv("FAKE_ROUND", "slow")
    for name, start in (("policy", 0), ("planner", 100)):
        make_trainable(store, 4, start=start, policy=name)
        with rotas(name) as rota:
            go_round(rota, lambda rota=rota: rota.loops[0]._training.is_started)
    monkeypatch.setenv("FAKE_ROUND", "ok")
    with rotas() as rota:
        go_round(rota, lambda: rotas.current("policy") == rotas.current("planner") == 1)
    assert store.count_trainable("policy") == store.count_trainable("planner") == 0


def test_a_trainer_that_starts_sweeps_its_own_remains_alone(tmp_path: Path) -> None:
    for name, owner in (("mine", "policy"), ("theirs", "planner")):
        RunDirectory(tmp_path / name).claim(owner)
    (tmp_path / "nobodys").mkdir()
    sweep(tmp_path, "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert (tmp_path / "theirs" / OWNER).read_text() == "planner"


def test_a_trainer_that_starts_removes_what_was_trained_on_the_way(tmp_path: Path) -> None:
    for phase in (Phase.FAILED, Phase.PROMOTED, Phase.COLLECTED):
        directory = RunDirectory(tmp_path / phase.value)
        for name in ("checkpoints", "legs", ".trained.new", "trained"):
            (directory.path / name).mkdir(parents=True)
        ids = {"run_id": phase.value, "policy": "policy", "algorithm": "grpo", "parent": 0}
        directory.write(Run(phase=phase, started_at=1, updated_at=1, **ids))
    sweep(tmp_path, "planner")
    assert (tmp_path / "failed" / "legs").is_dir()
    sweep(tmp_path, "policy")
    left = {path.name: sorted(p.name for p in path.glob("*/")) for path in tmp_path.iterdir()}
    assert left == {
        "failed": [],
        "promoted": ["trained"],
        "collected": [".trained.new", "checkpoints", "legs", "trained"],
    }


def snapshot(policy: str, *states: tuple[VersionState, float]) -> Snapshot:
    versions = {
        number: PolicyVersion(
            policy=policy, version=number, model=f"{policy}-v{number}", state=state, promoted_at=at
        )
        for number, (state, at) in enumerate(states, 1)
    }
    return Snapshot(policy, 1, len(states), versions)


def test_where_slots_are_short_the_oldest_retired_adapter_of_all_policies_leaves_first() -> None:
    retired, current = VersionState.RETIRED, VersionState.CURRENT
    a = snapshot("a", (retired, 1.0), (retired, 5.0), (current, 9.0))
    b = snapshot("b", (retired, 3.0), (current, 4.0))
    c = snapshot("c", (current, 2.0))

    def leaving(slots: int) -> list[list[str]]:
        found = []
        for own in (a, b, c):
            others = [other for other in (a, b, c) if other is not own]
            found.append([entry.model for entry in superfluous(own, others, slots=slots)])
        return found

    assert leaving(6) == [["a-v1"], [], []]
    assert leaving(5) == [["a-v1"], ["b-v1"], []]
    assert leaving(4) == [["a-v1", "a-v2"], ["b-v1"], []]
    assert [entry.model for entry in superfluous(a)] == ["a-v1"]


def statuses(redis: Redis) -> dict[str, Any]:
    return {name: orjson.loads(redis.get(keys.status(name)) or b"{}") for name in NAMES}


def test_each_policy_says_its_own_status(rotas: RotaMaker, store: Store, redis: Redis) -> None:
    make_trainable(store, 2, start=100, policy="planner")
    with rotas() as rota:
        rota.run(stopped_after(rota, 2))
    said = statuses(redis)
    assert {name: found["needed"] for name, found in said.items()} == {
        "policy": 4,
        "planner": 4,
        "writer": 6,
    }
    assert said["planner"]["trainable"] == 2


def stopped_after(rota: Rota, cycles: int) -> threading.Event:
    """An event that is set after some cycles."""

    class Counting(threading.Event):
        left = cycles

        def wait(self, timeout: float | None = None) -> bool:
            self.left -= 1
            if self.left <= 0:
                self.set()
            return self.is_set()

    return Counting()
