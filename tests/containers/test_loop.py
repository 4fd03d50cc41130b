"""The compose project for real: built, started, asked, broken, and asked again.

vLLM is a stand-in and there is no GPU; everything else is what a user starts.
"""

import json
import os
import secrets
import socket
from typing import Any

import pytest

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]

SERVICES = ("redis", "vllm", "gateway", "dispatcher", "worker", "archiver")


def chat(project: Any, session: str, content: str = "hello") -> str:
    """One recorded chat request; the id of its trajectory."""
    reply = project.request(
        "POST",
        f"/t/{session}/v1/chat/completions",
        {"model": "policy", "messages": [{"role": "user", "content": content}]},
    )
    assert reply.status == 200, f"{reply}\n{project.logs()}"
    assert reply.body["choices"][0]["message"]["content"]
    return str(reply.headers["x-ratchet-trajectory-id"])


def known(project: Any, trajectory_id: str) -> dict[str, Any] | None:
    """The trajectory, once the dispatcher has linked it."""
    reply = project.request("GET", f"/v1/trajectories/{trajectory_id}")
    return dict(reply.body) if reply.status == 200 else None


def new_session() -> str:
    return f"s-{secrets.token_hex(6)}"


# --- the loop


def test_up_waits_until_the_gateway_is_ready(project: Any) -> None:
    assert project.request("GET", "/healthz").status == 200
    assert project.request("GET", "/readyz").status == 200


def test_the_gateway_runs_compiled_and_its_image_has_no_compiler(project: Any) -> None:
    question = "import gateway.exchange as e; print(e.__file__)"
    assert project.inside("gateway", "python", "-c", question).stdout.strip().endswith(".so")
    assert project.inside("gateway", "sh", "-c", "command -v gcc cc").returncode != 0


def test_an_answer_and_a_vote_become_a_reward(project: Any) -> None:
    session = new_session()
    trajectory_id = chat(project, session)
    vote = project.request("POST", f"/t/{session}/v1/feedback", {"value": 1})
    assert vote.status in {200, 202}, vote

    def reward() -> Any:
        found = known(project, trajectory_id)
        return found if found and found.get("reward") is not None else None

    found = project.eventually(reward, "a reward")
    assert found["reward"] == pytest.approx(1.0, abs=0.5)


def test_who_does_not_send_the_key_is_refused(project: Any) -> None:
    other = type(project)(env=project.env | {"RATCHET_GATEWAY_API_KEY": "wrong"}, port=project.port)
    reply = other.request("POST", "/v1/chat/completions", {"model": "policy", "messages": []})
    assert reply.status == 401


@pytest.mark.parametrize("route", ["/v1/load_lora_adapter", "/invocations", "/pause", "/adapters"])
def test_the_engines_own_routes_do_not_exist_at_the_gateway(project: Any, route: str) -> None:
    assert project.request("POST", route, {"lora_name": "x", "lora_path": "/x"}).status == 404


# --- what a container may do


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_power(project: Any, service: str) -> None:
    status = project.inside(service, "cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) != 0
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    write = project.inside(service, "touch", "/x")
    assert write.returncode != 0
    assert "Read-only file system" in write.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_only_the_gateway_is_reached_and_only_from_this_machine(project: Any, service: str) -> None:
    container = project.container(service)
    ports = json.loads(
        project.docker("inspect", "-f", "{{json .NetworkSettings.Ports}}", container)
    )
    published = [binding["HostIp"] for bindings in ports.values() for binding in bindings or []]
    assert published == (["127.0.0.1"] if service == "gateway" else [])


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"gateway"}))
def test_only_the_gateway_reaches_out(project: Any, service: str, outside: str) -> None:
    assert reaches(project, "gateway", outside)
    assert not reaches(project, service, outside)


@pytest.fixture(scope="module")
def outside(project: Any) -> str:
    """An address on the internet, or a skip where there is none to reach."""
    try:
        address = socket.gethostbyname("pypi.org")
    except OSError:
        pytest.skip("this machine cannot resolve pypi.org: nothing outside to reach")
    if not reaches(project, "gateway", address):
        pytest.skip("no container on this machine reaches pypi.org: nothing outside to reach")
    return address


def reaches(project: Any, service: str, address: str) -> bool:
    connect = f"timeout 3 bash -c '</dev/tcp/{address}/443'"
    return bool(project.inside(service, "bash", "-c", connect).returncode == 0)


def test_redis_wants_its_password_and_does_not_show_it(project: Any) -> None:
    nameless = project.inside("redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping")
    assert "NOAUTH" in nameless.stdout + nameless.stderr
    processes = project.docker("top", project.container("redis"))
    assert "redis-server" in processes
    assert project.env["REDIS_PASSWORD"] not in processes


