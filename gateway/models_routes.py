"""GET /v1/models and /v1/models/{id}, and what Azure's clients ask instead."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.errors import ApiError
from gateway.feedback import Shared
from gateway.models import Entry, model_entry, model_list
from gateway.refusals import speaks_anthropic
from gateway.services import Services
from gateway.upstreams.places import place_of
from trajectories.settings import POLICY

router = APIRouter()
_READING = ["GET", "HEAD"]


@router.api_route("/v1/models", methods=_READING)
@router.api_route("/v1/deployments", methods=_READING)
async def list_models(request: Request, services: Shared) -> JSONResponse:
    """What a client may name."""
    table, snapshot = services.table, services.watcher.snapshot
    entries = await _served(services)
    anthropic = speaks_anthropic(request.scope)
    return JSONResponse(model_list(entries, table.aliases, snapshot, anthropic, routes=table.names))


@router.api_route("/v1/models/{name:path}", methods=_READING)
@router.api_route("/v1/deployments/{name:path}", methods=_READING)
async def show_model(request: Request, name: str, services: Shared) -> JSONResponse:
    """One of them."""
    table, snapshot = services.table, services.watcher.snapshot
    entries = [] if name in table.names else await _served(services)
    anthropic = speaks_anthropic(request.scope)
    entry = model_entry(name, entries, table.aliases, snapshot, anthropic, routes=table.names)
    if entry is None:
        raise ApiError(404, "model_not_found", f"there is no model {name[:200]}", param="model")
    return JSONResponse(entry)


async def _served(services: Services) -> list[Entry]:
    """The engine's own list; nothing while it does not answer."""
    try:
        place = place_of(services, POLICY)
        status, found = await services.upstream.ask("GET", place, "/v1/models")
    except ApiError:
        return []
    entries: Any = found.get("data") if status == 200 else None
    return [entry for entry in entries or [] if isinstance(entry, dict)]
