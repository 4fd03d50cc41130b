"""GET /v1/models and /v1/models/{id}, and what Azure's clients ask instead."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.errors import ApiError
from gateway.feedback import By, Shared
from gateway.models import Entry, model_entry, model_list
from gateway.refusals import speaks_anthropic
from gateway.services import Services
from gateway.upstreams.places import place_of
from trajectories.registry import Snapshot
from trajectories.settings import POLICY

router = APIRouter()
_READING = ["GET", "HEAD"]


@router.api_route("/v1/models", methods=_READING)
@router.api_route("/v1/deployments", methods=_READING)
async def list_models(request: Request, services: Shared, caller: By) -> JSONResponse:
    """What a client may name."""
    entries, names = await _served(services), services.table.names
    aliases = _aliases(services, caller.tenant)
    anthropic = speaks_anthropic(request.scope)
    return JSONResponse(model_list(entries, aliases, anthropic, routes=names))


@router.api_route("/v1/models/{name:path}", methods=_READING)
@router.api_route("/v1/deployments/{name:path}", methods=_READING)
async def show_model(request: Request, name: str, services: Shared, caller: By) -> JSONResponse:
    """One of them."""
    names = services.table.names
    entries = [] if name in names else await _served(services)
    aliases = _aliases(services, caller.tenant)
    anthropic = speaks_anthropic(request.scope)
    entry = model_entry(name, entries, aliases, anthropic, routes=names)
    if entry is None:
        raise ApiError(404, "model_not_found", f"there is no model {name[:200]}", param="model")
    return JSONResponse(entry)


def _aliases(services: Services, tenant: str) -> dict[str, Snapshot]:
    """Everybody's aliases, and those of the tenant's own policies, with what they mean to it."""
    policies, names = services.policies, services.table.aliases
    whole = {name: policies.answering(name, tenant, None) or policies.default for name in names}
    own = {name: policy for policy in policies.of_tenant(tenant) for name in policy.aliases}
    return {name: policy.snapshot for name, policy in {**own, **whole}.items()}


async def _served(services: Services) -> list[Entry]:
    """The engine's own list without adapters; nothing while it does not answer."""
    try:
        place = place_of(services, POLICY)
        status, found = await services.upstream.ask("GET", place, "/v1/models")
    except ApiError:
        return []
    entries: Any = found.get("data") if status == 200 else None
    is_adapter = services.policies.is_adapter
    return [
        entry
        for entry in entries or []
        if isinstance(entry, dict) and not is_adapter(entry.get("id"))
    ]