def test_the_gateway_keeps_its_spool_in_a_volume_of_its_own(project: Any) -> None:
    chat(project, new_session())
    assert project.inside("gateway", "sh", "-c", "ls -A /var/lib/ratchet/spool").stdout.strip()


def test_vllm_cannot_write_adapters(project: Any) -> None:
    write = project.inside("vllm", "touch", "/var/lib/ratchet/adapters/x")
    assert "Read-only file system" in write.stderr


# --- faults


def test_a_hanging_redis_costs_no_answer_and_no_record(project: Any) -> None:
    project.compose("pause", "redis")
    try:
        assert project.request("GET", "/healthz", timeout=3).status == 200
        trajectory_ids = [chat(project, new_session()) for _ in range(3)]
    finally:
        project.compose("unpause", "redis")
        project.wait_healthy("redis")
    for trajectory_id in trajectory_ids:
        project.eventually(lambda wanted=trajectory_id: known(project, wanted), "the record")


def test_a_killed_redis_costs_no_answer_and_no_record(project: Any) -> None:
    before = chat(project, new_session())
    project.eventually(lambda: known(project, before), "the first record")
    project.compose("kill", "-s", "SIGKILL", "redis")
    try:
        while_down = chat(project, new_session())
    finally:
        project.compose("up", "-d", "--wait", "--wait-timeout", "60", "redis")
    for trajectory_id in (before, while_down):
        project.eventually(lambda wanted=trajectory_id: known(project, wanted), "the record")


def test_a_killed_gateway_loses_no_answered_request(project: Any) -> None:
    project.compose("pause", "redis")
    try:
        trajectory_id = chat(project, new_session())  # only the spool has it
        project.compose("kill", "-s", "SIGKILL", "gateway")
    finally:
        project.compose("unpause", "redis")
        project.wait_healthy("redis")
    project.compose("up", "-d", "--wait", "--wait-timeout", "60", "gateway")
    project.eventually(lambda: known(project, trajectory_id), "the record")


def test_down_and_up_again_keeps_everything(project: Any) -> None:
    trajectory_id = chat(project, new_session())
    project.eventually(lambda: known(project, trajectory_id), "the record")
    project.compose("down", "-t", "30")
    project.compose("up", "-d", "--wait", "--wait-timeout", "120", *SERVICES)
    assert known(project, trajectory_id)


def test_a_stopped_gateway_ends_by_itself_within_its_grace(project: Any) -> None:
    container = project.container("gateway")
    project.compose("stop", "gateway")
    try:
        code = project.docker("inspect", "-f", "{{.State.ExitCode}}", container)
        assert code in {"0", "143"}, f"137 is a kill\n{project.logs()}"
    finally:
        project.compose("up", "-d", "--wait", "--wait-timeout", "60", "gateway")


# --- the trainer's image, on a CPU


@pytest.fixture(scope="module")
def trainer(project: Any) -> Any:
    """The project, with Dockerfile.trainer built on a base that holds a CPU torch."""
    if not os.environ.get("RATCHET_LAB_WHEELS"):
        pytest.skip(
            "Dockerfile.trainer would download CUDA: set RATCHET_LAB_WHEELS to a directory with"
            " a CPU build of torch (and RATCHET_CONTAINER_LAB=1)"
        )
    env = project.env | {"TRAINER_BASE_IMAGE": "python:3.11-slim-bookworm-wheels"}
    with_trainer = type(project)(env=env, port=project.port)
    with_trainer.compose("build", "-q", "trainer", timeout=1200)
    return with_trainer


def test_what_the_trainer_writes_vllm_can_read(trainer: Any) -> None:
    name = f"adapter-{secrets.token_hex(4)}"
    script = (
        "import os, pathlib, torch, trainer, transformers, peft, trl;"
        "os.umask(0o077);"
        f"path = pathlib.Path('/var/lib/ratchet/adapters/{name}'); path.mkdir();"
        "(path / 'manifest.json').write_text('published');"
        "run = pathlib.Path('/var/lib/ratchet/runs/run'); run.mkdir(parents=True);"
        "print(os.getuid())"
    )
    ran = trainer.compose("run", "--rm", "--no-deps", "-T", "trainer", "python", "-c", script)
    assert ran.strip() == "10002"
    read = trainer.inside("vllm", "cat", f"/var/lib/ratchet/adapters/{name}/manifest.json")
    assert read.stdout == "published"


def test_the_trainer_starts_says_so_and_stops(trainer: Any) -> None:
    trainer.compose("up", "-d", "--wait", "--wait-timeout", "120", "trainer")
    container = trainer.container("trainer")
    trainer.compose("stop", "trainer")
    assert trainer.docker("inspect", "-f", "{{.State.ExitCode}}", container) == "0"
    assert "Traceback" not in trainer.compose("logs", "--no-color", "trainer")
