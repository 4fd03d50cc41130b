"""Settings: the environment wins over the file, and a wrong key is named."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from trajectories.errors import SettingsError
from trajectories.settings import (
    AgentSettings,
    CustomSettings,
    JudgeSettings,
    MetricSettings,
    OtherUpstreamSettings,
    PolicySettings,
    RouteSettings,
    Settings,
    TrainerSettings,
    WebhookSettings,
    load_settings,
)


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RATCHET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def names() -> list[tuple[str, tuple[str, ...], Any]]:
    """(environment name, path in the settings, default) of every setting."""
    found = []
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, BaseModel):
            for key in type(default).model_fields:
                path = (name, key)
                found.append((f"RATCHET_{name}_{key}".upper(), path, getattr(default, key)))
        else:
            found.append((f"RATCHET_{name}".upper(), (name,), default))
    return found


# What a default may be changed to, where type and limits do not give it away.
OTHER: dict[tuple[str, ...], tuple[str, Any]] = {
    ("data_dir",): ("/var/lib/ratchet", Path("/var/lib/ratchet")),
    ("policy",): ("support-7b", "support-7b"),
    ("policy_tenant",): ("acme", "acme"),
    ("policies",): ('{"a": {"agents": ["a"]}}', {"a": PolicySettings(agents=("a",))}),
    ("gateway", "aliases"): ('["a","b"]', ("a", "b")),
    ("gateway", "api_key"): ("sk-1", "sk-1"),
    ("gateway", "signing_key"): ("sixteen-or-longer", "sixteen-or-longer"),
    ("siblings", "policies"): ('["policy"]', ("policy",)),
    ("siblings", "call"): ("first", "first"),
    ("siblings", "url"): ("http://gateway", "http://gateway"),
    ("trainer", "loss"): ("gspo", "gspo"),
    ("trainer", "weights"): ("full", "full"),
    ("trainer", "report_to"): ('["mlflow"]', ("mlflow",)),
    ("trainer", "replay_share"): ("0.25", 0.25),
    ("gateway", "durability"): ("required", "required"),
    ("upstreams",): (
        '{"big": {"url": "http://big"}}',
        {"big": OtherUpstreamSettings(url="http://big")},
    ),
    ("judges",): ('{"a": {"model": "m"}}', {"a": JudgeSettings(model="m")}),
    ("webhooks",): (
        '{"a": {"url": "http://a", "secret": "s"}}',
        {"a": WebhookSettings(url="http://a", secret="s")},
    ),
    ("custom",): ('{"a": {"share": 0.5}}', {"a": CustomSettings(share=0.5)}),
    ("agents",): ('{"a": {"train": false}}', {"a": AgentSettings(train=False)}),
    ("routes",): ('{"a": {"upstream": "policy"}}', {"a": RouteSettings(upstream="policy")}),
    ("tracing", "endpoint"): ("http://otel:4318", "http://otel:4318"),
    ("trainer", "baseline"): ("tracker", "tracker"),
    ("trainer", "missing"): ("aipw", "aipw"),
    ("rewards", "air"): ('{"truncated": -0.1}', {"truncated": -0.1}),
    ("rewards", "metrics"): (
        '{"minutes": {"low": 0, "high": 9, "optimize": "min"}}',
        {"minutes": MetricSettings(low=0, high=9, optimize="min")},
    ),
    ("archive", "format"): ("parquet", "parquet"),
    ("archive", "keep_days"): ("30", 30.0),
    ("rewards", "weights"): ('{"tone": 0.5}', {"tone": 0.5}),
    ("rewards", "priority"): ("mean", "mean"),
    ("rewards", "clamp"): ("[-0.5, 1]", (-0.5, 1.0)),
    ("trainer", "algorithm"): ("sft", "sft"),
    ("trainer", "credit"): ("discounted", "discounted"),
    ("trainer", "dtype"): ("bfloat16", "bfloat16"),
    ("trainer", "device"): ("cpu", "cpu"),
    ("trainer", "quantization"): ("4bit", "4bit"),
    ("trainer", "interval_seconds"): ("60", 60.0),
    ("engine", "max_loras"): ("9", 9),
}

# What a setting cannot be changed without.
COMPANY = {("trainer", "missing"): {"RATCHET_TRAINER_NEGATIVE_WEIGHT": "1"}}


def other(path: tuple[str, ...], default: Any) -> tuple[str, Any]:
    """Another value of a setting, as the environment writes it and as it is read."""
    if path in OTHER:
        return OTHER[path]
    if isinstance(default, bool):
        return ("true", True) if not default else ("false", False)
    if isinstance(default, int):
        return str(default + 1), default + 1
    if isinstance(default, float):
        return ("0.75", 0.75) if default <= 1 else (str(default + 1), default + 1)
    if isinstance(default, tuple):
        return '["x"]', ("x",)
    return "other", "other"


@pytest.mark.parametrize(("name", "path", "default"), names(), ids=lambda part: str(part)[:40])
def test_every_setting_can_be_set_in_the_environment(
    name: str, path: tuple[str, ...], default: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, expected = other(path, default)
    for company, value in {name: text, **COMPANY.get(path, {})}.items():
        monkeypatch.setenv(company, value)
    found: Any = load_settings()
    for part in path:
        found = getattr(found, part)
    assert found == expected != default


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.gateway.port == 8080
    assert settings.spool_dir == Path("ratchet-data/spool")
    assert settings.upstream.engines == ("http://127.0.0.1:8000",)


def test_the_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ratchet.toml").write_text(
        'data_dir = "d"\n[gateway]\nport = 1\nhost = "h"\n[rewards.air]\ntruncated = -0.1\n'
    )
    monkeypatch.setenv("RATCHET_GATEWAY_PORT", "2")
    settings = load_settings()
    assert (settings.gateway.port, settings.gateway.host) == (2, "h")
    assert settings.data_dir == Path("d")
    assert settings.rewards.air == {"truncated": -0.1}


def test_arguments_win_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_GATEWAY_PORT", "2")
    monkeypatch.setenv("RATCHET_GATEWAY_HOST", "h")
    settings = load_settings(gateway={"port": 3})
    assert (settings.gateway.port, settings.gateway.host) == (3, "h")


def test_another_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('policy = "other"\n')
    monkeypatch.setenv("RATCHET_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().policy == "other"


def test_a_named_file_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_CONFIG", "/nowhere.toml")
    with pytest.raises(SettingsError, match=r"/nowhere\.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\nprot = 1\n", r"gateway\.prot"),
        ("[gatway]\nport = 1\n", "gatway"),
        ("prot = 1\n", "prot"),
        ("[gateway]\nport = 70000\n", r"gateway\.port"),
        ("[gateway\n", "ratchet.toml is not valid TOML"),
        ('[judges.a]\nmodel = "m"\nvotes = 2\n', "odd number"),
        ('[judges.a]\nmodel = "m"\nrubric = "r"\nrubric_file = "f"\n', "keep one"),
        ('[judges.a]\nmodel = "m"\n[custom.a]\n', "different names"),
        ('[webhooks.a]\nurl = "http://a"\n', "secret"),
        ('[webhooks.a]\nurl = "ftp://a"\nsecret = "s"\n', "url"),
        ("[trainer]\nrank = 32\n[engine]\nserve = true\n", "max_lora_rank"),
        (
            "[trainer]\nmax_trajectories = 63\n",
            r"trainer\.min_trajectories = 64 .* looks at 63 .*max_trajectories",
        ),
        ("[trainer]\nmax_trajectories = 80\nreplay_share = 0.25\n", r"looks at 60 .*replay_share"),
        (
            '[policies.a]\nagents = ["a"]\ntrainer = { min_trajectories = 5000 }\n',
            r"policies\.a\.trainer\.min_trajectories = 5000",
        ),
        ('[trainer]\nmissing = "aipw"\n', r"trainer\.negative_weight = 0\.25 .* set it to 1"),
        (
            '[policies.a]\nagents = ["a"]\ntrainer = { missing = "aipw", negative_weight = 0.5 }\n',
            r"policies\.a\.trainer\.negative_weight = 0\.5",
        ),
    ],
)
def test_a_wrong_line_of_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ratchet.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_rounds_by_the_clock_alone_may_ask_for_more_than_a_round_has() -> None:
    trainer = TrainerSettings(min_trajectories=10**6, interval_seconds=3600)
    assert Settings(trainer=trainer).trainer.most_unused == 4096


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("RATCHET_GATEWAY_PROT", "1", r"gateway\.prot"),
        ("RATCHET_GATEWAY_PORT", "many", r"gateway\.port"),
        ("RATCHET_GATEWAY_ALIASES", "policy", "gateway"),
        ("RATCHET_POLICY", "Not A Name", "policy"),
        ("RATCHET_REWARDS_AIR", "{", "rewards"),
        ("RATCHET_GATWAY_PORT", "1", "RATCHET_GATWAY_PORT"),
        ("RATCHET_GATEWAY", '{"port": 1, "prot": 2}', r"gateway\.prot"),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=said):
        load_settings()


@pytest.mark.parametrize("text", ["sft+grpo", '["sft", "grpo"]'])
def test_several_algorithms_are_a_list_or_one_word(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_TRAINER_ALGORITHM", text)
    assert load_settings().trainer.algorithm == "sft+grpo"
    monkeypatch.delenv("RATCHET_TRAINER_ALGORITHM")
    (tmp_path / "ratchet.toml").write_text('[trainer]\nalgorithm = ["sft", "grpo"]\n')
    assert load_settings().trainer.algorithm == "sft+grpo"
    (tmp_path / "ratchet.toml").write_text('[trainer]\nalgorithm = ["sft", "sft"]\n')
    with pytest.raises(SettingsError, match=r"trainer\.algorithm: .* runs an algorithm twice"):
        load_settings()


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.gateway.port = 1  # type: ignore[misc]
