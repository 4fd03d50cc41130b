"""GET /training/status and POST /training/trigger: what is there, whose it is, what is lacking."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.training_status import learning_of, run_view
from tests.gateway.conftest import Running, wait_for
from tests.trainer.records import a_transition
from trajectories import keys
from trajectories.access import KeyStore
from trajectories.account import account_of
from trajectories.composition import compose
from trajectories.model import Reward
from trajectories.store import Store, TrajectoryRef

STATUS = "trainer:policy:status"


def score(
    running: Running, name: str, *values: float, tenant: str = "default", **call: Any
) -> None:
    store, ref = Store(running.redis), TrajectoryRef(tenant, name)
    store.add_transition(a_transition(name, tenant=tenant, **call))
    rewards = [
        Reward(id=f"r{n}", trajectory_id=name, name="tone", source="feedback:human:u", value=value)
        for n, value in enumerate(values)
    ]
    outcome = compose(rewards)
    found = store.scorable(ref)
    assert found is not None
    assert store.put_rewards(
        ref,
        rewards=rewards,
        final=outcome.final,
        is_labelled=outcome.is_labelled,
        revision=found.revision,
        account=account_of(found.trajectory, (), rewards, outcome, windows={}, now=0.0),
    )


def say(running: Running, **status: Any) -> None:
    """What a trainer says of itself."""
    running.redis.set(STATUS, orjson.dumps({"state": "collecting", **status}))


def status_of(running: Running, **headers: str) -> dict[str, Any]:
    answer = running.client.get("/training/status", headers=headers)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_nothing_rewarded_is_null_and_every_part_says_whether_it_is_there(running: Running) -> None:
    score(running, "t1")
    status = status_of(running)
    assert status["average_reward"] is None
    assert (status["total_trajectories"], status["total_spans"]) == (1, 1)
    available = {name: value for name, value in status.items() if name.endswith("_available")}
    assert available == {
        "redis_available": True,
        "trainer_available": False,
        "judge_available": False,
        "vllm_available": True,
    }


def test_averages_and_coverage_by_reward_agent_and_version(running: Running) -> None:
    score(running, "t1", 1.0, agent="support")
    score(running, "t2", 0.0, agent="support", policy_version=3)
    score(running, "t3", agent="sales", ask=0.5, is_asked=True)
    status = status_of(running)
    assert status["average_reward"] == 0.5
    assert status["feedback_rate"] == pytest.approx(2 / 3)
    assert status["rewards"] == {"tone": {"mean": 0.5, "count": 2}}
    assert status["versions"]["policy@3"] == {"mean": 0.0, "count": 1}
    support, sales = status["agents"]["support"], status["agents"]["sales"]
    assert (support["average_reward"], support["coverage"]["labelled"]) == (0.5, 1.0)
    assert (sales["average_reward"], sales["coverage"]["labelled_when_asked"]) == (None, 0.0)


def test_a_tenant_sees_its_own_totals_and_nothing_of_another_ones_policy(
    start: Callable[..., Running],
) -> None:
    running = start(gateway={"require_keys": True})
    score(running, "t1", 1.0)
    score(running, "t2", -1.0, tenant="other")
    say(running, note="secret note")
    _, theirs = KeyStore(running.redis).create(
        name="theirs", tenant="other", scopes=["read", "admin"], now=time.time()
    )
    header = {"authorization": f"Bearer {theirs}"}
    get = running.client.get
    wait_for(lambda: get("/training/status", headers=header).status_code == 200)
    status = status_of(running, **header)
    assert status["average_reward"] == -1.0
    assert not {"policy", "note", "trainable", "run", "last_run"} & status.keys()
    refused = running.client.post("/training/trigger", json={"force": True}, headers=header)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_tenant")
    assert running.redis.get(keys.trigger("policy")) is None


def test_too_little_says_how_much_there_is_and_what_is_lacking(running: Running) -> None:
    lacking = [{"what": "labels", "have": 3, "needed": 64, "setting": "min_labels"}]
    say(running, lacking=lacking)
    assert status_of(running)["lacking"] == lacking
    answer = running.client.post("/training/trigger", json={})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "not_enough_data")
    assert (error["have"], error["needed"], error["lacking"]) == (0, 64, lacking)
    assert answer.headers["x-should-retry"] == "false"


def test_one_run_at_a_time_and_a_second_wish_names_it(running: Running) -> None:
    say(running, state="training", run={"run_id": "run_now", "phase": "collected"})
    again = running.client.post("/training/trigger", json={"force": True})
    assert (again.status_code, again.json()) == (
        202,
        {"run_id": "run_now", "status": "already_running"},
    )
    assert running.redis.get(keys.trigger("policy")) is None


def test_a_wish_names_its_agent_and_stands_as_queued(running: Running) -> None:
    say(running)
    wished = running.client.post("/training/trigger", json={"force": True, "agent": "support"})
    assert wished.json()["status"] == "queued"
    assert orjson.loads(running.redis.get(keys.trigger("policy")))["agent"] == "support"
    assert status_of(running)["state"] == "queued"


def test_a_wish_names_algorithms_that_the_trainer_has(running: Running) -> None:
    say(running, algorithms=["grpo", "rwr", "sft"])
    assert status_of(running)["algorithms"] == ["grpo", "rwr", "sft"]
    for asked in ("magic", ["sft", "magic"], ["sft", "sft"], 3):
        refused = running.client.post("/training/trigger", json={"algo": asked, "force": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "algo"), asked
    assert (
        "magic (it has: grpo, rwr, sft)"
        in running.client.post("/training/trigger", json={"algo": "magic"}).json()["error"][
            "message"
        ]
    )
    running.client.post("/training/trigger", json={"algo": ["sft", "rwr"], "force": True})
    assert orjson.loads(running.redis.get(keys.trigger("policy")))["algo"] == "sft+rwr"


def test_without_a_trainer_nobody_is_told_to_try_again(running: Running) -> None:
    answer = running.client.post("/training/trigger", json={"force": True})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")


def test_a_run_is_shown_with_the_rewards_before_and_after_it() -> None:
    run = {"run_id": "r", "algorithm": "grpo", "phase": "promoted", "policy": "p", "parent": 1}
    versions = {"p@1": {"mean": 0.2}, "p@2": {"mean": 0.4}}
    view = run_view({**run, "version": 2}, versions)
    assert (view["id"], view["algo"], view["status"]) == ("r", "grpo", "promoted")
    assert (view["reward_before"], view["reward_after"]) == (0.2, 0.4)
    assert run_view({**run, "version": 9}, versions)["reward_after"] is None
    told = learning_of(None, queued=None, trainable=1, needed=2, versions={})
    assert (told["state"], told["last_run"], told["lacking"]) == ("collecting", None, [])
