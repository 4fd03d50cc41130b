"""`[policies.NAME]`: each for something of its own, with what it changes of `[trainer]`."""

from typing import Any

import pytest
from pydantic import ValidationError

from trajectories.errors import SettingsError
from trajectories.settings import Settings


def test_a_policys_settings_are_the_trainers_but_for_its_own() -> None:
    settings = Settings(
        trainer={"rank": 8, "epochs": 3},
        policies={
            "planner": {"agents": ["planner"], "trainer": {"algorithm": "sft", "rank": 4}},
            "acme": {"tenant": "acme"},
        },
    )
    own = settings.for_policy("planner")
    assert (own.policy, own.policy_tenant) == ("planner", "default")
    assert (own.trainer.algorithm, own.trainer.rank, own.trainer.epochs) == ("sft", 4, 3)
    assert settings.for_policy("acme").policy_tenant == "acme"
    assert settings.for_policy("policy").trainer == settings.trainer
    assert settings.tenants_of_policies() == {
        "policy": "default",
        "planner": "default",
        "acme": "acme",
    }
    with pytest.raises(SettingsError, match=r"no policy \"x\" \(there are: policy, planner, acme"):
        settings.for_policy("x")


def test_adapter_slots_grow_with_the_policies_and_are_kept_by_each() -> None:
    assert Settings().adapter_slots == 4
    settings = Settings(policies={name: {"agents": [name]} for name in ("a", "b", "c")})
    assert settings.adapter_slots == 7
    assert settings.for_policy("b").adapter_slots == 7


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"policies": {"policy": {"agents": ["a"]}}}, "that is the default policy's name"),
        ({"policies": {"a": {}}}, "name agents, aliases or another tenant"),
        ({"policies": {"a": {"tenant": "default"}}}, "name agents, aliases or another tenant"),
        (
            {"policies": {"a": {"agents": ["x"]}, "b": {"agents": ["y", "x"]}}},
            'policies.b: agent "x" of tenant "default" is for a already',
        ),
        (
            {"policies": {"a": {"tenant": "acme"}, "b": {"tenant": "acme"}}},
            'policies.b: all agents of tenant "acme" is for a already',
        ),
        ({"policies": {"a": {"aliases": ["policy"]}}}, '"policy" means something else already'),
        ({"policies": {"a": {"aliases": ["*"]}}}, '"\\*" means something else already'),
        (
            {"policies": {"a": {"aliases": ["m"]}, "b": {"aliases": ["m"]}}},
            'policies.b.aliases: "m" is a\'s',
        ),
        (
            {"policies": {"a": {"aliases": ["m"], "trainer": {"epoch": 1}}}},
            "policies.a.trainer.epoch: Extra inputs are not permitted",
        ),
        (
            {"policies": {"a": {"aliases": ["m"], "trainer": {"dtype": "bfloat16"}}}},
            "policies.a.trainer.dtype: all policies share one base model",
        ),
        (
            {"policies": {"a": {"aliases": ["m"], "trainer": {"metrics_port": 9002}}}},
            "policies.a.trainer.metrics_port: all policies share one port in a trainer",
        ),
        (
            {"policies": {"a": {"aliases": ["m"], "trainer": {"rank": 32}}}, "serve": True},
            "policies.a.trainer.rank is 32 but engine.max_lora_rank is 16",
        ),
        (
            {"policies": {"a": {"aliases": ["m"]}}, "max_loras": 3},
            "engine.max_loras is 3, but 2 policies need 4",
        ),
        ({"policies": {"A": {"aliases": ["m"]}}}, "should match pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(settings: dict[str, Any], complaint: str) -> None:
    engine = {key: settings.pop(key) for key in ("serve", "max_loras") if key in settings}
    with pytest.raises(ValidationError, match=complaint):
        Settings(engine=engine, **settings)


def test_a_route_may_fall_back_on_a_policys_own_name() -> None:
    settings = Settings(
        policies={"a": {"aliases": ["our-7b"]}},
        upstreams={"big": {"url": "http://big"}},
        routes={"gpt": {"upstream": "big", "fallbacks": ["our-7b"]}},
    )
    assert settings.routes["gpt"].fallbacks == ("our-7b",)


def test_a_whole_model_learns_in_smaller_steps_unless_somebody_says_how_large() -> None:
    assert Settings().trainer.learning_rate == 1e-4
    assert Settings(trainer={"weights": "full"}).trainer.learning_rate == 1e-5
    own = {"weights": "full", "learning_rate": 3e-6}
    assert Settings(trainer=own).trainer.learning_rate == 3e-6
    assert Settings(trainer={"weights": "full"}).with_algorithm("sft").trainer.weights == "full"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"trainer": {"weights": "full"}, "policies": {"a": {"agents": ["a"]}}},
            r"several policies \(policy, a\): an engine has one set of weights",
        ),
        (
            {"policies": {"a": {"agents": ["a"], "trainer": {"weights": "full"}}}},
            r"policies.a.trainer.weights = full",
        ),
        (
            {"trainer": {"weights": "full", "quantization": "4bit"}},
            "set quantization = none, or weights = lora",
        ),
    ],
)
def test_a_whole_model_is_neither_shared_nor_quantised(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings(**settings)
