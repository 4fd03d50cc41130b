"""The loop: users first, each prompt once, never above the budget, and no tool is called."""

import threading
from typing import Any

import pytest

from tests.workers.records import call, vote
from tests.workers.siblings.records import SEOUL, Answering, recorded, said, with_tools
from trajectories import keys
from trajectories.model import Transition
from trajectories.settings import Settings, load_settings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer
from workers.siblings.asking import Answer, NoAnswer
from workers.siblings.worker import SiblingWorker
from workers.spending import today

GO_ON = threading.Event()
PAID = {"answers": 1, "tokens": 4096}


def settings_with(**siblings: Any) -> Settings:
    return load_settings(siblings={"enabled": True, "share": 1.0, **siblings})


def scored(store: Store, *transitions: Transition) -> TrajectoryRef:
    """A user's trajectory that is closed, and judged."""
    for one in transitions:
        store.add_transition(one)
    ref = TrajectoryRef(transitions[0].tenant, transitions[0].trajectory_id)
    store.add_feedback(vote(1.0, trajectory=ref.id))
    store.close(ref)
    Scorer.from_settings(Settings().rewards).score(store, ref)
    return ref


def worker(redis: Any, asks: Any, settings: Settings, is_idle: Any = lambda: True) -> SiblingWorker:
    return SiblingWorker(redis, settings, asks=asks, is_idle=is_idle)


def spent(redis: Any) -> dict[str, int]:
    found = redis.hgetall(keys.siblings_spent("policy", today()))
    return {name.decode(): int(value) for name, value in found.items()}


def test_each_prompt_gets_its_siblings_once_oldest_first(redis: Any) -> None:
    store = Store(redis)
    for number in (1, 0):
        scored(store, recorded(number, trajectory=f"traj_{number}"))
    asks = Answering(store)
    found = worker(redis, asks, settings_with(answers=3))
    assert found.step(GO_ON)
    assert found.step(GO_ON)
    assert not found.step(GO_ON)
    assert [(rollout.transition, rollout.number) for rollout, _, _ in asks.asked] == [
        *(("tr_traj_0_0", number) for number in range(3)),
        *(("tr_traj_1_1", number) for number in range(3)),
    ]
    assert not worker(redis, asks, settings_with()).step(GO_ON)  # nor after a restart
    assert spent(redis) == {"answers": 6, "tokens": 6 * 4}


def test_siblings_are_closed_at_once_and_have_none_of_their_own(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())
    asks = Answering(store)
    found = worker(redis, asks, settings_with(answers=2))
    found.step(GO_ON)
    for rollout, _, _ in asks.asked:
        ref = TrajectoryRef("default", rollout.trajectory_id)
        kept = store.trajectory(ref)
        assert kept is not None
        assert kept.is_closed
        store.add_feedback(vote(0.5, trajectory=ref.id, source="judge"))
        Scorer.from_settings(Settings().rewards).score(store, ref)
    assert store.count_trainable("policy") == 3
    assert not found.step(GO_ON)


def test_a_busy_engine_is_asked_nothing(redis: Any) -> None:
    store = Store(redis)
    ref = scored(store, recorded())
    asks = Answering(store)
    found = worker(redis, asks, settings_with(), is_idle=lambda: False)
    assert not found.step(GO_ON)
    assert asks.asked == []
    assert [*store.without_siblings("policy")] == [ref]  # nor is it claimed


def test_it_waits_between_two_siblings_when_users_come(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())
    asks = Answering(store)
    looks: list[int] = []
    closed: list[bool] = []

    def is_idle() -> bool:
        looks.append(len(asks.asked))
        if len(asks.asked) == 2:
            first = store.trajectory(TrajectoryRef("default", asks.asked[0][0].trajectory_id))
            closed.append(first is not None and first.is_closed)
        return len(asks.asked) < 2 or looks.count(2) > 3

    settings = settings_with(answers=3, look_seconds=0.01)
    assert worker(redis, asks, settings, is_idle).step(GO_ON)
    assert looks.count(2) == 4
    assert closed[-1]  # judges need not wait for the others
    assert len(asks.asked) == 3


def test_the_budget_is_never_exceeded(redis: Any) -> None:
    store = Store(redis)
    for number in range(4):
        scored(store, recorded(number, trajectory=f"traj_{number}"))
    asks = Answering(store)
    found = worker(redis, asks, settings_with(answers=3, answers_per_day=5))
    assert [found.step(GO_ON) for _ in range(4)] == [True, True, False, False]
    assert len(asks.asked) == 5
    assert len([*store.without_siblings("policy")]) == 2  # not claimed for nothing


def test_tokens_are_reserved_before_they_are_spent(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())
    asks = Answering(store)
    assert not worker(redis, asks, settings_with(tokens_per_day=4095)).step(GO_ON)
    assert worker(redis, asks, settings_with(tokens_per_day=4096 + 8)).step(GO_ON)
    assert [most for _, _, most in asks.asked] == [4093] * 3  # the fourth would not have had room


