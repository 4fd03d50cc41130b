"""Thumb links: POST /v1/feedback/tokens makes one; GET /f/{token} asks, POST /f/{token} records.

For mail, chat messages and browsers, which must not hold an API key. GET never
writes: scanners of mail and previews in chats open links. The signing key is
`gateway.signing_key`, or one in Redis that all gateways share.
"""

import ipaddress
import secrets
import threading
import time
import uuid
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import ClientDisconnect

from gateway import thumb_pages
from gateway.dialects.chat import parse_object
from gateway.errors import ApiError
from gateway.feedback import AtDesk, By, Raw
from gateway.feedback_body import MAX_DEPTH, invalid, read_feedback
from gateway.feedback_desk import Desk
from gateway.limits import Bucket
from gateway.services import Services
from gateway.thumb_token import MOST_CHARACTERS, BadToken, Thumb, Value, read_token, sign, written
from gateway.wire.bodies import read_body
from gateway.wire.paths import path_ids
from trajectories import keys
from trajectories.connection import RedisError
from trajectories.worth import worth

router = APIRouter()

CLICKS_PER_MINUTE = 10  # of one token from one address
TOKEN_CLICKS_PER_MINUTE = 600  # of one token: it may stand on a page that many read
_REMEMBERED = 20_000  # buckets
_CLICK_BYTES = 1_024
_FRESH_SECONDS = 30.0  # for which a key from Redis is good
_CORS = {"access-control-allow-origin": "*"}
_MONTH = 30 * 86_400


Said = bool | float | Annotated[str, StringConstraints(max_length=256)]


class TokenBody(BaseModel):
    """What is asked for, besides the target."""

    model_config = ConfigDict(strict=True, extra="ignore")

    values: Annotated[list[Said], Field(min_length=1, max_length=10)] = [1.0, -1.0]
    expires_in: Annotated[int, Field(ge=60, le=_MONTH)] = 7 * 86_400  # seconds


class Thumbs:
    """The signing key, and how often a token was used lately."""

    def __init__(self, services: Services) -> None:
        self._services = services
        configured = services.settings.gateway.signing_key
        self._configured = configured.encode() if configured else None
        self._key: tuple[float, bytes] | None = None  # when it was read
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._mutex = threading.Lock()

    def key(self) -> bytes:
        """The key that holds now; raises RedisError when it cannot be known."""
        if self._configured is not None:
            return self._configured
        now = time.monotonic()
        if self._key is not None and now - self._key[0] < _FRESH_SECONDS:
            return self._key[1]
        try:
            self._services.redis.set(keys.SIGNING_KEY, secrets.token_hex(32), nx=True)
            found: Any = self._services.redis.get(keys.SIGNING_KEY)
        except RedisError:
            if self._key is None:
                raise
            return self._key[1]  # the last one that was known
        self._key = (now, bytes(found))
        return self._key[1]

    def wait_seconds(self, token: str, address: str) -> float:
        """0.0 when one more click may pass, else how long until it may."""
        now = time.monotonic()
        with self._mutex:
            own = self._bucket((token, _network(address)), CLICKS_PER_MINUTE, now)
            shared = self._bucket((token, ""), TOKEN_CLICKS_PER_MINUTE, now)
            if wait := max(own.wait_seconds(now), shared.wait_seconds(now)):
                return wait
            own.take(1, now)
            shared.take(1, now)
            return 0.0

    def _bucket(self, name: tuple[str, str], per_minute: int, now: float) -> Bucket:
        bucket = self._buckets.pop(name, None) or Bucket(per_minute, now)
        self._buckets[name] = bucket  # the last one used is the last to go
        if len(self._buckets) > _REMEMBERED:
            del self._buckets[next(iter(self._buckets))]
        return bucket


