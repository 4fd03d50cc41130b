"""Rollouts at the door: who may say that a call is one, and of what. Pure."""

from collections.abc import Iterable

from gateway.access import ROLLOUT, Caller
from gateway.errors import ApiError
from gateway.upstreams.table import Target
from trajectories.rollouts import HEADER, MOST_ANSWERS, Rollout


def rollout_of(written: bytes, caller: Caller) -> Rollout:
    """What the header says, sent by this caller.

    Raises ApiError: 403 when its key may not say that, or speaks for another
    tenant; 400 when it is not written as such a thing is.
    """
    if ROLLOUT not in caller.scopes:
        message = f"the header {HEADER} needs an API key with the scope `{ROLLOUT}`"
        raise ApiError(403, "wrong_scope", message, param=HEADER)
    rollout = Rollout.parse(written.decode("latin-1").strip())
    if rollout is None:
        message = f"{HEADER} is TENANT/TRANSITION/NUMBER, with a number below {MOST_ANSWERS}"
        raise ApiError(400, "bad_rollout", message, param=HEADER)
    if rollout.tenant != caller.tenant:
        message = "a sibling is asked for with a key of the tenant whose prompt it answers"
        raise ApiError(403, "wrong_tenant", message, param=HEADER)
    return rollout


def engines_among(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Where a sibling is asked for: of the policy's own engine, and of no fallback that is paid.

    Raises ApiError 400 when a model's name leads to others alone.
    """
    found = tuple(target for target in targets if target.is_policy)
    if not found:
        message = "a sibling is an answer of a policy, and this model is none"
        raise ApiError(400, "bad_rollout", message, param="model")
    return found
