"""One trainer per policy: a second one refuses, a dead one is succeeded."""

import subprocess
import sys

import orjson
import pytest

from tests.trainer.conftest import LoopMaker
from trajectories import keys
from trajectories.connection import Redis
from trajectories.lease import Lease, LeaseHeld, LeaseLost, _here


def test_a_second_trainer_refuses_and_names_the_first(make_loop: LoopMaker) -> None:
    with make_loop(), pytest.raises(LeaseHeld, match=r"another trainer holds .*process \d+ on"):
        make_loop().__enter__()
    with make_loop():
        pass  # given back


def test_a_trainer_killed_on_this_machine_is_succeeded_at_once(redis: Redis) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"token": "x", **_here(), "pid": gone.pid}
    redis.set(keys.lease("policy"), orjson.dumps(holder), ex=30)
    Lease(redis, keys.lease("policy")).acquire()


def test_a_trainer_on_another_machine_is_waited_for(redis: Redis) -> None:
    holder = {"token": "x", **_here(), "host": "elsewhere", "pid": 1}
    redis.set(keys.lease("policy"), orjson.dumps(holder), ex=30)
    with pytest.raises(LeaseHeld, match="process 1 on elsewhere"):
        Lease(redis, keys.lease("policy")).acquire()


def test_a_lease_that_was_taken_is_lost_and_not_given_back_by_the_loser(redis: Redis) -> None:
    lease = Lease(redis, keys.lease("policy"))
    lease.acquire()
    lease.check()
    redis.set(keys.lease("policy"), b"other")
    with pytest.raises(LeaseLost):
        lease.renew()
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert redis.get(keys.lease("policy")) == b"other"


def test_a_lease_that_ran_out_unnoticed_is_taken_again(redis: Redis) -> None:
    lease = Lease(redis, keys.lease("policy"))
    lease.acquire()
    redis.delete(keys.lease("policy"))
    lease.renew()
    assert 0 < redis.pttl(keys.lease("policy")) <= keys.LEASE_TTL_SECONDS * 1000
