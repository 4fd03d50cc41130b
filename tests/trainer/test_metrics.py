"""What the trainer's /metrics show is on disk and in the registry, and nowhere else."""

import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from trainer.__main__ import watch
from trainer.metrics import Rounds, Versions
from trainer.runs import PLAN, Phase, Plan, Run, RunDirectory
from trajectories.connection import Redis
from trajectories.registry import Registry, Weights
from trajectories.resources import PolicyVersion, VersionState
from trajectories.settings import PolicySettings, Settings, TrainerSettings


def end_run(
    runs_dir: Path, name: str, phase: Phase, *, policy: str = "policy", **more: object
) -> None:
    directory = RunDirectory(runs_dir / name)
    directory.path.mkdir(parents=True)
    plan = Plan(
        run_id=name,
        policy=policy,
        algorithm="grpo",
        base_path="base",
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(),
        refs=("default/t1",),
        excluded={"too_long": 2},
        labellers={"u1": 3, "u2": 1},
    )
    (directory.path / PLAN).write_bytes(plan.to_json())
    fields = {"attempts": 2, "metrics": {"loss": 0.25, "train_phase_seconds": 7.0}, **more}
    directory.write(
        Run(
            run_id=name,
            policy=policy,
            algorithm="grpo",
            phase=phase,
            started_at=1.0,
            updated_at=1.0,
            parent=0,
            **fields,  # type: ignore[arg-type]
        )
    )


def shown(*collectors: Rounds | Versions) -> set[str]:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_ended_rounds_are_counted_and_a_running_one_is_not(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, ["policy"])
    end_run(tmp_path, "run_1", Phase.PROMOTED)
    end_run(tmp_path, "run_2", Phase.TRAINED)
    assert 'ratchet_trainer_rounds_total{outcome="promoted",policy="policy"} 1.0' in shown(rounds)
    end_run(tmp_path, "run_3", Phase.REJECTED, metrics={"loss": 0.5})
    lines = shown(rounds)
    assert {
        'ratchet_trainer_rounds_total{outcome="promoted",policy="policy"} 1.0',
        'ratchet_trainer_rounds_total{outcome="rejected",policy="policy"} 1.0',
        'ratchet_trainer_phase_seconds_total{phase="train",policy="policy"} 7.0',
        'ratchet_trainer_restarts_total{policy="policy"} 2.0',
        'ratchet_trainer_labels_total{policy="policy"} 8.0',
        'ratchet_trainer_excluded_total{policy="policy",reason="too_long"} 4.0',
        'ratchet_trainer_last_loss{policy="policy"} 0.5',
    } <= lines


def test_the_speed_of_a_round_is_shown_where_it_is_known(tmp_path: Path) -> None:
    measured = {"tokens": 300.0, "step_seconds": 2.0}
    end_run(tmp_path, "run_1", Phase.PROMOTED, attempts=2, metrics=measured)
    rounds = Rounds(tmp_path, ["policy"])
    assert not any("tokens_per_second" in line for line in shown(rounds))
    end_run(tmp_path, "run_2", Phase.PROMOTED, attempts=1, metrics=measured)
    assert 'ratchet_trainer_last_tokens_per_second{policy="policy"} 300.0' in shown(rounds)


def test_a_directory_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    end_run(tmp_path, "run_1", Phase.FAILED)
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run_2" / "run.json").write_text("{")
    assert 'ratchet_trainer_rounds_total{outcome="failed",policy="policy"} 1.0' in shown(
        Rounds(tmp_path, ["policy"])
    )


def test_versions_are_counted_by_state_and_a_rollback_shows(
    registry: Registry, redis: Redis
) -> None:
    for number in (1, 2):
        registry.allocate()
        entry = PolicyVersion(
            policy="policy", version=number, model=f"v{number}", state=VersionState.CANDIDATE
        )
        registry.add(entry)
        registry.promote(number)
        if number == 1:
            registry.move(0, VersionState.RETIRED)
    registry.promote(1, reason="rolled back from version 2")
    assert {
        'ratchet_trainer_current_version{policy="policy"} 1.0',
        'ratchet_trainer_rolled_back{policy="policy"} 1.0',
        'ratchet_trainer_versions{policy="policy",state="draining"} 1.0',
    } <= shown(Versions([registry]))


def test_an_engine_that_is_out_of_routing_is_to_be_alarmed_at(registry: Registry) -> None:
    assert 'ratchet_trainer_engines_out{policy="policy"} 0.0' in shown(Versions([registry]))
    registry.note_weights(Weights(url="http://a", is_out=True, reason="out of memory"))
    registry.note_weights(Weights(url="http://b", version=1))
    assert 'ratchet_trainer_engines_out{policy="policy"} 1.0' in shown(Versions([registry]))


def test_each_trainer_shows_the_policies_that_it_trains(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[set[str]] = []

    def note(host: str, port: int, collectors: Sequence[Rounds | Versions]) -> None:
        assert port == 9001
        served.append(shown(*collectors))

    monkeypatch.setattr("trainer.metrics.serve_metrics", note)
    own = {"planner": PolicySettings(agents=("planner",))}
    trainer = settings.trainer.model_copy(update={"metrics_port": 9001})
    both = settings.model_copy(update={"policies": own, "trainer": trainer})
    for name in both.policy_names:
        end_run(settings.runs_dir, f"run_{name}", Phase.PROMOTED, policy=name)
    watch(both, both.policy_names)
    watch(both, ["planner"])
    for name in both.policy_names:
        lines = (
            f'ratchet_trainer_current_version{{policy="{name}"}} 0.0',
            f'ratchet_trainer_rounds_total{{outcome="promoted",policy="{name}"}} 1.0',
        )
        for line in lines:
            assert [line in seen for seen in served] == [True, name == "planner"]


def test_two_scrapes_at_once_read_each_round_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_run(tmp_path, "run_1", Phase.PROMOTED)
    read, reads = RunDirectory.read, []

    def slow(directory: RunDirectory) -> Run:
        reads.append(directory.path.name)
        time.sleep(0.1)
        return read(directory)

    monkeypatch.setattr(RunDirectory, "read", slow)
    rounds = Rounds(tmp_path, ["policy"])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(list(rounds.collect())), range(4)))
    assert len(set(found)) == 1
    assert reads == ["run_1"]


def test_the_port_answers(tmp_path: Path, settings: Settings) -> None:
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(Rounds(tmp_path, ["policy"]))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"ratchet_trainer_rounds" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_time_of_each_phase_is_a_metric_of_the_run(tmp_path: Path) -> None:
    end_run(tmp_path, "run_1", Phase.COLLECTED, metrics={})
    directory = RunDirectory(tmp_path / "run_1")
    run = directory.write(directory.read(), phase=Phase.TRAINED, metrics={"loss": 1.0})
    run = directory.write(run, attempts=3)
    run = directory.write(run, phase=Phase.PUBLISHED)
    assert set(run.metrics) == {"loss", "train_phase_seconds", "publish_phase_seconds"}
    assert run.metrics["publish_phase_seconds"] >= 0
    assert directory.read().metrics == run.metrics
