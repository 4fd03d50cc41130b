"""Is it alive, is it ready, and what does it count: /healthz, /readyz, /metrics.

Liveness asks nobody: a gateway without Redis still serves and must not be
killed for it. Readiness needs the engine, and says "degraded" when records
have to wait.
"""

import asyncio
import contextlib
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.feedback import Shared
from gateway.services import Services
from gateway.upstreams.places import is_serving
from trajectories.connection import RedisError

router = APIRouter()


@router.get("/healthz")
async def live() -> JSONResponse:
    return JSONResponse({"status": "live"})


@router.get("/readyz")
async def ready(services: Shared) -> JSONResponse:
    """200 when calls can be answered; "degraded" when learning cannot keep up."""
    is_engine_well = await is_serving(services)
    is_recording = not (services.recorder.is_failing or services.spool.is_full)
    has_redis = services.watcher.is_connected
    is_recording_enough = is_recording or services.settings.gateway.durability != "required"
    is_ready = is_engine_well and is_recording_enough
    status = "not ready" if not is_ready else "ready" if is_recording and has_redis else "degraded"
    content: dict[str, Any] = {
        "status": status,
        "upstream": is_engine_well,
        "spool": is_recording,
        "redis": has_redis,
        "gateway": services.gateway_id,
    }
    return JSONResponse(content, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(services: Shared) -> Response:
    """For Prometheus, all processes of this gateway together."""
    neighbours = services.neighbours
    content = exposition(services) if neighbours is None else await neighbours.render_all()
    with contextlib.suppress(RedisError):  # then nobody knows
        content += await asyncio.to_thread(_of_store, services)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _of_store(services: Services) -> bytes:
    store = services.store
    expired = int(store.counts()["expired"])
    return services.metrics.render_store(pending=store.count_pending(), expired=expired)


def exposition(services: Services) -> bytes:
    """What this process counts. Gauges are read now; all else was counted as it happened."""
    found = services.metrics
    found.in_flight.clear()
    for policy in services.policies:
        for version, count in policy.in_flight.by_version().items():
            found.in_flight.labels(policy.name, str(version)).set(count)
        found.revision.labels(policy.name).set(policy.snapshot.revision)
    found.spool_unshipped.set(services.spool.unshipped)
    found.spool_bytes.set(services.spool.size_bytes)
    return found.render()


@router.head("/")
async def base() -> Response:
    """Some clients probe their base URL before they have a key."""
    return Response()
