"""The list of models: what a client may name, in both shapes."""

from typing import Any

import pytest

from gateway.models import model_entry, model_list
from trajectories.registry import Snapshot
from trajectories.resources import PolicyVersion, VersionState

ENTRIES = [
    {"id": "base", "object": "model", "created": 1_700_000_000, "owned_by": "vllm"},
    {"id": 3},
]


def snapshot() -> Snapshot:
    base = PolicyVersion(policy="policy", version=0, model="base", state=VersionState.RETIRED)
    third = PolicyVersion(
        policy="policy",
        version=3,
        model="policy-v3",
        state=VersionState.CURRENT,
        promoted_at=1_700_000_060.5,
    )
    return Snapshot("policy", 7, 3, {0: base, 3: third})


ALIASES = {"policy": snapshot(), "*": snapshot()}


def listed(anthropic: bool = False) -> dict[str, Any]:
    return model_list(ENTRIES, ALIASES, anthropic, routes=("gpt-5", "policy"))


def test_aliases_routes_and_engine_are_listed_once() -> None:
    found = listed()
    assert found["object"] == "list"
    assert [entry["id"] for entry in found["data"]] == ["policy", "gpt-5", "base"]
    assert found["data"][0] == {
        "id": "policy",
        "object": "model",
        "created": 1_700_000_060,
        "owned_by": "ratchet",
        "root": "base",
        "policy": "policy",
        "policy_version": 3,
    }
    assert found["data"][2] is ENTRIES[0]


def test_anthropic_clients_get_their_shape() -> None:
    found = listed(anthropic=True)
    assert found["data"][0] == {
        "type": "model",
        "id": "policy",
        "display_name": "policy",
        "created_at": "2023-11-14T22:14:20Z",
        "lifecycle": "active",
    }
    assert found["data"][1]["created_at"] == "1970-01-01T00:00:00Z"
    assert {k: v for k, v in found.items() if k != "data"} == {
        "has_more": False,
        "first_id": "policy",
        "last_id": "base",
    }
    assert model_list([], {}, True) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_one_model_is_the_same_as_in_the_list() -> None:
    for anthropic in (False, True):
        for entry in listed(anthropic)["data"]:
            arguments = (ENTRIES, ALIASES, anthropic)
            assert model_entry(entry["id"], *arguments, routes=("gpt-5",)) == entry
    assert model_entry("*", ENTRIES, ALIASES, routes=("*",)) is None


@pytest.mark.parametrize("created", [None, "soon", -1, 10**20])
def test_an_engines_odd_date_is_taken_for_none(created: Any) -> None:
    entry = model_entry("x", [{"id": "x", "created": created}], {}, True)
    assert entry is not None
    assert entry["created_at"] == "1970-01-01T00:00:00Z"


def test_anthropics_models_take_ours() -> None:
    types = pytest.importorskip("anthropic.types")
    for entry in listed(anthropic=True)["data"]:
        assert types.ModelInfo.model_validate(entry).id == entry["id"]
