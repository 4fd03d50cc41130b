"""What the container files promise, read from the files themselves: needs no engine."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile.gateway", "Dockerfile.trainer")
BASE_IMAGES = {"${BASE_IMAGE}", "python:3.11-slim-bookworm"}
OBSERVABILITY = {"grafana", "prometheus"}  # a profile: not started unless it is asked for
PUBLISHED = {"gateway", "grafana"}
REQUIRED = ("REDIS_PASSWORD", "RATCHET_UPSTREAM_BASE_MODEL", "BASE_MODEL_DIR")


class Loader(yaml.SafeLoader):
    """Reads compose's own tags: `!reset x` means "take this key away"."""


Loader.add_constructor("!reset", lambda loader, node: None)


def load(name: str) -> dict[str, Any]:
    with (ROOT / name).open() as file:
        content: dict[str, Any] = yaml.load(file, Loader=Loader)
    return content


COMPOSE = load("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_dockerfile = pytest.mark.parametrize("name", DOCKERFILES)


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    text = (ROOT / name).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    parts = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(part[0].upper(), part[1].strip() if len(part) > 1 else "") for part in parts]


def seconds(value: str) -> int:
    assert value.endswith("s"), f"write {value} in seconds"
    return int(value.removesuffix("s"))


# --- the whole


def test_the_loop_is_one_compose_up() -> None:
    loop = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert loop == {"gateway", "redis", "dispatcher", "worker", "archiver", "trainer", "vllm"}
    assert set(SERVICES) == loop | OBSERVABILITY | {"verdicts", "siblings"}
    assert SERVICES["verdicts"]["profiles"] == ["judges"]
    assert SERVICES["siblings"]["profiles"] == ["siblings"]
    assert all(SERVICES[name]["profiles"] == ["observability"] for name in OBSERVABILITY)
    assert COMPOSE["name"] == "ratchet"


def test_compose_accepts_the_files(compose_command: list[str] | None, tmp_path: Path) -> None:
    if compose_command is None:
        pytest.skip("docker compose is not there: install the docker CLI with its compose plugin")
    settings = dict.fromkeys(REQUIRED, "word") | {"BASE_MODEL_DIR": str(tmp_path)}
    for files in (
        ["docker-compose.yml"],
        ["docker-compose.yml", "tests/containers/compose.test.yml"],
    ):
        named = [part for name in files for part in ("-f", name)]
        for profile in ([], ["--profile", "observability"]):
            options = [*named, *profile, "--env-file", "/dev/null"]
            done = _config(compose_command, options, settings)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", REQUIRED)
def test_nothing_starts_when_a_required_setting_is_missing(
    missing: str, compose_command: list[str] | None, tmp_path: Path
) -> None:
    if compose_command is None:
        pytest.skip("docker compose is not there: install the docker CLI with its compose plugin")
    settings = {name: str(tmp_path) for name in REQUIRED if name != missing}
    done = _config(compose_command, ["--env-file", "/dev/null"], settings)
    assert done.returncode != 0
    assert f"set {missing}" in done.stderr


