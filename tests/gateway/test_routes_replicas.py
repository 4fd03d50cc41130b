"""Replicas of the policy's engine: who is asked, who is watched, and when all is well enough."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest

from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, free_port, wait_for
from trajectories.errors import SettingsError
from trajectories.settings import POLICY


def dead() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_one_living_replica_is_enough_to_be_ready(start: Callable[..., Running]) -> None:
    with FakeVLLM().serve() as fake:
        running = start(fake=fake, upstream={"replicas": (dead(), fake.url)})
        ready = running.client.get("/readyz")
        assert (ready.status_code, ready.json()["upstream"]) == (200, True)
        assert running.client.get("/training/status").json()["vllm_available"] is True


def test_no_living_replica_is_not_ready(start: Callable[..., Running]) -> None:
    running = start(upstream={"replicas": (dead(), dead())})
    assert running.client.get("/readyz").status_code == 503


def test_a_dead_replica_is_noticed_and_what_passes_through_goes_elsewhere(
    start: Callable[..., Running],
) -> None:
    with FakeVLLM().serve() as fake:
        running = start(
            fake=fake, upstream={"url": "http://unused", "replicas": (dead(), fake.url)}
        )
        replicas = running.services.servers[POLICY].replicas
        wait_for(lambda: not replicas[0].is_healthy, 10)
        assert replicas[1].is_healthy
        assert running.client.get("/v1/files").json()["path"] == "/v1/files"
        listed = running.client.get("/v1/models").json()["data"]
        assert [entry["id"] for entry in listed] == ["policy", "base"]
        with FakeVLLM().serve(port=int(replicas[0].url.rpartition(":")[2])):
            wait_for(lambda: replicas[0].is_healthy, 10)


def test_replicas_of_other_vllms_are_watched_and_single_servers_are_not(
    start: Callable[..., Running],
) -> None:
    with FakeVLLM().serve() as fake:
        upstreams = {
            "other": {"kind": "vllm", "replicas": (fake.url, dead())},
            "single": {"kind": "vllm", "url": dead()},
            "plain": {"replicas": (dead(), dead())},
        }
        running = start(fake=fake, upstreams=upstreams)
        servers = running.services.servers
        wait_for(lambda: not servers["other"].replicas[1].is_healthy, 10)
        unwatched = [*servers["single"].replicas, *servers["plain"].replicas]
        assert all(replica.is_healthy for replica in unwatched)


@pytest.mark.skipif(find_spec("litellm") is not None, reason="litellm is installed")
def test_a_provider_without_its_library_stops_the_start(start: Callable[..., Running]) -> None:
    with pytest.raises(SettingsError, match="needs litellm"):
        start(upstreams={"far": {"kind": "litellm", "provider": "openai"}})