def _network(address: str) -> str:
    """An address as far as one household has it: whoever has an IPv6 address has 2^64 of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def _thumbs_of(request: Request) -> Thumbs:
    found: Thumbs = request.app.state.thumbs
    return found


AtThumbs = Annotated[Thumbs, Depends(_thumbs_of)]


@router.post("/v1/feedback/tokens")
def make_token(
    request: Request, raw: Raw, thumbs: AtThumbs, desk: AtDesk, caller: By
) -> JSONResponse:
    """A link for one target, one name and a few values."""
    asked = parse_object(raw, MAX_DEPTH)
    try:
        wish = TokenBody.model_validate(asked)
    except ValidationError as error:
        issue = error.errors()[0]
        field = str(issue["loc"][0]) if issue["loc"] else None
        raise invalid(field, f"`{field}`: {issue['msg']}") from error
    body = read_feedback(
        {name: value for name, value in asked.items() if name not in TokenBody.model_fields}
        | {"value": 1.0}
    )
    (vote, *_) = desk.records_of(body, caller, path_ids(request.scope).session, now=0.0)
    fields = {"response_id", "named", "trajectory_id", "step", "within"}
    thumb = Thumb(
        tenant=caller.tenant,
        target={name: getattr(vote, name) for name in fields if getattr(vote, name) is not None},
        name=vote.name,
        values=tuple(wish.values),
        source_type=vote.source.type,
        source_id=vote.source.id,
        key=caller.key_id,
        expires_at=int(time.time()) + wish.expires_in,
    )
    try:
        token = sign(thumb, thumbs.key())
    except RedisError as error:
        message = "the signing key cannot be read now"
        raise ApiError(503, "not_stored", message, retry_after=2) from error
    if len(token) > MOST_CHARACTERS:
        raise invalid("values", "these values make the link too long: fewer, or shorter ones")
    base = (desk.services.settings.gateway.public_url or str(request.base_url)).rstrip("/")
    up, down = written(wish.values[0]), written(wish.values[-1])
    content = {
        "token": token,
        "up_url": f"{base}/f/{token}?v={quote(up, safe='')}",
        "down_url": f"{base}/f/{token}?v={quote(down, safe='')}",
        "expires_at": thumb.expires_at,
    }
    return JSONResponse(content, 201)


@router.get("/f/thumbs.js")
def thumbs_script() -> Response:
    """Two buttons for elements with a `data-ratchet-token`."""
    headers = {
        "cache-control": "public, max-age=3600",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
    }
    return Response(thumb_pages.SCRIPT, media_type="text/javascript", headers=headers)


@router.get("/f/{token}")
def ask_for_click(
    token: str, thumbs: AtThumbs, v: Annotated[str | None, Query()] = None
) -> Response:
    """A page with a button for the value of the link, or for each; writes nothing."""
    thumb = _read(thumbs, token)
    if isinstance(thumb, Response):
        return thumb
    values = thumb.values
    if v is not None:
        value = thumb.allowed(v)
        if value is None:
            return _missing()
        values = (value,)
    shown = [(written(value), thumb_pages.label_of(value, written(value))) for value in values]
    return _page(thumb_pages.ask(token, shown), 200)


async def _click(request: Request) -> str | None:
    """The value that was clicked: in the form, else in the URL."""
    try:
        raw = await read_body(request.scope, request.receive, _CLICK_BYTES)
    except ClientDisconnect:
        raw = b""
    said = parse_qs(raw.decode("utf-8", "replace")).get("v")
    return said[0] if said else request.query_params.get("v")


@router.post("/f/{token}")
def take_click(
    request: Request,
    token: str,
    clicked: Annotated[str | None, Depends(_click)],
    thumbs: AtThumbs,
    desk: AtDesk,
) -> Response:
    """Record the vote of a click; a later one replaces it."""
    is_script = "application/json" in request.headers.get("accept", "")
    thumb = _read(thumbs, token)
    if isinstance(thumb, Response):
        return _for_script(thumb) if is_script else thumb
    address = request.client.host if request.client else ""
    if wait := thumbs.wait_seconds(token, address):
        refused = _page(thumb_pages.sorry("Too many clicks. Try again in a minute."), 429)
        refused.headers["retry-after"] = str(int(wait) + 1)
        return _for_script(refused) if is_script else refused
    value = thumb.allowed(clicked) if clicked is not None else None
    if value is None:
        return _for_script(_missing()) if is_script else _missing()
    try:
        _record(desk, thumb, value)
    except ApiError as error:
        page = _page(thumb_pages.sorry("Your vote could not be kept. Try again."), error.status)
        return _for_script(page) if is_script else page
    page = _page(thumb_pages.thank(), 200)
    return _for_script(page) if is_script else page


@router.options("/f/{token}")
def allow_click(token: str) -> Response:
    """Pages of others may post a click."""
    headers = {
        **_CORS,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type, accept",
        "access-control-max-age": "86400",
    }
    return Response(status_code=204, headers=headers)


def _record(desk: Desk, thumb: Thumb, value: Value) -> None:
    metric = desk.services.settings.rewards.metrics.get(thumb.name)
    vote = thumb.vote(
        value, worth("value", value, metric), feedback_id=str(uuid.uuid4()), at=time.time()
    )
    desk.keep([vote])
    desk.count(vote, "pending")


def _read(thumbs: Thumbs, token: str) -> Thumb | Response:
    """What a token says, or the page for one that is broken or has expired."""
    try:
        thumb = read_token(token, thumbs.key())
    except BadToken:
        return _missing()
    except RedisError:
        return _page(thumb_pages.sorry("Not now. Try again in a minute."), 503)
    if thumb.expires_at < time.time():
        return _page(thumb_pages.sorry("This link has expired."), 410)
    return thumb


def _missing() -> Response:
    return _page(thumb_pages.sorry("There is nothing here."), 404)


def _page(content: str, status: int) -> Response:
    return HTMLResponse(content, status, headers=thumb_pages.HEADERS)


def _for_script(page: Response) -> Response:
    """The same answer for a script on another page: a status, and no page."""
    headers = {**_CORS, "cache-control": "no-store"}
    if "retry-after" in page.headers:
        headers["retry-after"] = page.headers["retry-after"]
    return JSONResponse({"recorded": page.status_code == 200}, page.status_code, headers=headers)