def test_whoever_is_killed_in_the_middle_has_spent_what_was_reserved(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())

    class Killed(BaseException):
        pass

    class Dying:
        def ask(self, *_: Any) -> Answer:
            assert spent(redis) == {"answers": 1, "tokens": 4096}
            raise Killed

    with pytest.raises(Killed):
        worker(redis, Dying(), settings_with()).step(GO_ON)
    assert spent(redis) == {"answers": 1, "tokens": 4096}
    asks = Answering(store)
    assert not worker(redis, asks, settings_with()).step(GO_ON)  # it is never asked twice
    assert asks.asked == []


def test_the_same_tool_call_is_replayed_and_another_ends_it(redis: Any) -> None:
    store = Store(redis)
    scored(store, *with_tools())
    answers = [
        said(None, call("get_weather", SEOUL, "call_own")),
        said("Rain."),
        said(None, call("get_tides", SEOUL)),
    ]
    asks = Answering(store, lambda number: answers[number])
    assert worker(redis, asks, settings_with(answers=2, call="first")).step(GO_ON)
    (one, _, _), (again, messages, _), (two, _, _) = asks.asked
    assert one == again != two
    assert messages[-1] == {"role": "tool", "tool_call_id": "call_own", "content": "rain"}
    for rollout, calls in ((one, 2), (two, 1)):
        kept = store.trajectory(TrajectoryRef("default", rollout.trajectory_id))
        assert kept is not None
        assert len(kept.transitions) == calls
        assert kept.is_closed


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize(
    ("result", "is_trainable", "asked"), [("rain", False, 0), ("mail ann@example.org", True, 1)]
)
def test_no_result_of_a_call_that_must_not_be_learned_from_is_told(
    redis: Any, which: str, result: str, is_trainable: bool, asked: int
) -> None:
    store = Store(redis)
    asks_tool, told = with_tools()
    messages = [*told.request["messages"][:-1], {**told.request["messages"][-1], "content": result}]
    request = {**told.request, "messages": messages}
    update = {"request": request, "is_trainable": is_trainable}
    scored(store, asks_tool, told.model_copy(update=update))
    asks = Answering(store, lambda _: said(None, call("get_weather", SEOUL)))
    worker(redis, asks, settings_with(answers=1, call=which)).step(GO_ON)
    assert len(asks.asked) == asked
    assert result not in str(asks.asked)


def test_what_a_sibling_said_itself_counts_in_its_next_prompt(redis: Any) -> None:
    store = Store(redis)
    asks_tool, told = with_tools()  # prompt and answer are 5 tokens, and the result another 10
    scored(store, asks_tool, told.model_copy(update={"prompt_token_ids": tuple(range(15))}))

    class Verbose(Answering):
        def ask(self, *asked: Any) -> Answer:
            is_first = not self.asked
            answer = super().ask(*asked)
            used = (3, 3000) if is_first else (3013, asked[-1])
            return Answer(answer.message, *used)

    asks = Verbose(store, lambda number: said("x", call("get_weather", SEOUL)))
    settings = settings_with(answers=1, call="first", tokens_per_day=8192)
    worker(redis, asks, settings).step(GO_ON)
    assert [most for _, _, most in asks.asked] == [4093, 4096 - 3013]
    assert spent(redis)["tokens"] == 3003 + 4096


def test_a_sibling_has_no_more_calls_than_it_may(redis: Any) -> None:
    store = Store(redis)
    scored(store, *with_tools())
    asks = Answering(store, lambda _: said(None, call("get_weather", SEOUL)))
    worker(redis, asks, settings_with(answers=2, call="first", max_calls=1)).step(GO_ON)
    assert [rollout.number for rollout, _, _ in asks.asked] == [0, 1]


@pytest.mark.parametrize("is_unasked", [True, False])
def test_a_gateway_that_refuses_or_is_away_does_not_use_up_the_prompts(
    redis: Any, is_unasked: bool
) -> None:
    store = Store(redis)
    for number in range(3):
        scored(store, recorded(number, trajectory=f"traj_{number}"))
    refusal = NoAnswer("the gateway answered 403: wrong_scope", is_unasked=is_unasked)
    asks = Answering(store, lambda _: refusal)
    found = worker(redis, asks, settings_with())
    assert found.step(GO_ON)
    assert not found.step(GO_ON)
    assert len(asks.asked) == 1
    # Where an engine may have answered, that prompt is not asked again, and it has cost something.
    left = 3 if is_unasked else 2
    assert len([*store.without_siblings("policy")]) == left
    assert spent(redis) == ({"answers": 0, "tokens": 0} if is_unasked else PAID)


def test_a_prompt_that_is_refused_is_passed_over_but_not_all_of_them(redis: Any) -> None:
    store = Store(redis)
    for number in range(4):
        scored(store, recorded(number, trajectory=f"traj_{number}"))
    refusal = NoAnswer("the gateway answered 400", is_unasked=True, is_of_prompt=True)
    asks = Answering(store, lambda number: refusal if number != 1 else said("Sun."))
    found = worker(redis, asks, settings_with(answers=1))
    assert [found.step(GO_ON) for _ in range(4)] == [True] * 4
    asks = Answering(store, lambda _: refusal)
    for number in range(4, 8):
        scored(store, recorded(number, trajectory=f"traj_{number}"))
    found = worker(redis, asks, settings_with(answers=1))
    assert [found.step(GO_ON) for _ in range(4)] == [True, True, True, False]
    assert len([*store.without_siblings("policy")]) == 1
    assert spent(redis)["answers"] == 1


