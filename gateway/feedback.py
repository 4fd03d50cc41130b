"""Feedback and what became of it: POST, GET and DELETE under /v1/feedback.

Plain functions: FastAPI runs them in threads.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from gateway.access import Caller
from gateway.attribution import clean_id
from gateway.auth import caller_of
from gateway.feedback_body import MAX_BYTES, FeedbackBody, invalid, parse_feedback
from gateway.feedback_desk import Answer, Desk, no_redis, unknown_feedback
from gateway.services import Services
from gateway.wire.bodies import read_body
from gateway.wire.paths import path_ids
from trajectories.connection import RedisError
from trajectories.ids import trajectory_id
from trajectories.store import Cursor, Item, Store, TrajectoryRef

router = APIRouter()

STATUSES = ("attached", "pending", "retracted", "expired")
MOST_LISTED = 500
_MOST_LOOKED_AT = 2_000  # by one request; the cursor goes on from there
_LOOKED_AT_ONCE = 200


async def raw_body(request: Request) -> bytes:
    """The body as bytes, under the limit of one item."""
    return await read_body(request.scope, request.receive, MAX_BYTES)


def services_of(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def desk_of(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


Raw = Annotated[bytes, Depends(raw_body)]
Shared = Annotated[Services, Depends(services_of)]
AtDesk = Annotated[Desk, Depends(desk_of)]
By = Annotated[Caller, Depends(caller_of)]
Text = Annotated[str | None, Query()]


@router.post("/v1/feedback")
def post_feedback(
    request: Request, raw: Raw, desk: AtDesk, caller: By, strict: Text = None
) -> JSONResponse:
    """Take one vote. It can only ever find what its caller's tenant recorded."""
    body = with_header_id(parse_feedback(raw), request)
    session = path_ids(request.scope).session
    is_strict = strict not in (None, "", "0", "false")
    try:
        answer = desk.consider(body, caller, path_session=session, is_strict=is_strict)
    except RedisError as error:
        if is_strict:
            raise no_redis() from error
        # Whether it has a target is found out later, on the way.
        answer = desk.consider(body, caller, path_session=session, has_redis=False)
    return accepted(desk, answer)


def accepted(desk: Desk, answer: Answer) -> JSONResponse:
    """Keep what there is to keep of an answer, count it and give it."""
    if answer.records:
        desk.keep(list(answer.records))
        desk.count(answer.records[0], answer.content["status"])
    return JSONResponse(answer.content, answer.status)


def with_header_id(body: FeedbackBody, request: Request) -> FeedbackBody:
    """The body with the id that the header names, unless it has one."""
    key = request.headers.get("idempotency-key")
    if body.id is not None or not key:
        return body
    if len(key) > 512:
        raise invalid("Idempotency-Key", "`Idempotency-Key` has 512 characters at most")
    return body.model_copy(update={"id": key})


@router.get("/v1/feedback")
def list_feedback(
    request: Request,
    services: Shared,
    desk: AtDesk,
    caller: By,
    session_id: Text = None,
    task_id: Text = None,
    trajectory_id: Text = None,
    name: Text = None,
    source: Text = None,
    status: Text = None,
    after: Text = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
) -> JSONResponse:
    """Votes of the tenant, newest first; `next` is the cursor to go on from, or null."""
    if status is not None and status not in STATUSES:
        raise invalid("status", f"`status` is one of {', '.join(STATUSES)}")
    try:
        cursor = Cursor.parse(after) if after else None
    except ValueError as error:
        raise invalid("after", "`after` is a cursor that a list gave as `next`") from error
    session = clean_id(session_id) or path_ids(request.scope).session
    wanted = _wanted(caller.tenant, trajectory_id, session, clean_id(task_id))
    try:
        ids = _ids_of(services.store, caller.tenant, wanted)
        found: list[dict[str, Any]] = []
        looked_at = 0
        is_more = True
        while is_more and len(found) < limit and looked_at < _MOST_LOOKED_AT:
            places = services.store.votes_before(caller.tenant, cursor, _LOOKED_AT_ONCE)
            is_more = len(places) == _LOOKED_AT_ONCE
            items = {
                item.id: item
                for item in services.store.items(caller.tenant, [place.id for place in places])
            }
            for place in places:
                if len(found) == limit:
                    is_more = True
                    break
                cursor = place
                item = items.get(place.id)
                if item is not None and _is_wanted(item, ids, name, source, status):
                    found.append(desk.view(item, is_brief=True))
            looked_at += len(places)
        return JSONResponse({"data": found, "next": str(cursor) if is_more else None})
    except RedisError as error:
        raise no_redis() from error


@router.get("/v1/feedback/{feedback_id:path}")
def get_feedback(feedback_id: str, services: Shared, desk: AtDesk, caller: By) -> JSONResponse:
    """One vote as it was posted, what became of it, and those it replaced or was replaced by."""
    try:
        item = services.store.item(caller.tenant, feedback_id)
        if item is None:
            raise unknown_feedback(feedback_id)
        return JSONResponse({**desk.view(item), "history": desk.history(item)})
    except RedisError as error:
        raise no_redis() from error


@router.delete("/v1/feedback/{feedback_id:path}")
def delete_feedback(feedback_id: str, desk: AtDesk, caller: By) -> JSONResponse:
    """Take a vote back. What it said is erased; a second time changes nothing."""
    if not 0 < len(feedback_id) <= 512:
        raise unknown_feedback(feedback_id[:64])
    answer = desk.retract(caller, feedback_id)
    return JSONResponse(answer.content, answer.status)


def _wanted(tenant: str, named: str | None, session: str | None, task: str | None) -> str | None:
    if named is not None:
        return named
    if session is None and task is None:
        return None
    return trajectory_id(tenant, session=session, task=task)


def _ids_of(store: Store, tenant: str, wanted: str | None) -> frozenset[str] | None:
    """A trajectory's id and the one it is recorded under; None: any will do."""
    if wanted is None:
        return None
    ref = store.locate(TrajectoryRef(tenant, wanted))
    return frozenset({wanted, ref.id} if ref is not None else {wanted})


def _is_wanted(
    item: Item,
    trajectories: frozenset[str] | None,
    name: str | None,
    source: str | None,
    status: str | None,
) -> bool:
    vote = item.vote
    if vote is None or status not in (None, item.status) or name not in (None, vote.name):
        return False
    if source not in (None, vote.source.type, vote.source.id):
        return False
    return trajectories is None or bool(
        trajectories & {vote.trajectory_id, item.ref.id if item.ref else None}
    )
