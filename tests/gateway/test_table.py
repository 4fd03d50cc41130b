"""What a client's model name means, and which settings of it make no sense."""

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.upstreams.table import Table, Target
from trajectories.errors import SettingsError
from trajectories.settings import Settings, load_settings

UPSTREAMS: dict[str, Any] = {
    "openai": {"url": "https://api.openai.com", "dialects": ["chat", "responses", "embeddings"]},
    "claude": {"kind": "anthropic", "url": "https://api.anthropic.com"},
    "bedrock": {"kind": "litellm", "provider": "bedrock"},
}


def table(routes: dict[str, Any], **sections: Any) -> Table:
    return Table(Settings(upstreams=UPSTREAMS, routes=routes, **sections))


def asked(found: tuple[Target, ...]) -> list[tuple[str, str]]:
    return [(target.upstream, target.model) for target in found]


def test_an_alias_and_an_unknown_name_go_to_the_policys_engine() -> None:
    plain = Table(Settings())
    for name in ("policy", "some-model"):
        (found,) = plain.targets(name, "chat")
        assert found == Target("policy", "vllm", name, is_policy=True, is_native=True)
    assert not plain.targets("policy", "messages")[0].is_native
    assert not plain.targets("policy", "responses")[0].is_native


def test_a_route_leads_to_its_upstream_and_model() -> None:
    (found,) = table({"gpt-4o": {"upstream": "openai", "model": "gpt-5.6"}}).targets(
        "gpt-4o", "chat"
    )
    assert found == Target("openai", "openai", "gpt-5.6", False, True, alias="gpt-4o")
    (found,) = table({"gpt-4o": {"upstream": "openai"}}).targets("gpt-4o", "responses")
    assert (found.model, found.alias, found.is_native) == ("gpt-4o", None, True)


def test_fallbacks_come_in_order_then_theirs_and_none_twice() -> None:
    routes = {
        "a": {"upstream": "openai", "model": "m1", "fallbacks": ["b", "c"]},
        "b": {"upstream": "bedrock", "model": "m2", "fallbacks": ["policy", "d"]},
        "c": {"upstream": "openai", "model": "m3", "fallbacks": ["d"]},
        "d": {"upstream": "openai", "model": "m1"},
    }
    found = table(routes).targets("a", "chat")
    assert asked(found) == [
        ("openai", "m1"),
        ("bedrock", "m2"),
        ("openai", "m3"),
        ("policy", "policy"),
    ]
    assert {target.alias for target in found} == {"a"}
    assert [target.is_policy for target in found] == [False, False, False, True]


def test_the_policy_may_have_fallbacks_of_its_own() -> None:
    found = table(
        {"policy": {"upstream": "policy", "fallbacks": ["gpt"]}, "gpt": {"upstream": "openai"}}
    )
    assert asked(found.targets("policy", "chat")) == [("policy", "policy"), ("openai", "gpt")]
    assert found.targets("policy", "chat")[0].alias is None


def test_a_route_to_the_policy_is_an_alias_unless_it_names_a_model() -> None:
    found = table(
        {"gpt-4o": {"upstream": "policy"}, "raw": {"upstream": "policy", "model": "base"}}
    )
    assert found.aliases == ("policy", "gpt-4o")
    assert found.names == ("gpt-4o", "raw", "policy")
    (raw,) = found.targets("raw", "chat")
    assert (raw.model, raw.alias, raw.is_policy) == ("base", "raw", True)


def test_a_route_wins_over_an_alias_of_the_same_name() -> None:
    found = table({"gpt-4o": {"upstream": "openai"}}, gateway={"aliases": ["policy", "gpt-4o"]})
    assert asked(found.targets("gpt-4o", "chat")) == [("openai", "gpt-4o")]


def test_an_alias_for_every_name_is_no_name_itself() -> None:
    found = table({"gpt": {"upstream": "openai", "fallbacks": ["any"]}}, gateway={"aliases": ["*"]})
    assert found.names == ("gpt",)
    assert found.aliases == ("*",)
    assert asked(found.targets("gpt", "chat")) == [("openai", "gpt"), ("policy", "any")]


