"""Paths: every way a client writes a route leads to the one that exists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.attribution import PathIds
from gateway.errors import ApiError
from gateway.wire.paths import is_base, split_path, without_api_version

PREFIXES = ("", "/t/s1", "/a/sup", "/a/sup/t/s1")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("path", "deployment", "expected"),
    [
        ("/openai/deployments/gpt-4o/chat/completions", "gpt-4o", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/completions", "gpt-4o", "/v1/completions"),
        ("/openai/deployments/e5/embeddings", "e5", "/v1/embeddings"),
        ("/openai/deployments/w/audio/transcriptions", "w", "/v1/audio/transcriptions"),
        ("/openai/deployments/org%2Fmodel/completions", "org/model", "/v1/completions"),
        ("/openai/deployments/gpt-4o", None, "/v1/deployments/gpt-4o"),
        ("/openai/responses", None, "/v1/responses"),
        ("/openai/responses/resp_1/input_items", None, "/v1/responses/resp_1/input_items"),
        ("/openai/models", None, "/v1/models"),
        ("/openai/v1/chat/completions", None, "/v1/chat/completions"),
        ("/openai/v1/v1/models/", None, "/v1/models"),
        ("/chat/completions", None, "/v1/chat/completions"),
        ("/responses", None, "/v1/responses"),
        ("/responses/compact", None, "/v1/responses/compact"),
        ("/messages", None, "/v1/messages"),
        ("/messages/count_tokens", None, "/v1/messages/count_tokens"),
        ("/moderations", None, "/v1/moderations"),
        ("/v1/v1/messages", None, "/v1/messages"),
        ("/v1/openai/models", None, "/v1/openai/models"),
        ("/health", None, "/health"),
    ],
)
def test_each_way_to_write_a_route_leads_to_it(
    prefix: str, path: str, deployment: str | None, expected: str
) -> None:
    agent = "sup" if "/a/" in prefix else None
    session = "s1" if "/t/" in prefix else None
    ids = PathIds(session=session, agent=agent, deployment=deployment)
    assert split_path(prefix + path) == (ids, expected)


def test_an_admin_route_of_the_engine_keeps_its_name_on_azures_paths() -> None:
    # So that the check of canonical paths sees it.
    assert split_path("/openai/load_lora_adapter")[1] == "/v1/load_lora_adapter"
    path = "/openai/deployments/x/load_lora_adapter"
    assert split_path(path)[1] == "/v1/load_lora_adapter"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/openai", "/openai/v1/", "/v1/v1"])
def test_a_base_path_is_told_from_a_route(prefix: str, path: str) -> None:
    assert is_base(prefix + path)
    assert not is_base(f"{prefix}{path.rstrip('/')}/chat/completions")


def test_health_and_half_a_prefix_are_no_base_paths() -> None:
    assert not any(map(is_base, ("/health", "/t", "/a/x/y", "/v2", "/v1/models")))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"api-version=2024-10-21", b""),
        (b"a=1&api-version=preview&b=%20c", b"a=1&b=%20c"),
        (b"my-api-version=1&a", b"my-api-version=1&a"),
        (b"", b""),
    ],
)
def test_azures_version_stays_here(query: bytes, expected: bytes) -> None:
    assert without_api_version(query) == expected


SEGMENTS = st.sampled_from(
    ["", "a", "t", "s1", "v1", "openai", "deployments", "chat", "completions", "models", "%2F", "."]
)


PATHS = st.lists(SEGMENTS, max_size=8).map("/".join).map("/{}".format)


@given(PATHS.filter(lambda path: "//" not in path))
def test_a_canonical_path_is_canonical(path: str) -> None:
    try:
        ids, canonical = split_path(path)
    except ApiError:
        return
    assert canonical.startswith("/")
    assert not canonical.startswith("/v1/v1")
    if ids == PathIds() and not canonical.startswith(("/a/", "/t/", "/openai")):
        assert split_path(canonical)[1] == canonical
