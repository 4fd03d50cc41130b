"""What is started, and what its clients send."""

import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.gateway_bench import ours, traffic
from benchmarks.gateway_bench.cli import parser
from benchmarks.gateway_bench.compiling import ROOT, digest
from benchmarks.gateway_bench.peers import KEY, NAMES, PEERS, Place
from benchmarks.gateway_bench.rounds import Plan, names_with_direct
from trajectories.settings import load_settings

PLACE = Place(4001, 4002, Path("/somewhere"), Path("/packages/peer"), 4003)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_listens_where_it_is_told_and_is_told_the_upstream(name: str) -> None:
    launch = PEERS[name](PLACE)

    told = json.dumps([launch.command, *launch.files.values(), *launch.headers.values()])
    assert "4001" in told
    assert "127.0.0.1:4002" in told


def test_nginx_keeps_connections_and_holds_nothing_back() -> None:
    configuration = PEERS["nginx"](PLACE).files["nginx.conf"]

    assert "keepalive 1024;" in configuration
    assert "proxy_buffering off;" in configuration
    assert "worker_processes 1;" in configuration
    assert configuration.count("{") == configuration.count("}")


def test_litellm_has_a_key_and_an_alias_as_ratchet_has() -> None:
    launch = PEERS["litellm"](PLACE)
    configuration = json.loads(launch.files["config.yaml"])

    assert configuration["general_settings"]["master_key"] == KEY
    assert [entry["model_name"] for entry in configuration["model_list"]] == [launch.model]
    assert launch.command[-2:] == ("--num_workers", "1")


def test_ratchet_runs_with_settings_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ours.launch(port=1, upstream_port=2, folder=tmp_path, redis_url="unix:///r.sock")
    for file, content in launch.files.items():
        (tmp_path / file).write_text(content)
    for name, value in launch.environment.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.gateway.api_key == KEY
    assert launch.model in settings.gateway.aliases
    assert settings.redis.url == "unix:///r.sock"
    assert settings.upstream.url == "http://127.0.0.1:2"
    assert not settings.upstreams


def test_the_relay_leads_to_the_same_upstream_and_is_asked_for_no_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = ours.launch(
        "ratchet-relay", port=1, upstream_port=2, folder=tmp_path, redis_url="unix:///r.sock"
    )
    (tmp_path / "ratchet.toml").write_text(launch.files["ratchet.toml"])
    for name, value in launch.environment.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    (upstream,) = settings.upstreams.values()
    assert (upstream.kind, upstream.url) == ("openai", "http://127.0.0.1:2")
    assert settings.routes[launch.model].upstream in settings.upstreams


def test_ratchet_is_run_from_where_it_was_compiled(tmp_path: Path) -> None:
    launch = ours.launch(
        port=1, upstream_port=2, folder=tmp_path, redis_url="r", packages=Path("/compiled")
    )

    assert launch.environment["PYTHONPATH"].split(os.pathsep) == ["/compiled", str(ROOT)]
    assert "compiled" in ours.versions(Path("/compiled"))["ratchet"]
    assert "plain Python" in ours.versions()["ratchet"]


def test_what_is_compiled_anew_is_what_changed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in ("gateway", "trajectories", "tools"):
        shutil.copytree(ROOT / package, copy / package)
    shutil.copy(ROOT / "pyproject.toml", copy)
    before = digest(copy)
    (copy / "tools" / "settings_doc.py").write_text("# not in the wheel")
    assert digest(copy) == before

    (copy / "gateway" / "call.py").write_text("# in the wheel")

    assert digest(copy) != before


@pytest.mark.parametrize("name", ["json", "burst", "paced"])
def test_a_request_is_the_sdks_with_a_chat_of_about_a_kilobyte(name: str) -> None:
    scenario = traffic.scenario_named(name, 7000)
    head, _, body = traffic.request(scenario, model="m", api_key="k").partition(b"\r\n\r\n")

    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert int(fields["Content-Length"]) == len(body)
    assert fields["Authorization"] == "Bearer k"
    assert len(fields) >= 12
    assert 900 <= len(body) <= 1300
    assert json.loads(body).get("stream", False) is (name != "json")
    assert ("pace_us=7000" in body.decode()) is (name == "paced")


def test_no_two_requests_are_alike_for_whoever_looks_at_the_conversation() -> None:
    messages = traffic.body(traffic.scenario_named("json", 0), "m")["messages"]

    assert [traffic.NUMBER in m["content"] for m in messages if m["role"] == "user"] == [True, True]


def test_the_gateways_headers_go_with_its_requests() -> None:
    headers = PEERS["portkey"](PLACE).headers
    scenario = traffic.scenario_named("json", 0)
    request = traffic.request(scenario, model="m", api_key="k", headers=headers)

    assert b"x-portkey-custom-host: http://127.0.0.1:4002/v1\r\n" in request


def test_paced_streams_are_measured_with_the_most_clients_only() -> None:
    scenarios = tuple(traffic.scenario_named(name, 5000) for name in ("json", "paced"))
    plan = Plan(scenarios, (1, 32), rounds=1, seconds=1, warm_up_seconds=0)

    found = [(scenario.name, clients) for scenario, clients in plan.traffics]

    assert found == [("json", 1), ("json", 32), ("paced", 32)]


def test_direct_is_always_visited_and_once() -> None:
    assert names_with_direct(("ratchet",)) == ["direct", "ratchet"]
    assert names_with_direct(NAMES) == list(NAMES)


def test_an_unknown_gateway_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--only", "ratchet,enginx"])

    assert "enginx" in capsys.readouterr().err


def test_the_short_run_of_the_issue_is_understood() -> None:
    options = parser().parse_args(["--only", "ratchet,vllm-router", "--rounds", "5"])

    assert (options.only, options.rounds) == (("ratchet", "vllm-router"), 5)