def _config(
    command: list[str], options: list[str], settings: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in REQUIRED}
    return subprocess.run(
        [*command, *options, "config", "-q"],
        cwd=ROOT,
        env=env | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_example_names_every_setting_and_holds_no_secret() -> None:
    example = (ROOT / ".env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    used |= {
        name
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    documented = dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", example, re.MULTILINE))
    assert set(documented) == used
    assert not documented["REDIS_PASSWORD"]
    assert not documented.get("RATCHET_GATEWAY_API_KEY")


# --- every service


@each_service
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    for forbidden in ("privileged", "cap_add", "network_mode", "pid", "ipc", "devices"):
        assert forbidden not in service


@each_service
def test_a_service_has_limits_and_bounded_logs(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == "unless-stopped"
    assert seconds(service["stop_grace_period"]) >= 30


@each_service
def test_a_service_runs_as_a_numbered_user_that_is_not_root(name: str) -> None:
    service = SERVICES[name]
    if "user" in service:
        user = service["user"]
    else:
        user = [
            args for word, args in instructions(service["build"]["dockerfile"]) if word == "USER"
        ][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@each_service
def test_an_image_has_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":v?\d[\w.]*\}?$", image), image
    assert "latest" not in image


@each_service
def test_a_service_tells_when_it_is_ready(name: str) -> None:
    check = SERVICES[name].get("healthcheck")
    assert check is None or "test" in check, "`up --wait` refuses a disabled check"
    if check is None:
        words = [word for word, _ in instructions(SERVICES[name]["build"]["dockerfile"])]
        assert "HEALTHCHECK" in words


@each_service
def test_only_the_gateway_and_the_dashboard_are_published_to_this_machine(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in PUBLISHED)


@each_service
def test_only_what_is_published_has_a_way_out(name: str) -> None:
    networks = SERVICES[name]["networks"]
    # Judges and webhooks may be anywhere: who asks them has a way out, and no port.
    is_out = name in PUBLISHED or name == "verdicts"
    assert networks == (["front", "back"] if is_out else ["back"])
    assert COMPOSE["networks"]["back"]["internal"] is True


@each_service
def test_no_secret_stands_in_the_file(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|_KEY|TOKEN|SECRET|AUTH", key):
            assert value in (None, "true", "false") or value.startswith("${"), key
        if isinstance(value, str) and "@" in value:
            assert "://:${REDIS_PASSWORD:?" in value, key


@each_service
def test_a_gpu_is_asked_for_only_where_an_override_can_take_it_away(name: str) -> None:
    service = SERVICES[name]
    assert "runtime" not in service
    assert ("deploy" in service) == (name in {"vllm", "trainer"})
    if "deploy" in service:
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert load("tests/containers/compose.test.yml")["services"][name]["deploy"] is None


def test_every_password_is_required() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{REDIS_PASSWORD\b(?!:\?)", text) == []
    assert "requirepass" in json.dumps(SERVICES["redis"]["command"])


# --- what one service may do


def test_the_gateway_may_drain_before_it_is_killed() -> None:
    gateway = SERVICES["gateway"]
    graceful = int(gateway["environment"]["RATCHET_GATEWAY_SHUTDOWN_SECONDS"])
    assert seconds(gateway["stop_grace_period"]) > graceful


def test_the_gateway_writes_its_spool_and_nothing_else() -> None:
    assert SERVICES["gateway"]["volumes"] == [
        "spool:/var/lib/ratchet/spool",
        "archive:/var/lib/ratchet/archive:ro",
    ]
    assert SERVICES["archiver"]["volumes"] == ["archive:/var/lib/ratchet/archive"]


def test_what_forgets_may_write_the_archive_and_the_training_rows() -> None:
    """`docker compose exec trainer ratchet forget ...`, as the user who wrote both."""
    volumes = SERVICES["trainer"]["volumes"]
    assert "archive:/var/lib/ratchet/archive" in volumes
    assert "training:/var/lib/ratchet" in volumes
    assert ("USER", SERVICES["archiver"]["user"]) in instructions("Dockerfile.trainer")
    for name in ("Dockerfile.gateway", "Dockerfile.trainer"):
        made = " ".join(args for word, args in instructions(name) if word == "RUN")
        assert re.search(r"install -d -o 10002 -g 10002 [^&]*/var/lib/ratchet/archive", made)


def test_a_judge_that_asks_the_gateway_has_its_key() -> None:
    assert "RATCHET_GATEWAY_API_KEY" in SERVICES["verdicts"]["environment"]
    assert SERVICES["verdicts"]["environment"]["RATCHET_GATEWAY_API_KEY"] is None


def test_siblings_reach_the_gateway_and_have_a_key() -> None:
    environment = SERVICES["siblings"]["environment"]
    port = SERVICES["gateway"]["environment"]["RATCHET_GATEWAY_PORT"]
    assert environment["RATCHET_SIBLINGS_URL"] == f"http://gateway:{port}"
    assert environment["RATCHET_SIBLINGS_API_KEY"] is None
    assert environment["RATCHET_GATEWAY_API_KEY"] is None
    assert set(SERVICES["gateway"]["networks"]) & set(SERVICES["siblings"]["networks"])


def test_extras_can_be_added_to_the_trainer() -> None:
    """Reporters, four bits and object stores are no part of the image as it is."""
    lines = instructions("Dockerfile.trainer")
    assert ("ARG", "EXTRAS=trainer") in lines
    (install,) = (args for word, args in lines if word == "RUN" and "pip install" in args)
    assert '".[${EXTRAS}]"' in install


def test_the_trainer_knows_how_many_adapters_the_engine_holds() -> None:
    assert "--max-loras=${VLLM_MAX_LORAS:-4}" in SERVICES["vllm"]["command"]
    for name in ("gateway", "trainer"):  # and refuses, by its name, a setting that needs more
        known = SERVICES[name]["environment"]["RATCHET_ENGINE_MAX_LORAS"]
        assert known == "${VLLM_MAX_LORAS:-4}"


def test_vllm_reads_what_the_trainer_writes_at_the_same_path() -> None:
    (mount,) = [
        volume for volume in SERVICES["vllm"]["volumes"] if volume.get("source") == "adapters"
    ]
    assert mount["read_only"] is True
    assert f"adapters:{mount['target']}" in SERVICES["trainer"]["volumes"]
    assert mount["target"] == f"{SERVICES['trainer']['environment']['RATCHET_DATA_DIR']}/adapters"
    # the same user: the trainer's files need not be readable for others
    assert ("USER", SERVICES["vllm"]["user"]) in instructions("Dockerfile.trainer")


def test_no_one_writes_the_base_model() -> None:
    for name in ("vllm", "trainer"):
        (mount,) = [
            volume
            for volume in SERVICES[name]["volumes"]
            if isinstance(volume, dict) and volume["target"] == "/models/base"
        ]
        assert mount["read_only"] is True
        assert mount["bind"]["create_host_path"] is False


def test_vllm_can_swap_adapters_and_parse_tools() -> None:
    service = SERVICES["vllm"]
    flags = " ".join(service["command"])
    assert service["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    for flag in (
        "--enable-lora",
        "--max-loras=${VLLM_MAX_LORAS:-4}",
        "--max-cpu-loras=${VLLM_MAX_CPU_LORAS:-8}",
        "--enable-auto-tool-choice",
    ):
        assert flag in flags


def test_vllm_and_the_trainer_compute_in_the_same_precision() -> None:
    dtype = SERVICES["trainer"]["environment"]["RATCHET_TRAINER_DTYPE"]
    assert f"--dtype={dtype}" in SERVICES["vllm"]["command"]


def test_the_trainer_waits_for_vllm_and_never_for_the_gateway() -> None:
    assert SERVICES["trainer"]["depends_on"]["vllm"]["condition"] == "service_healthy"
    assert "gateway" not in SERVICES["trainer"]["depends_on"]


# --- the Dockerfiles


@each_dockerfile
def test_a_build_needs_no_frontend_from_a_registry(name: str) -> None:
    assert not re.match(r"#\s*syntax\s*=", (ROOT / name).read_text())


@each_dockerfile
def test_a_build_step_is_no_heredoc(name: str) -> None:
    assert not [args for word, args in instructions(name) if word == "RUN" and "<<" in args]


@each_dockerfile
def test_a_build_starts_from_the_known_base(name: str) -> None:
    parsed = instructions(name)
    bases = {args.split()[0] for word, args in parsed if word == "FROM"}
    assert bases <= BASE_IMAGES
    assert ("ARG", "BASE_IMAGE=python:3.11-slim-bookworm") in parsed


@each_dockerfile
def test_the_last_user_is_a_number_and_not_root(name: str) -> None:
    users = [args for word, args in instructions(name) if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@each_dockerfile
def test_every_copied_path_exists(name: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, args in instructions(name):
        if word != "COPY" or "--from=" in args:
            continue
        for source in args.split()[:-1]:
            assert (ROOT / source).exists(), f"{name} copies {source}"
            assert f"!{source}" in ignored, f".dockerignore keeps {source} out of the build"


@each_dockerfile
def test_a_build_installs_pinned_versions_and_no_secret(name: str) -> None:
    parsed = instructions(name)
    installs = [args for word, args in parsed if word == "RUN" and "pip install" in args]
    assert installs
    pins = [args.split(" -c ")[1].split()[0] for args in installs]
    arguments = [args for word, args in parsed if word == "ARG"]
    assert set(pins) <= {"constraints.txt", '"$CONSTRAINTS"'}
    assert '"$CONSTRAINTS"' not in pins or "CONSTRAINTS=constraints.txt" in arguments
    assert not [
        args
        for word, args in parsed
        if word in {"ENV", "ARG"} and re.search(r"KEY|TOKEN|PASSWORD", args)
    ]
    assert not [args for word, args in parsed if word == "ADD"]


def test_the_gateway_is_compiled_and_the_compiler_stays_behind() -> None:
    parsed = instructions("Dockerfile.gateway")
    assert ("ARG", "COMPILE=1") in parsed
    stages = [place for place, (word, _) in enumerate(parsed) if word == "FROM"]
    installs = [place for place, (_, args) in enumerate(parsed) if "apt-get" in args]
    assert len(stages) == 2
    assert installs
    assert max(installs) < stages[-1]


def test_the_gateway_image_has_no_torch() -> None:
    assert "ARG EXTRAS=gateway,workers\n" in (ROOT / "Dockerfile.gateway").read_text()


def test_the_gateway_is_asked_for_liveness_not_readiness() -> None:
    (check,) = [args for word, args in instructions("Dockerfile.gateway") if word == "HEALTHCHECK"]
    assert "/healthz" in check
    assert "/readyz" not in check


def test_a_volume_finds_a_directory_that_its_user_owns() -> None:
    for service, dockerfile in (
        ("gateway", "Dockerfile.gateway"),
        ("trainer", "Dockerfile.trainer"),
    ):
        made = " ".join(args for word, args in instructions(dockerfile) if word == "RUN")
        for volume in SERVICES[service]["volumes"]:
            if isinstance(volume, str):
                assert re.search(rf"install -d -o \d+ -g \d+ .*{volume.split(':')[1]}(\s|$)", made)