def test_upstreams_that_cannot_answer_in_a_dialect_are_left_out() -> None:
    found = table(
        {
            "claude": {"upstream": "claude", "fallbacks": ["gpt"]},
            "gpt": {"upstream": "openai"},
            "only": {"upstream": "claude"},
        }
    )
    assert asked(found.targets("claude", "messages")) == [("claude", "claude"), ("openai", "gpt")]
    assert [target.is_native for target in found.targets("claude", "messages")] == [True, False]
    assert asked(found.targets("claude", "chat")) == [("openai", "gpt")]
    for name, dialect in (("only", "chat"), ("gpt", "completions")):
        with pytest.raises(ApiError) as caught:
            found.targets(name, dialect)
        assert (caught.value.status, caught.value.code) == (400, "unsupported_dialect")


WRONG = [
    ('[routes.a]\nupstream = "opnai"\n', r'routes\."a"\.upstream: there is no "opnai".*policy'),
    ('[routes.a]\nmodel = "m"\n', r"routes\.a\.upstream"),
    (
        '[routes.a]\nupstream = "policy"\nfallbacks = ["nowhere"]\n',
        r'"nowhere" is neither a route nor an alias \(there are: a, policy\)',
    ),
    (
        '[routes.a]\nupstream = "policy"\nfallbacks = ["b"]\n'
        '[routes.b]\nupstream = "policy"\nfallbacks = ["c"]\n'
        '[routes.c]\nupstream = "policy"\nfallbacks = ["b"]\n',
        "circle: b -> c -> b",
    ),
    ('[routes.a]\nupstream = "policy"\nfallbacks = ["a"]\n', "circle: a -> a"),
    ('[upstreams.x]\nkind = "openai"\n', r'upstreams\.x: .*"openai" needs a url'),
    ('[upstreams.x]\nurl = "api.openai.com"\n', "begins with http"),
    ('[upstreams.x]\nkind = "litellm"\n', "needs a provider"),
    ('[upstreams.x]\nkind = "litellm"\nprovider = "a"\nreplicas = ["http://b"]\n', "one url"),
    (
        '[upstreams.x]\nkind = "litellm"\nprovider = "a"\ndialects = ["messages"]\n',
        '"chat" and "embeddings" only',
    ),
    ('[upstreams.x]\nurl = "http://x"\nprovider = "a"\n', "litellm"),
    ('[upstreams.x]\nurl = "http://x"\nkind = "azure"\n', r"upstreams\.x\.kind"),
    ('[upstreams.x]\nurl = "http://x"\napi_key = "a"\napi_key_env = "B"\n', "keep one"),
    ('[upstreams.policy]\nurl = "http://x"\n', "no upstream may be called"),
    ('[upstreams."a b"]\nurl = "http://x"\n', r"upstreams\.a b"),
    ('[upstreams.x]\nurl = "http://x"\ndialects = ["chatter"]\n', r"upstreams\.x\.dialects"),
    ("[breaker]\nshare = 0\n", r"breaker\.share"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_what_makes_no_sense_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "ratchet.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_settings(path)


def test_a_key_may_stand_in_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ratchet.toml"
    path.write_text('[upstreams.x]\nurl = "http://x"\napi_key_env = "X_KEY"\n')
    monkeypatch.delenv("X_KEY", raising=False)
    settings = load_settings(path)  # a trainer needs no such key
    with pytest.raises(SettingsError, match=r"upstreams\.x\.api_key_env: .*X_KEY is not set"):
        Table(settings)
    monkeypatch.setenv("X_KEY", "sk-1")
    settings = load_settings(path)
    Table(settings)
    assert settings.upstreams["x"].api_key == "sk-1"


def test_an_upstream_may_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_UPSTREAMS_BIG", '{"url": "http://big:8000", "kind": "vllm"}')
    monkeypatch.setenv("RATCHET_ROUTES", '{"GPT-4o": {"upstream": "big"}}')
    settings = load_settings()
    assert settings.upstreams["big"].engines == ("http://big:8000",)
    assert asked(Table(settings).targets("GPT-4o", "chat")) == [("big", "GPT-4o")]


def test_the_example_in_the_documents_means_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "upstreams.md").read_text()
    path = tmp_path / "ratchet.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-2")
    found = Table(load_settings(path)).targets("gpt-4o", "chat")
    assert asked(found) == [
        ("openai", "gpt-5.6"),
        ("policy", "policy"),
        ("bedrock", "anthropic.claude-sonnet"),
    ]
