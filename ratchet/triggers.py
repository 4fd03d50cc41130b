"""What is asked of a running trainer by hand, through Redis: a round, or a rollback.

The trainer serves one trigger at a time and takes it away when it is done or
refused; here it is written and waited for.
"""

import time
from typing import Any

import orjson

from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import NotEnoughRewards, RatchetError
from trajectories.ids import new_id
from trajectories.registry import Registry

ROLL_BACK_SECONDS = 60.0
LOOK_SECONDS = 0.2
_STATUSES_WITHOUT = 2  # one of them may have been written just before the round began


def trainer_status(redis: Redis, policy: str) -> dict[str, Any] | None:
    """What the trainer last said of itself; None when none is running."""
    raw = redis.get(keys.status(policy))
    status: dict[str, Any] | None = orjson.loads(raw) if raw else None
    return status


def request_roll_back(redis: Redis, registry: Registry, policy: str, target: int) -> None:
    """Have the trainer load an unloaded version and promote it; returns when it serves.

    Raises RatchetError, with the trainer's words, when it does not within a minute.
    """
    if trainer_status(redis, policy) is None:
        raise RatchetError(
            f"version {target} is not loaded in the engine and no trainer runs to load it:"
            " start one (`ratchet up`) and try again"
        )
    asked = orjson.dumps({"roll_back": target, "at": time.time()})
    # A rollback goes before whatever round was asked for: that one can be asked for again.
    redis.set(keys.trigger(policy), asked, ex=keys.TRIGGER_TTL_SECONDS)
    deadline = time.monotonic() + ROLL_BACK_SECONDS
    while registry.snapshot().current != target:
        is_dropped = redis.get(keys.trigger(policy)) != asked
        if (is_dropped and registry.snapshot().current != target) or time.monotonic() > deadline:
            status = trainer_status(redis, policy) or {}
            note = status.get("note") or "nothing"
            raise RatchetError(f"version {target} is not serving. The trainer says: {note}")
        time.sleep(LOOK_SECONDS)


def request_round(
    redis: Redis,
    policy: str,
    *,
    algorithm: str | None = None,
    agent: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Have the running trainer do a round now; returns how the run ended.

    Raises NotEnoughRewards when it was refused, RatchetError when another
    request is waiting or took its place, or the trainer went away.
    """
    run_id = new_id("run")
    wishes = {"algo": algorithm, "agent": agent, "force": force}
    asked = orjson.dumps({"run_id": run_id, "at": time.time(), **wishes})
    if not redis.set(keys.trigger(policy), asked, nx=True, ex=keys.TRIGGER_TTL_SECONDS):
        raise RatchetError("another request is waiting for the trainer: try again when it is done")
    without: set[float] = set()  # when the trainer wrote what does not know of our request
    while True:
        is_waiting = redis.get(keys.trigger(policy)) == asked
        status = trainer_status(redis, policy)
        for raw in redis.lrange(keys.runs(policy), 0, -1):
            run: dict[str, Any] = orjson.loads(raw)
            if run["run_id"] == run_id:
                if run["phase"] == "failed" and not run.get("attempts"):
                    raise NotEnoughRewards(run["reason"])
                return run
        if status is None:
            raise RatchetError("the trainer has gone away; it resumes the round when it is back")
        if is_waiting or (status.get("run") or {}).get("run_id") == run_id:
            without.clear()
        else:
            without.add(status["at"])
        if len(without) > _STATUSES_WITHOUT:
            raise RatchetError(
                "the trainer has no round of this request: another request (a rollback) took its"
                " place, or it waited for a day; ask again"
            )
        time.sleep(LOOK_SECONDS)
