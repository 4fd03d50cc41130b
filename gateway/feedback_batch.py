"""POST /v1/feedback/batch: many votes at once, each with its own answer.

Not atomic: an item that is refused does not keep the others out. Those that are
accepted go to the spool together. Each carries its own id, or is known by its
target, name and source, so the whole batch may be sent again.
"""

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from gateway.access import Caller
from gateway.dialects.chat import parse_object
from gateway.errors import ApiError, bad_request, error_object
from gateway.feedback import AtDesk, By
from gateway.feedback_body import MAX_BYTES, MAX_DEPTH, invalid, read_feedback
from gateway.feedback_desk import Answer, Desk
from gateway.wire.bodies import read_body, too_large
from gateway.wire.paths import path_ids
from trajectories.connection import RedisError

router = APIRouter()

MOST_ITEMS = 1_000
MOST_BYTES = 8 * 1024 * 1024


async def _raw_batch(request: Request) -> bytes:
    return await read_body(request.scope, request.receive, MOST_BYTES)


@router.post("/v1/feedback/batch")
def post_batch(
    request: Request, raw: Annotated[bytes, Depends(_raw_batch)], desk: AtDesk, caller: By
) -> JSONResponse:
    """Take up to 1,000 votes: a JSON array, or one object on each line."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    items = _lines(raw) if kind == "application/x-ndjson" else _entries(raw)
    if len(items) > MOST_ITEMS:
        message = f"a batch holds {MOST_ITEMS} items at most, and this one {len(items)}"
        raise ApiError(413, "too_large", message)
    answers = _Answers(desk, caller, path_ids(request.scope).session)
    for index, item in enumerate(items):
        answers.take(index, item)
    answers.keep()
    accepted = sum("error" not in result for result in answers.results)
    return JSONResponse(
        {
            "accepted": accepted,
            "rejected": len(answers.results) - accepted,
            "results": answers.results,
        }
    )


class _Answers:
    """The answers to a batch, in its order."""

    def __init__(self, desk: Desk, caller: Caller, session: str | None) -> None:
        self._desk = desk
        self._caller = caller
        self._session = session
        self._now = time.time()
        self._has_redis = True
        self._accepted: list[Answer] = []
        self._digests: dict[str, tuple[str, dict[str, Any]]] = {}
        self.results: list[dict[str, Any]] = []

    def take(self, index: int, item: bytes | ApiError) -> None:
        """Answer one item; what is accepted is kept later."""
        try:
            if isinstance(item, ApiError):
                raise item
            self.results.append({"index": index, **self._consider(index, item)})
        except ApiError as error:
            content = error_object(error.status, error.code, error.message, error.param)
            self.results.append({"index": index, "status": error.status, **content})

    def keep(self) -> None:
        """Bring what was accepted to the spool, in as few writes as possible."""
        votes = [record for answer in self._accepted for record in answer.records]
        if votes:
            self._desk.keep(votes)
        for answer in self._accepted:
            self._desk.count(answer.records[0], answer.content["status"])

    def _consider(self, index: int, item: bytes) -> dict[str, Any]:
        if len(item) > MAX_BYTES:
            raise too_large(MAX_BYTES)
        body = read_feedback(parse_object(item, MAX_DEPTH))
        now = self._now + index / 1e6  # later ones replace earlier ones
        try:
            answer = self._answer(body, now)
        except RedisError:
            self._has_redis = False
            answer = self._answer(body, now)
        if answer.records:
            vote = answer.records[0]
            # The same id twice in one batch: the store knows of neither yet.
            known = self._digests.setdefault(vote.id, (vote.digest, answer.content))
            if known[0] != vote.digest:
                raise invalid("id", f"the id {vote.id} was used for other feedback", "id_reused")
            if known[1] is not answer.content:
                return _result(200, known[1])
            self._accepted.append(answer)
        return _result(answer.status, answer.content)

    def _answer(self, body: Any, now: float) -> Answer:
        return self._desk.consider(
            body,
            self._caller,
            path_session=self._session,
            has_redis=self._has_redis,
            is_brief=True,
            now=now,
        )


def _result(status: int, content: dict[str, Any]) -> dict[str, Any]:
    """An answer as a line of the batch's: `status` is HTTP's, and `state` is the vote's."""
    return {**content, "state": content["status"], "status": status}


def _lines(raw: bytes) -> list[bytes | ApiError]:
    return [line for line in raw.split(b"\n") if line.strip()]


def _entries(raw: bytes) -> list[bytes | ApiError]:
    try:
        entries = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the batch is not valid JSON: {error}", code="bad_json") from error
    if not isinstance(entries, list):
        message = "a batch is a JSON array (or one object on each line, as application/x-ndjson)"
        raise bad_request(message, code="bad_json")
    return [_encoded(entry) for entry in entries]


def _encoded(entry: Any) -> bytes | ApiError:
    try:
        return orjson.dumps(entry)
    except orjson.JSONEncodeError:  # nested deeper than can be written
        return bad_request(f"the item is nested deeper than {MAX_DEPTH} levels", code="bad_json")
