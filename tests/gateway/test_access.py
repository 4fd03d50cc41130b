"""The authoriser by itself: keys, scopes, limits and a store that comes and goes."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.access import (
    ADMIN,
    ANYONE,
    FEEDBACK,
    INFERENCE,
    MODELS,
    READ,
    REJOIN_SECONDS,
    STALE_SECONDS,
    Access,
    Caller,
)
from gateway.auth import offered_keys
from gateway.errors import ApiError
from trajectories.access import SCOPES, KeyRecord, KeyStore, ScopeName
from trajectories.connection import RedisError

DAY = 86_400.0


class Hands:
    """A clock that only the test moves; unix time is far ahead of monotonic time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return self.now + 1_700_000_000.0


class House:
    """A store of keys that can go away, and processes over it."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeServer()
        self.hands = Hands()
        self.store = KeyStore(fakeredis.FakeRedis(server=self.server))

    def access(self, *, is_required: bool = True, api_key: str | None = None) -> Access:
        redis = fakeredis.FakeRedis(server=self.server)
        return Access(
            redis,
            is_required=is_required,
            api_key=api_key,
            clock=lambda: self.hands.now,
            wall=self.hands.wall,
        )

    def key(
        self, scopes: Sequence[ScopeName] = ("inference",), **fields: Any
    ) -> tuple[KeyRecord, bytes]:
        record, key = self.store.create(name="app", scopes=scopes, now=self.hands.wall(), **fields)
        return record, key.encode()

    def ask(self, access: Access, key: bytes, scope: str = INFERENCE) -> Caller:
        return access.authorise([key], scope, self.hands.now)

    def answer(self, access: Access, key: bytes) -> Caller | ApiError:
        try:
            return self.ask(access, key)
        except ApiError as refusal:
            return refusal

    def refusal(self, access: Access, *keys: bytes, scope: str = INFERENCE) -> ApiError:
        with pytest.raises(ApiError) as caught:
            access.authorise(keys, scope, self.hands.now)
        return caught.value


@pytest.fixture
def house() -> House:
    return House()


def test_without_keys_the_gateway_is_open(house: House) -> None:
    access = house.access(is_required=False)
    for scope in (INFERENCE, FEEDBACK, READ, ADMIN, MODELS):
        assert access.authorise([], scope, 0.0) is ANYONE
        assert access.authorise([b"anything"], scope, 0.0) is ANYONE
    assert (ANYONE.key_id, ANYONE.tenant) == (None, "default")


async def test_the_key_of_the_settings_may_do_everything_and_needs_no_redis(house: House) -> None:
    house.server.connected = False
    for is_required in (False, True):
        access = house.access(is_required=is_required, api_key="ours")
        await access.try_refresh()
        for scope in (INFERENCE, FEEDBACK, READ, ADMIN, MODELS):
            assert house.ask(access, b"ours", scope).tenant == "default"
    assert house.refusal(house.access(is_required=False, api_key="ours"), b"other").status == 401


async def test_a_key_opens_exactly_its_scopes(house: House) -> None:
    access = house.access()
    for scopes in (("inference",), ("feedback", "read"), ("admin",), ()):
        _, key = house.key(scopes)
        await access.refresh()
        for scope in SCOPES:
            if scope in scopes:
                assert house.ask(access, key, scope).scopes >= set(scopes)
            else:
                refusal = house.refusal(access, key, scope=scope)
                assert (refusal.status, refusal.code) == (403, "wrong_scope")
                assert refusal.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("scopes", "is_open"),
    [(["inference"], True), (["read"], True), (["feedback"], False), (["admin"], False)],
)
async def test_the_models_are_listed_for_who_reads_or_asks(
    house: House, scopes: list[ScopeName], is_open: bool
) -> None:
    _, key = house.key(scopes)
    access = house.access()
    await access.refresh()
    if is_open:
        house.ask(access, key, MODELS)
    else:
        assert house.refusal(access, key, scope=MODELS).status == 403


async def test_a_caller_is_what_its_key_says(house: House) -> None:
    record, key = house.key(
        tenant="acme", is_trainable=False, is_recorded=False, models=frozenset({"policy"})
    )
    access = house.access()
    await access.refresh()
    caller = house.ask(access, key)
    assert caller == Caller(
        key_id=record.id,
        tenant="acme",
        scopes=frozenset({"inference", "models"}),
        is_trainable=False,
        is_recorded=False,
        models=frozenset({"policy"}),
    )
    caller.check_model("policy")
    with pytest.raises(ApiError) as caught:
        caller.check_model("gpt-5")
    assert (caught.value.status, caught.value.param) == (403, "model")
    dataclasses.replace(caller, models=None).check_model("gpt-5")


async def test_the_first_good_key_of_several_counts(house: House) -> None:
    (one, first), (_, second) = house.key(), house.key()
    access = house.access()
    await access.refresh()
    assert access.authorise([b"sk-other", first, second], INFERENCE, 0.0).key_id == one.id
    refusal = house.refusal(access, b"sk-other", b"")
    assert (refusal.status, refusal.code) == (401, "bad_key")
    assert refusal.headers["x-should-retry"] == "false"
    assert house.refusal(access).status == 401


async def test_an_expired_key_is_refused_from_that_second_on(house: House) -> None:
    _, key = house.key(expires_at=house.hands.wall() + 10)
    access = house.access()
    await access.refresh()
    house.hands.now += 9.5
    await access.refresh()
    house.ask(access, key)
    house.hands.now += 1
    assert house.refusal(access, key).status == 401


async def test_a_revoked_key_is_refused_after_the_next_exchange(house: House) -> None:
    record, key = house.key()
    accesses = [house.access() for _ in range(3)]
    for access in accesses:
        await access.refresh()
        house.ask(access, key)
    house.store.revoke(record.id, house.hands.wall())
    for access in accesses:
        await access.refresh()
        assert house.refusal(access, key).status == 401


async def test_without_the_store_known_keys_are_served_and_unknown_ones_get_a_503(
    house: House,
) -> None:
    _, key = house.key()
    access = house.access()
    assert await access.try_refresh()
    house.server.connected = False
    assert not await access.try_refresh()
    house.hands.now += DAY
    house.ask(access, key)
    refusal = house.refusal(access, b"rk_unknown")
    assert (refusal.status, refusal.code) == (503, "keys_unavailable")
    assert int(refusal.headers["retry-after"]) <= 60
    for nothing in ((), (b"",)):  # none was sent: no store has to be asked
        assert house.refusal(access, *nothing).status == 401
    house.server.connected = True
    assert await access.try_refresh()
    assert house.refusal(access, b"rk_unknown").status == 401


async def test_before_the_store_was_ever_read_every_key_gets_a_503(house: House) -> None:
    _, key = house.key()
    house.server.connected = False
    access = house.access()
    await access.try_refresh()
    assert house.refusal(access, key).status == 503


async def test_a_table_that_was_not_confirmed_for_long_says_nothing_of_unknown_keys(
    house: House,
) -> None:
    access = house.access()
    await access.refresh()
    house.hands.now += STALE_SECONDS - 0.1
    assert house.refusal(access, b"rk_unknown").status == 401
    house.hands.now += 0.2
    assert house.refusal(access, b"rk_unknown").status == 503


async def test_too_many_requests_get_a_429_that_says_when_to_come_back(house: House) -> None:
    _, key = house.key(["inference", "feedback"], requests_per_minute=2)
    access = house.access()
    await access.refresh()
    house.ask(access, key)
    house.ask(access, key, FEEDBACK)
    refusal = house.refusal(access, key)
    assert (refusal.status, refusal.code) == (429, "rate_limit")
    assert refusal.headers == {"retry-after": "30", "retry-after-ms": "30000"}
    house.hands.now += 30.001
    house.ask(access, key)


async def test_no_wait_is_announced_that_sdks_would_not_wait(house: House) -> None:
    _, key = house.key(tokens_per_minute=10)
    access = house.access()
    await access.refresh()
    access.spend(house.ask(access, key), 100_000, house.hands.now)
    assert house.refusal(access, key).headers == {"retry-after": "60", "retry-after-ms": "60000"}


async def test_a_spent_budget_is_final_and_is_known_to_every_process(house: House) -> None:
    record, key = house.key(["inference", "feedback"], token_budget=100)
    one, other = house.access(), house.access()
    await one.refresh()
    await other.refresh()
    one.spend(house.ask(one, key), 100, house.hands.now)
    await one.refresh()
    await other.refresh()
    for access in (one, other, house.access()):  # one that starts later as well
        await access.refresh()
        refusal = house.refusal(access, key)
        assert (refusal.status, refusal.code) == (429, "budget_exceeded")
        assert refusal.headers == {"x-should-retry": "false"}
        house.ask(access, key, FEEDBACK)
    assert house.store.usage([record.id])[record.id].tokens == 100


async def test_usage_outlives_an_outage_and_is_counted_once(house: House) -> None:
    record, key = house.key()
    access = house.access()
    await access.refresh()
    for tokens in (1, 10, 100):
        house.server.connected = tokens != 10
        access.spend(house.ask(access, key), tokens, house.hands.now)
        await access.try_refresh()
    await access.try_refresh()
    used = house.store.usage([record.id])[record.id]
    assert (used.requests, used.tokens) == (3, 111)


async def test_a_lost_reply_does_not_count_usage_twice(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, key = house.key(token_budget=1000)
    access = house.access()
    await access.refresh()
    access.spend(house.ask(access, key), 10, house.hands.now)
    exchange = KeyStore.exchange

    def lost(*arguments: Any, **named: Any) -> Any:
        exchange(*arguments, **named)
        raise RedisError("the reply was lost")

    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "exchange", lost)
        assert not await access.try_refresh()
    access.spend(house.ask(access, key), 5, house.hands.now)
    for _ in range(2):
        assert await access.try_refresh()
    assert house.store.usage([record.id])[record.id].tokens == 15


async def test_what_a_revoked_keys_last_answers_used_is_counted(house: House) -> None:
    record, key = house.key()
    access = house.access()
    await access.refresh()
    caller = house.ask(access, key)
    house.store.revoke(record.id, house.hands.wall())
    await access.refresh()
    access.spend(caller, 7, house.hands.now)
    await access.refresh()
    assert house.store.usage([record.id])[record.id].tokens == 7


async def test_without_the_store_each_process_keeps_to_its_share(house: House) -> None:
    _, key = house.key(requests_per_minute=60)
    accesses = [house.access() for _ in range(3)]
    for access in [*accesses, *accesses]:
        await access.refresh()
    house.server.connected = False
    for access in accesses:
        await access.try_refresh()
    assert [_served(house, access, key) for access in accesses] == [20, 20, 20]
    house.hands.now += 6
    assert [_served(house, access, key) for access in accesses] == [2, 2, 2]
    house.server.connected = True
    for _ in range(2):
        for access in [*accesses, *accesses]:
            await access.refresh()
        house.hands.now += REJOIN_SECONDS + 60
    for access in accesses:
        await access.refresh()
    house.hands.now += 60
    assert _served(house, accesses[0], key) == 60


def _served(house: House, access: Access, key: bytes) -> int:
    """How many requests pass now."""
    count = 0
    while (status := _status(house, access, key)) == 200:
        count += 1
    assert status == 429
    return count


def _status(house: House, access: Access, key: bytes) -> int:
    answer = house.answer(access, key)
    return answer.status if isinstance(answer, ApiError) else 200


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within five seconds")


async def test_the_task_survives_the_store_going_and_coming(house: House) -> None:
    house.server.connected = False
    access = house.access()
    running = asyncio.create_task(access.run())
    try:
        await asyncio.sleep(0.2)
        assert not access.is_connected
        house.server.connected = True
        record, key = house.key()
        await _until(lambda: access.is_connected)
        caller = house.ask(access, key)
        house.store.revoke(record.id, house.hands.wall())
        await _until(lambda: _status(house, access, key) == 401)
        access.spend(caller, 3, house.hands.now)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    # What the last answers used was handed in on the way out.
    assert house.store.usage([record.id])[record.id].tokens == 3


async def test_a_gateway_without_keys_has_nothing_to_run(house: House) -> None:
    house.server.connected = False
    assert await house.access(is_required=False).try_refresh()
    await house.access(is_required=False).run()


async def test_no_refusal_and_no_log_holds_a_key(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    _, key = house.key([], requests_per_minute=1)
    access = house.access(api_key="canary-settings")
    texts = []
    for connected in (True, False):
        house.server.connected = connected
        await access.try_refresh()
        for offered in (key, b"canary-unknown"):
            refusal = house.refusal(access, offered)
            texts += [refusal.body.decode(), str(refusal.headers), repr(refusal)]
    kept = {name: getattr(access, name) for name in dir(access)}  # `vars`, where it is compiled
    shown = "\n".join([*texts, caplog.text, repr(kept)])
    assert "canary" not in shown
    assert key.decode() not in shown


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=60)), max_size=8))
def test_no_header_breaks_the_search_for_keys(headers: list[tuple[bytes, bytes]]) -> None:
    assert all(offered_keys(headers))


def test_keys_are_found_under_each_name_and_in_order() -> None:
    headers = [
        (b"x-api-key", b" one "),
        (b"authorization", b"Bearer two"),
        (b"authorization", b"bearer  three"),
        (b"authorization", b"Basic four"),
        (b"authorization", b"Bearer "),
        (b"api-key", b"five"),
        (b"x-other", b"six"),
    ]
    assert offered_keys(headers) == [b"one", b"two", b"three", b"five"]


class Keys(RuleBasedStateMachine):
    """Two processes, a store that comes and goes, keys made and revoked in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.loop = asyncio.new_event_loop()
        self.accesses = [self.house.access(), self.house.access()]
        self.keys: dict[str, bytes] = {}
        self.revoked: set[str] = set()
        self.seen: list[tuple[set[str], set[str]]] = [(set(), set()), (set(), set())]
        self.spent = dict[str, int]()
        self.in_step = [False, False]

    def teardown(self) -> None:
        self.loop.close()

    @rule(budget=st.sampled_from([None, 50]))
    def create(self, budget: int | None) -> None:
        if self.house.server.connected:
            record, key = self.house.key(token_budget=budget)
            self.keys[record.id] = key

    @rule(index=st.integers(0, 10))
    def revoke(self, index: int) -> None:
        if self.house.server.connected and self.keys:
            chosen = sorted(self.keys)[index % len(self.keys)]
            self.house.store.revoke(chosen, self.house.hands.wall())
            self.revoked.add(chosen)

    @rule(process=st.integers(0, 1))
    def exchange(self, process: int) -> None:
        access = self.accesses[process]
        has_heard = self.loop.run_until_complete(access.try_refresh())
        assert has_heard == self.house.server.connected
        self.in_step[process] = has_heard
        if has_heard:
            self.seen[process] = (set(self.keys), set(self.revoked))

    @rule(process=st.integers(0, 1), index=st.integers(0, 10), tokens=st.integers(0, 30))
    def use(self, process: int, index: int, tokens: int) -> None:
        if not self.keys:
            return
        chosen = sorted(self.keys)[index % len(self.keys)]
        access = self.accesses[process]
        known, revoked = self.seen[process]
        answer = self.house.answer(access, self.keys[chosen])
        if isinstance(answer, Caller):
            assert chosen in known - revoked
            access.spend(answer, tokens, self.house.hands.now)
            self.spent[chosen] = self.spent.get(chosen, 0) + tokens
        elif chosen in known - revoked:
            assert answer.code == "budget_exceeded"
        else:
            assert answer.status == (401 if self.in_step[process] else 503)

    @rule(connected=st.booleans())
    def move(self, connected: bool) -> None:
        self.house.server.connected = connected

    @invariant()
    def every_token_is_counted_once(self) -> None:
        if self.house.server.connected and self.in_step == [True, True]:
            for process in (0, 1, 0, 1):
                self.exchange(process)
            found = self.house.store.usage(sorted(self.spent))
            assert {key: used.tokens for key, used in found.items()} == self.spent


def test_keys_come_and_go_in_any_order() -> None:
    run_state_machine_as_test(
        Keys,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
