"""POST /v1/messages/count_tokens: by the policy's own tokenizer, or by who will answer.

An engine of ours counts the chat form of the request, as that is what it would
be asked. Adapters share the base model's tokenizer, so the base model is asked,
which is always loaded.
"""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from gateway.access import Caller
from gateway.dialects.messages import count_tokens_body, parse_messages
from gateway.errors import ApiError
from gateway.feedback import By, Shared, services_of
from gateway.services import Services
from gateway.upstream import UpstreamCut, response_headers
from gateway.upstreams.places import place_of
from gateway.upstreams.table import Target
from gateway.wire.bodies import read_body

router = APIRouter()
_SECONDS = 30.0


async def _raw_body(request: Request) -> bytes:
    limit = services_of(request).max_body_bytes
    return await read_body(request.scope, request.receive, limit)


@router.post("/v1/messages/count_tokens")
async def count_tokens(
    request: Request, raw: Annotated[bytes, Depends(_raw_body)], services: Shared, caller: By
) -> Response:
    """`{"input_tokens": n}`."""
    body = parse_messages(raw)
    caller.check_model(body["model"])
    for target in services.table.targets(body["model"], "messages"):
        if target.kind == "vllm":
            return await _count(services, target, body, caller)
        if target.is_native:
            return await _pass(services, target, request, body)
    message = f"nothing behind `{body['model']}` counts tokens"
    raise ApiError(400, "unsupported_dialect", message, param="model")


async def _count(
    services: Services, target: Target, body: dict[str, Any], caller: Caller
) -> Response:
    model = target.model
    if target.is_policy:
        policies = services.policies
        policy = policies.answering(model, caller.tenant, None) or policies.default
        model = policy.tokenizing(model)
    asked = {**count_tokens_body(body), "model": model}
    place = place_of(services, target.upstream)
    status, found = await services.upstream.ask("POST", place, "/tokenize", asked, seconds=_SECONDS)
    count = found.get("count")
    if status != 200 or type(count) is not int:
        raise _refusal(status, orjson.loads(services.redactor.without_known(orjson.dumps(found))))
    return JSONResponse({"input_tokens": count})


def _refusal(status: int, found: dict[str, Any]) -> ApiError:
    """What the engine said instead of a number."""
    error = found.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    message = str(said or f"the engine does not count: it said {status}")[:500]
    if status in (400, 404, 413, 422):
        return ApiError(status, "upstream_error", message)
    return ApiError(502, "upstream_error", message, retry_after=1)


async def _pass(
    services: Services, target: Target, request: Request, body: dict[str, Any]
) -> Response:
    """Asked of an upstream that speaks the dialect; its answer is the client's."""
    query = request.scope.get("query_string", b"").decode("latin-1")
    answer = await services.upstream.request(
        "POST",
        place_of(services, target.upstream),
        request.scope["path"] + (f"?{query}" if query else ""),
        headers=request.scope["headers"],
        body=orjson.dumps({**body, "model": target.model}),
        first_byte_seconds=_SECONDS,
    )
    try:
        content = await services.upstream.read_all(answer)
    except UpstreamCut as error:
        message = "the upstream broke off in the middle of its answer"
        raise ApiError(502, "upstream_broke_off", message, retry_after=1) from error
    finally:
        answer.release()
    if answer.status >= 400:  # it may quote the key it was asked with
        content = services.redactor.without_known(content)
    response = Response(content, answer.status)
    response.raw_headers.extend(response_headers(answer))
    return response
