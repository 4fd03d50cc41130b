"""Where requests go that are not calls of a model: which replica of which upstream, as whom."""

import asyncio
import time

from gateway.services import Services
from gateway.upstream import Place
from gateway.upstreams.balance import Replica
from trajectories.settings import POLICY, Dialect


def place_of(services: Services, name: str) -> Place:
    """A replica of the upstream of that name that may be asked."""
    url = services.servers[name].address(time.monotonic())
    if name == POLICY:
        return Place(url, services.settings.upstream.api_key)
    upstream = services.settings.upstreams[name]
    return Place(url, upstream.api_key, is_anthropic=upstream.kind == "anthropic")


def native_places(services: Services, dialect: Dialect) -> list[Place]:
    """One replica of each upstream that speaks `dialect` itself, but for the policy's engine."""
    upstreams = services.settings.upstreams.items()
    return [place_of(services, name) for name, one in upstreams if dialect in one.spoken]


async def is_serving(services: Services) -> bool:
    """Whether a replica of the policy's engine says that it is well, within two seconds."""
    asked = [services.upstream.is_well(one.url) for one in services.servers[POLICY].replicas]
    return any(await asyncio.gather(*asked))


def watched_replicas(services: Services) -> list[Replica]:
    """Every replica of a vLLM that has others beside it."""
    others = services.settings.upstreams
    return [
        replica
        for name, server in services.servers.items()
        if (name == POLICY or others[name].kind == "vllm") and len(server.replicas) > 1
        for replica in server.replicas
    ]
