"""GET /training/status and POST /training/trigger: the trainer, seen from the gateway.

The trainer is another process. It says how it is under one Redis key and reads
what is asked of it under another; there is no other way between the two.
"""

import asyncio
import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from gateway.dialects.chat import parse_object
from gateway.errors import ApiError
from gateway.feedback import By, Raw, Shared, Text
from gateway.feedback_body import invalid
from gateway.policies import Served
from gateway.services import Services
from gateway.training_status import learning_of, policy_of, totals_of
from gateway.upstreams.places import is_serving
from trajectories import keys
from trajectories.connection import RedisError
from trajectories.ids import new_id
from trajectories.queues import is_attended, verdict_queue
from trajectories.settings.trainer import joined

router = APIRouter()


def _joined(written: Any) -> Any:
    return None if written is None else joined(written)


class Trigger(BaseModel):
    """What may be asked of the trainer."""

    model_config = ConfigDict(strict=True, extra="ignore")

    policy: str | None = None  # unset: the one for all agents of the caller's tenant
    algo: Annotated[str | None, BeforeValidator(_joined)] = None  # a name, or a list of them
    agent: str | None = None  # of this agent's calls alone
    force: bool = False
    dry_run: bool = False


@router.get("/training/status")
async def training_status(services: Shared, caller: By, policy: Text = None) -> JSONResponse:
    """How learning goes, as far as it can be seen from here and concerns the caller's tenant."""
    own = services.policies.of_tenant(caller.tenant)
    chosen = policy_named(own, policy) if policy is not None else next(iter(own), None)
    is_engine_well = await is_serving(services)
    try:
        content = await asyncio.to_thread(_learning, services, caller.tenant, chosen)
    except RedisError:
        content = {
            "redis_available": False,
            "trainer_available": False,
            "judge_available": False,
        }
    content["vllm_available"] = is_engine_well
    if chosen is not None:
        content["policy"] = policy_of(chosen.snapshot)
        content["policies"] = [policy_of(other.snapshot) for other in own]
    return JSONResponse(content)


@router.post("/training/trigger", status_code=202)
def trigger_training(raw: Raw, services: Shared, caller: By) -> JSONResponse:
    """Ask for a round now."""
    wish = _parse(raw)
    own = services.policies.of_tenant(caller.tenant)
    if not own:
        message = "the policy here learns from another tenant's traffic: its keys start a round"
        raise ApiError(403, "wrong_tenant", message)
    policy = policy_named(own, wish.policy) if wish.policy is not None else own[0]
    needed = policy.settings.trainer.min_trajectories
    try:
        status = trainer_status(services, policy.name)
        have = services.store.count_trainable(policy.name)
        queued = queued_run(services, policy.name)
    except RedisError as error:
        raise _no_redis() from error
    if status is None:
        message = "no trainer is running: start one with `python -m trainer`"
        raise ApiError(503, "no_trainer", message, headers={"x-should-retry": "false"})
    _check_algorithm(wish.algo, status)
    running = (status.get("run") or {}).get("run_id") or queued
    if running is not None:
        return JSONResponse({"run_id": running, "status": "already_running"}, 202)
    if have < needed and not wish.force:
        message = f"{have} of {needed} rewarded trajectories are there; `force` trains on those"
        details = {"have": have, "needed": needed, "lacking": status.get("lacking", [])}
        raise ApiError(422, "not_enough_data", message, details=details)
    if wish.dry_run:
        return JSONResponse({"run_id": new_id("run"), "status": "dry_run"}, 202)
    try:
        run_id, is_new = _queue(services, policy, wish)
    except RedisError as error:
        raise _no_redis() from error
    return JSONResponse(
        {"run_id": run_id, "status": "queued" if is_new else "already_running"}, 202
    )


def policy_named(own: list[Served], name: str) -> Served:
    """That one of a tenant's policies. Raises ApiError 404, naming those that there are."""
    for policy in own:
        if policy.name == name:
            return policy
    known = ", ".join(policy.name for policy in own) or "none"
    message = f"no policy `{name[:200]}` learns from your traffic (those that do: {known})"
    raise ApiError(404, "unknown_policy", message, param="policy")


def queued_run(services: Services, policy: str) -> str | None:
    """The run that was asked for and has not begun; None when there is none."""
    raw = services.redis.get(keys.trigger(policy))
    return str(orjson.loads(raw).get("run_id")) if raw else None


def _queue(services: Services, policy: Served, wish: Trigger) -> tuple[str, bool]:
    """Ask for a round unless one is asked for: the run that stands, and whether it is this one."""
    run_id = new_id("run")
    wanted = {
        "run_id": run_id,
        "algo": wish.algo or policy.settings.trainer.algorithm,
        "agent": wish.agent,
        "force": wish.force,
        "at": time.time(),
    }
    key, content = keys.trigger(policy.name), orjson.dumps(wanted)
    if services.redis.set(key, content, nx=True, ex=keys.TRIGGER_TTL_SECONDS):
        return run_id, True
    return queued_run(services, policy.name) or run_id, False


def _check_algorithm(asked: str | None, status: dict[str, Any]) -> None:
    """Refuse what the trainer said it has not; which ones it has depends on where it runs."""
    known = status.get("algorithms", [])
    unknown = [name for name in asked.split("+") if name not in known] if asked else []
    if known and unknown:
        message = f"`algo`: the trainer has no {', '.join(unknown)} (it has: {', '.join(known)})"
        raise invalid("algo", message)


def _no_redis() -> ApiError:
    return ApiError(503, "no_redis", "Redis cannot be reached now", retry_after=2)


def _parse(raw: bytes) -> Trigger:
    body = parse_object(raw, 32) if raw.strip() else {}
    try:
        return Trigger.model_validate(body)
    except ValidationError as error:
        issue = error.errors()[0]
        field = str(issue["loc"][0]) if issue["loc"] else None
        raise invalid(field, f"`{field}`: {issue['msg']}") from error


def trainer_status(services: Services, policy: str) -> dict[str, Any] | None:
    """What a policy's trainer last said of itself; None when it is not running."""
    raw = services.redis.get(keys.status(policy))
    found = orjson.loads(raw) if raw else None
    return found if isinstance(found, dict) else None


def _learning(services: Services, tenant: str, policy: Served | None) -> dict[str, Any]:
    store, settings = services.store, services.settings
    status = trainer_status(services, policy.name if policy else settings.policy)
    totals = totals_of(store.totals(tenant))
    content: dict[str, Any] = {
        "redis_available": True,
        "trainer_available": status is not None,
        "judge_available": bool(settings.judges)
        and is_attended(verdict_queue(services.redis, job_timeout_seconds=1)),
        **totals,
        "pending_feedback": store.count_pending(tenant),
        "unshipped_records": services.spool.unshipped,
    }
    if policy is not None:
        content |= learning_of(
            status,
            queued=queued_run(services, policy.name),
            trainable=store.count_trainable(policy.name),
            needed=policy.settings.trainer.min_trajectories,
            versions=totals["versions"],
        )
    return content
