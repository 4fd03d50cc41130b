"""What the trainer's /metrics show is on disk and in the registry, and nowhere else."""

import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from trainer.__main__ import watch
from trainer.metrics import Rounds, Versions
from trainer.runs import PLAN, Phase, Plan, Run, RunDirectory
from trajectories.connection import Redis
from trajectories.registry import Registry
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
    rounds = Rounds(tmp_path)
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
    rounds = Rounds(tmp_path)
    assert not any("tokens_per_second" in line for line in shown(rounds))
    end_run(tmp_path, "run_2", Phase.PROMOTED, attempts=1, metrics=measured)
    assert 'ratchet_trainer_last_tokens_per_second{policy="policy"} 300.0' in shown(rounds)


def test_a_directory_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    end_run(tmp_path, "run_1", Phase.FAILED)
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run_2" / "run.json").write_text("{")
    assert 'ratchet_trainer_rounds_total{outcome="failed",policy="policy"} 1.0' in shown(
        Rounds(tmp_path)
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


@pytest.mark.parametrize("name", ["policy", "planner"])
def test_every_policy_is_watched_on_the_port_of_the_one_that_is_trained(
    name: str, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[int, set[str]]] = []

    def note(host: str, port: int, collectors: Sequence[Rounds | Versions]) -> None:
        served.append((port, shown(*collectors)))

    monkeypatch.setattr("trainer.metrics.serve_metrics", note)
    own = {"planner": PolicySettings(agents=("planner",), trainer={"metrics_port": 9002})}
    trainer = settings.trainer.model_copy(update={"metrics_port": 9001})
    watch(settings.model_copy(update={"policies": own, "trainer": trainer}), name)
    ((port, lines),) = served
    assert port == (9001 if name == "policy" else 9002)
    for policy in ("policy", "planner"):
        assert f'ratchet_trainer_current_version{{policy="{policy}"}} 0.0' in lines


def test_the_port_answers(tmp_path: Path, settings: Settings) -> None:
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(Rounds(tmp_path))
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
