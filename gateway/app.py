"""The app: its parts, its layers, its routes. A table of contents."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gateway import (
    count_tokens,
    feedback,
    feedback_batch,
    health,
    models_routes,
    thumbs,
    training,
    trajectories_routes,
)
from gateway.auth import Authorised
from gateway.clock import stop_calls, tick
from gateway.errors import ApiError
from gateway.feedback_desk import Desk
from gateway.metrics import Measured
from gateway.neighbours import Neighbours
from gateway.passthrough import PassThrough
from gateway.refusals import refusal
from gateway.responses_routes import StoredResponses
from gateway.services import STATE, Services, build_services
from gateway.thumbs import Thumbs
from gateway.upstream import Upstream
from gateway.upstreams.health import watch
from gateway.upstreams.places import watched_replicas
from gateway.upstreams.weights import look_at
from gateway.wire.bodies import ClientLeft
from gateway.wire.paths import PrefixedPaths
from gateway.wire.twin import Twin
from trajectories.connection import AsyncRedis, Redis, connect, connect_async
from trajectories.settings import Settings, load_settings

logger = logging.getLogger(__name__)

_SHIPPING_SECONDS = 10  # what a batch may take longer than a command that somebody waits for
_FIRST_SNAPSHOT_SECONDS = 1.0


def create_app(
    settings: Settings,
    *,
    redis: Redis | None = None,
    shipping: AsyncRedis | None = None,
    upstream: Upstream | None = None,
) -> FastAPI:
    """The gateway as an ASGI app. Its parts are in `app.state.services`.

    Opens the spool under `settings.data_dir`; the lifespan connects, ships
    and, at the end, closes. One app lives once.
    """
    services = build_services(
        settings,
        redis or connect(settings.redis),
        upstream or Upstream(settings.upstream),
        shipping=shipping or connect_async(settings.redis, blocking_seconds=_SHIPPING_SECONDS),
    )
    app = FastAPI(
        title="Ratchet", lifespan=_lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    app.state.services = services
    app.state.desk = Desk(services)
    app.state.thumbs = Thumbs(services)

    # The last one added is the outermost.
    app.add_middleware(Authorised, access=services.access)
    app.add_middleware(PrefixedPaths)
    app.add_middleware(Measured, metrics=services.metrics)
    app.add_middleware(Twin, services=services)

    app.include_router(health.router)
    app.include_router(feedback_batch.router)
    app.include_router(thumbs.router)
    app.include_router(feedback.router)
    app.include_router(trajectories_routes.router)
    app.include_router(training.router)
    app.include_router(models_routes.router)
    app.include_router(count_tokens.router)
    stored = StoredResponses(services)
    app.router.routes += [
        Route("/v1/responses/{id}", stored, methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", stored, methods=["GET"]),
        Route("/v1/responses/{id}/cancel", stored, methods=["POST"]),
        Route("/v1/{rest:path}", PassThrough(services)),
    ]

    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(ClientLeft, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    return app


def app_from_settings() -> FastAPI:
    """The app with settings as `python -m gateway` reads them: for `uvicorn --factory`."""
    return create_app(load_settings())


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Services]]:
    services: Services = app.state.services
    services.shipper.start()
    async with services.upstream:
        # So that the first calls already go to the current version, if Redis is there to ask.
        await services.watcher.try_refresh(_FIRST_SNAPSHOT_SECONDS)
        await services.access.try_refresh(_FIRST_SNAPSHOT_SECONDS)
        watching = asyncio.create_task(services.watcher.run(), name="snapshot")
        checking = asyncio.create_task(services.access.run(), name="access")
        ticking = asyncio.create_task(tick(services), name="clock")
        replicas = watched_replicas(services)
        asking = asyncio.create_task(watch(replicas, services.upstream.is_well), name="health")
        looking = asyncio.create_task(look_at(services.weights), name="weights")
        if services.settings.gateway.workers > 1:
            directory = services.settings.data_dir / "metrics"
            services.neighbours = Neighbours(directory, lambda: health.exposition(services))
            await services.neighbours.open()
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        try:
            yield {STATE: services}
        finally:
            stop_calls(services)
            await _end(watching, checking, ticking, asking, looking)
            for server in services.servers.values():
                await server.closed()
            await services.shipper.stop()
            await asyncio.to_thread(services.responses.close)
            if services.neighbours is not None:
                await services.neighbours.close()
            if services.tracer is not None:
                await asyncio.to_thread(services.tracer.close)
            services.outbox.flush()
            services.spool.close()


async def _end(*tasks: "asyncio.Task[None]") -> None:
    """Cancel background tasks; one that had failed must not keep the rest from closing."""
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Exception):
            logger.error("a background task had failed", exc_info=found)


def _response(request: Request, error: ApiError) -> Response:
    headers, body = refusal(request.scope, error)
    return Response(body, error.status, headers, media_type="application/json")


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _response(request, error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the shape SDKs read."""
    assert isinstance(error, HTTPException)
    code = {404: "unknown_route", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return _response(request, ApiError(error.status_code, code, message, headers=headers))


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    issue = error.errors()[0]
    return _response(
        request, ApiError(422, "bad_value", str(issue["msg"]), param=str(issue["loc"][-1]))
    )


async def _answer_nobody(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # it left; nobody reads this


async def _answer_bug(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error, extra={"path": request.url.path})
    return _response(request, ApiError(500, "internal_error", "the gateway failed; see its log"))