def test_a_prompt_that_the_engine_reads_otherwise_gets_no_more(redis: Any) -> None:
    store = Store(redis)
    longer = recorded().model_copy(update={"prompt_token_ids": (1, 2, 3, 4)})
    scored(store, longer)
    asks = Answering(store)
    worker(redis, asks, settings_with()).step(GO_ON)
    assert len(asks.asked) == 1


def test_it_stops_when_it_is_told_to(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())
    stop = threading.Event()

    def reply(_: int) -> dict[str, Any]:
        stop.set()
        return said("Sun.")

    asks = Answering(store, reply)
    worker(redis, asks, settings_with()).step(stop)
    assert len(asks.asked) == 1


def test_what_was_forgotten_meanwhile_is_not_claimed(redis: Any) -> None:
    store = Store(redis)
    ref = scored(store, recorded())
    store.erase([ref])
    assert not store.claim_for_siblings(ref)
    assert not redis.exists(keys.trajectory(ref.tenant, ref.id))


def test_two_processes_never_take_the_same_prompt(redis: Any) -> None:
    store = Store(redis)
    ref = scored(store, recorded())
    assert [store.claim_for_siblings(ref) for _ in range(2)] == [True, False]


def test_what_a_judge_is_still_to_compare_gets_siblings_too(redis: Any) -> None:
    store = Store(redis)
    store.add_transition(recorded(content="It will rain."))
    ref = TrajectoryRef("default", "traj_a")
    store.close(ref)
    Scorer.from_settings(Settings().rewards).score(store, ref)
    asks = Answering(store)
    found = worker(redis, asks, settings_with(answers=1))
    assert not found.step(GO_ON)  # nobody says anything of it
    store.ask_verdicts(ref, ["ruler"], 1_000.0)
    store.ask_verdicts(TrajectoryRef("acme", "traj_b"), ["ruler"], 1_000.0)
    assert found.step(GO_ON)
    assert not found.step(GO_ON)
    assert len(asks.asked) == 1


def test_each_tenant_is_answered_by_its_own_policy_alone(redis: Any) -> None:
    store = Store(redis)
    own_settings = {"enabled": True, "share": 1.0, "policies": ["acmes"]}
    settings = load_settings(siblings=own_settings, policies={"acmes": {"tenant": "acme"}})
    scored(store, recorded(trajectory="traj_d"))
    own = recorded(trajectory="traj_t").model_copy(update={"tenant": "acme", "policy": "acmes"})
    store.add_transition(own)
    ref = TrajectoryRef("acme", "traj_t")
    store.add_feedback(vote(1.0, trajectory=ref.id).model_copy(update={"tenant": "acme"}))
    store.close(ref)
    Scorer.from_settings(Settings().rewards).score(store, ref)
    asks = Answering(store)
    found = worker(redis, asks, settings.for_policy("acmes"))
    assert found.step(GO_ON)
    assert not found.step(GO_ON)
    assert {rollout.tenant for rollout, _, _ in asks.asked} == {"acme"}
    assert {rollout.transition for rollout, _, _ in asks.asked} == {own.id}
    rolled = store.trajectory(TrajectoryRef("acme", asks.asked[0][0].trajectory_id))
    assert rolled is not None
    assert rolled.tenant == "acme"


def test_a_sibling_has_the_name_that_its_answer_got_from_the_team(redis: Any) -> None:
    store = Store(redis)
    asked = {"role": "user", "name": "boss", "content": "plan it"}
    shown = {"role": "user", "name": "planner", "content": "the plan"}
    plan = recorded(0, content="the plan", messages=[asked])
    code = recorded(1, content="the code", messages=[asked, shown])
    scored(store, plan, code)
    likes: list[Transition] = []

    class Noting(Answering):
        def ask(self, rollout: Any, like: Transition, *rest: Any) -> Answer:
            likes.append(like)
            return super().ask(rollout, like, *rest)

    worker(redis, Noting(store), settings_with(answers=1, call="first")).step(GO_ON)
    assert [like.agent for like in likes] == ["planner"]


def test_no_more_is_asked_of_what_was_forgotten_meanwhile(redis: Any) -> None:
    store = Store(redis)
    ref = scored(store, recorded())

    def reply(_: int) -> dict[str, Any]:
        store.erase([ref])
        return said("Sun.")

    asks = Answering(store, reply)
    worker(redis, asks, settings_with()).step(GO_ON)
    assert len(asks.asked) == 1


def test_no_more_is_asked_for_than_the_engine_can_read(redis: Any) -> None:
    store = Store(redis)
    scored(store, recorded())
    asks = Answering(store)
    settings = settings_with(answers=1)
    found = SiblingWorker(
        redis, settings, asks=asks, is_idle=lambda: True, context_length=lambda: 2048
    )
    assert found.step(GO_ON)
    assert [most for _, _, most in asks.asked] == [2045]
