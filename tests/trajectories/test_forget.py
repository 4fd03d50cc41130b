"""Forgetting: gone from Redis, the archive and training rows, and it does not come back."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson
import pytest
from redis.exceptions import RedisError

from tests.residue import in_files, in_redis
from tests.workers.records import vote
from tests.workers.test_archiver import EAGER, SCORER, archive_all
from trajectories import keys
from trajectories.archive import Archive, Place, Writer
from trajectories.archive.erasing import erase
from trajectories.archive.scrubbing import open_scrub
from trajectories.connection import connect
from trajectories.errors import RecordError
from trajectories.ids import new_id, trajectory_id
from trajectories.model import Choice, Transition, pack_record
from trajectories.names import text_digest
from trajectories.privacy.forget import Forgetting, Wanted
from trajectories.privacy.tombstones import Tombstones
from trajectories.settings import RedisSettings, Settings
from trajectories.store import Store, TrajectoryRef
from trajectories.store.contents import message_name
from trajectories.store.packed import Packed
from workers.archiver import Archiver
from workers.dispatcher import Dispatcher
from workers.timing import Timing

CANARY = "the canary sings, at length and in so many words that no other text holds them all;" * 2
SHARED = "a system prompt that all conversations of this tenant begin with, word for word;" * 2


def call(
    session: str, *, user: str = "ann", text: str = CANARY, at: float = 0, tenant: str = "default"
) -> Transition:
    """A call within a session that its client named."""
    number = new_id("tr")
    return Transition(
        id=number,
        tenant=tenant,
        trajectory_id=trajectory_id(tenant, session=session, task=None),
        session_id=session,
        session_source="header",
        gateway="gw",
        started_at=at or time.time() - 60,
        latency_seconds=0.5,
        request={
            "messages": [
                {"role": "system", "content": SHARED},
                {"role": "user", "content": text},
            ],
            "user": user,
        },
        response_id=f"chatcmpl-{number}",
        request_id=number,
        policy="policy",
        policy_version=0,
        model="base",
        prompt_token_ids=(1, 2, 3),
        choices=(
            Choice(
                message={"role": "assistant", "content": f"I heard {text}"},
                finish_reason="stop",
                token_ids=(4, 5),
                logprobs=(-0.5, -0.25),
            ),
        ),
    )


def ref_of(step: Transition) -> TrajectoryRef:
    return TrajectoryRef(step.tenant, step.trajectory_id)


@pytest.fixture
def redis(redis_settings: RedisSettings) -> Iterator[Any]:
    """A real one: half of this is what Redis does."""
    client = connect(redis_settings)
    yield client
    client.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "archive"))


@pytest.fixture
def forgetting(redis: Any, place: Place, tmp_path: Path) -> Forgetting:
    return Forgetting(redis, place, tmp_path / "runs")


def dispatcher(redis: Any) -> Dispatcher:
    return Dispatcher(redis, redis, label_window_seconds=600, timing=Timing(block=0.01))


def deliver(redis: Any, *records: Any, step: bool = True) -> None:
    """Records as gateways ship them, and a turn of the dispatcher."""
    redis.sadd(keys.GATEWAYS, "gw")
    for record in records:
        redis.xadd(keys.traffic("gw"), {"r": pack_record(record)})
    if step:
        dispatcher(redis).step(Event())


def rewarded(redis: Any, *steps: Transition) -> Store:
    deliver(redis, *steps)
    store = Store(redis)
    for step in steps:
        store.close(ref_of(step))
        SCORER.score(store, ref_of(step))
    return store


def archived(tmp_path: Path) -> bytes:
    return in_files(tmp_path / "archive")


def test_nothing_of_a_trajectory_is_left_and_the_others_are_whole(
    redis: Any, forgetting: Forgetting, place: Place, tmp_path: Path
) -> None:
    gone, kept = call("gone"), call("kept", user="bob", text="something else " * 20)
    store = rewarded(redis, gone, kept)
    store.add_feedback(vote(0.5, trajectory=gone.trajectory_id))
    before = store.trajectory(ref_of(kept))
    archive_all(redis, place, scrub=open_scrub(Settings(), redis))
    assert CANARY.encode() in in_redis(redis)
    assert CANARY.encode() in archived(tmp_path)
    wanted = Wanted("default", frozenset({ref_of(gone)}))

    looked = forgetting.forget(wanted, is_dry=True)
    assert (looked.hot.trajectories, looked.hot.transitions, looked.hot.votes) == (1, 1, 1)
    assert looked.archived == 1
    assert store.trajectory(ref_of(gone)) is not None

    done = forgetting.forget(wanted, settle_seconds=0)
    assert (done.hot.trajectories, done.hot.transitions, done.hot.votes) == (1, 1, 1)
    assert done.archived >= 1
    for text in (CANARY, gone.id, gone.response_id or "", gone.trajectory_id):
        assert text.encode() not in in_redis(redis), text
        assert text.encode() not in archived(tmp_path), text
    assert store.trajectory(ref_of(kept)) == before
    cold = Archive(place).read(ref_of(kept))
    assert cold is not None
    assert cold.trajectory == before
    assert forgetting.forget(wanted, settle_seconds=0).hot.trajectories == 0


def test_a_record_that_comes_late_or_again_does_not_bring_it_back(
    redis: Any, forgetting: Forgetting
) -> None:
    first, late = call("s1"), call("s1")
    store = rewarded(redis, first)
    comment = vote(1.0, trajectory=first.trajectory_id)
    deliver(redis, late, comment, step=False)  # under way while it is erased
    done = forgetting.forget(Wanted("default", frozenset({ref_of(first)})), settle_seconds=0)
    assert done.under_way == 2
    deliver(redis, first, late, comment)  # shipped again
    assert store.trajectory(ref_of(first)) is None
    assert store.feedback("default", comment.id) is None
    assert CANARY.encode() not in in_redis(redis).replace(_stream(redis), b"")
    new = call("s1", at=time.time() + 1, text="said afterwards " * 9)
    deliver(redis, new)
    found = store.trajectory(ref_of(new))
    assert found is not None
    assert [step.id for step in found.transitions] == [new.id]


def _stream(redis: Any) -> bytes:
    return b"\n".join(v for _, f in redis.xrange(keys.traffic("gw")) for v in f.values())


def test_a_user_is_forgotten_wherever_the_id_stands(
    redis: Any, forgetting: Forgetting, place: Place, tmp_path: Path
) -> None:
    calls = [call("a", user="ann@example.org"), call("b", user="bob"), call("c", user="ann")]
    metadata = call("d", user="x")
    metadata.request["metadata"] = {"user_id": "ann@example.org"}
    elsewhere = call("a", user="ann@example.org", tenant="acme")
    store = rewarded(redis, *calls, metadata, elsewhere)
    archive_all(redis, place, scrub=open_scrub(Settings(), redis))
    for step in (calls[0], metadata):  # by now only the archive has them, under another name
        store.erase([ref_of(step)])
    wanted = forgetting.of_user("default", "ann@example.org")
    assert wanted.refs == {ref_of(calls[0]), ref_of(metadata)}
    forgetting.forget(wanted, settle_seconds=0)
    archive = Archive(place)
    assert [archive.read(ref_of(step)) is None for step in (*calls, metadata, elsewhere)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    deliver(redis, call("new", user="ann@example.org", at=time.time() - 5))
    assert forgetting.of_user("default", "ann@example.org").refs == frozenset()


@pytest.mark.parametrize(
    "named",
    ["response", "span", "span of id", "trace span", "request", "tool_call", "text", "within"],
)
@pytest.mark.parametrize("is_archived", [False, True])
def test_a_late_vote_by_any_name_does_not_come_back(
    redis: Any, forgetting: Forgetting, place: Place, named: str, is_archived: bool
) -> None:
    step = call("s1").model_copy(update={"request_id": "asked-1", "span_id": "00f067aa0ba902b7"})
    tools = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    said = {"role": "assistant", "content": f"I heard {CANARY}", "tool_calls": tools}
    answer = step.choices[0].model_copy(update={"message": said})
    step = step.model_copy(update={"choices": (answer,)})
    rewarded(redis, step)
    if is_archived:
        archive_all(redis, place)
        Store(redis).erase([ref_of(step)])
    target: dict[str, Any] = {
        "response": {"response_id": step.response_id},
        "span": {"named": f"span:{step.response_id}"},
        "span of id": {"named": f"span:{step.id}"},
        "trace span": {"named": "span:00f067aa0ba902b7"},
        "request": {"named": "request:asked-1"},
        "tool_call": {"named": "tool_call:call_1"},
        "text": {"named": f"text:{text_digest(said['content'])}"},  # type: ignore[arg-type]
        "within": {"named": "tool_call:another", "within": step.trajectory_id},
    }[named]
    late = vote(1.0, response="unused").model_copy(
        update={"response_id": None, "received_at": time.time(), "id": "fb_late", **target}
    )
    forgetting.forget(Wanted("default", frozenset({ref_of(step)})), settle_seconds=0)
    deliver(redis, late)
    assert Store(redis).feedback("default", late.id) is None
    anew = late.model_copy(update={"id": "fb_new", "received_at": time.time() + 1})
    deliver(redis, anew)
    assert Store(redis).feedback("default", anew.id) is not None


def test_a_vote_by_words_that_another_trajectory_says_too_stays(
    redis: Any, forgetting: Forgetting
) -> None:
    said = call("one", text="yes")
    store = rewarded(redis, said)
    by_text = vote(1.0, response="unused").model_copy(
        update={
            "response_id": None,
            "named": f"text:{text_digest('I heard yes')}",
            "received_at": time.time(),
        }
    )
    assert store.add_feedback(by_text) == ref_of(said)
    gone = call("gone", text="yes", at=time.time() + 1)
    rewarded(redis, gone)
    forgetting.forget(Wanted("default", frozenset({ref_of(gone)})), settle_seconds=0)
    assert [entry.id for entry in store.votes_on(ref_of(said))] == [by_text.id]
    forgetting.forget(Wanted("default", frozenset({ref_of(said)})), settle_seconds=0)
    assert store.feedback("default", by_text.id) is None


@pytest.mark.parametrize("broken", ["content", "value", "short value"])
def test_what_cannot_be_read_is_erased_all_the_same(
    redis: Any, forgetting: Forgetting, broken: str
) -> None:
    gone, beside, kept = call("gone"), call("beside"), call("kept", text="something else " * 20)
    store = rewarded(redis, gone, beside, kept)
    before = store.trajectory(ref_of(kept))
    for step in (gone, beside):
        key = keys.transitions_of("default", step.trajectory_id)
        (name, value), *_ = redis.hgetall(key).items()
        if broken == "content":
            digests = Packed.parse(value).digests
            redis.delete(keys.messages("default") + message_name(digests[-1]))
        else:
            redis.hset(key, name, b"\x09 no record" if broken == "value" else b"")
        redis.expire(key, keys.DAY)
    with pytest.raises(RecordError):
        store.trajectory(ref_of(gone))
    comment = vote(1.0, trajectory=gone.trajectory_id).model_copy(
        update={"received_at": time.time()}
    )
    store.add_feedback(comment)
    wanted = Wanted("default", frozenset({ref_of(gone)}))
    assert forgetting.forget(wanted, is_dry=True).hot.transitions == 1
    done = forgetting.forget(wanted, settle_seconds=0)
    assert (done.hot.trajectories, done.hot.transitions, done.hot.votes) == (1, 1, 1)
    assert not redis.keys(f"*{gone.trajectory_id}*")
    deliver(redis, gone, comment)
    assert not redis.keys(f"trajectory:*{gone.trajectory_id}*")
    assert store.feedback("default", comment.id) is None
    assert store.trajectory(ref_of(kept)) == before


def test_contents_that_another_trajectory_needs_stay(redis: Any, forgetting: Forgetting) -> None:
    one, other = call("one"), call("other")  # the very same words
    store = rewarded(redis, one, other)
    before = store.trajectory(ref_of(other))
    forgetting.forget(Wanted("default", frozenset({ref_of(one)})), settle_seconds=0)
    assert store.trajectory(ref_of(other)) == before
    forgetting.forget(Wanted("default", frozenset({ref_of(other)})), settle_seconds=0)
    assert CANARY.encode() not in in_redis(redis)


def test_kept_responses_and_what_was_set_aside_go(redis: Any, forgetting: Forgetting) -> None:
    step = call("s1")
    rewarded(redis, step)
    kept = {"response": {"id": "resp_1"}, "trajectory_id": step.trajectory_id, "messages": [CANARY]}
    redis.set(keys.kept_response("default", "resp_1"), orjson.dumps(kept))
    redis.set(keys.kept_response("default", "resp_2"), orjson.dumps({"trajectory_id": "other"}))
    redis.xadd(keys.QUARANTINE, {"r": b't{"trajectory_id":"%b"' % step.trajectory_id.encode()})
    Store(redis).quarantine_verdict("judge", ref_of(step), "garbage", "said odd things")
    redis.xadd(keys.QUARANTINE, {"r": b"t{}"})
    done = forgetting.forget(Wanted("default", frozenset({ref_of(step)})), settle_seconds=0)
    assert (done.responses, done.set_aside) == (1, 2)
    assert redis.xlen(keys.QUARANTINE) == 1
    assert redis.exists(keys.kept_response("default", "resp_2"))


def test_what_others_have_in_the_quarantine_stays(redis: Any, forgetting: Forgetting) -> None:
    ours = call("s1", user="1")
    others = [
        call("s2", user="2", text='"1"').model_copy(update={"session_id": "1"}),
        call("s1", user="1", tenant="acme"),
    ]
    broken = [
        b't{"request":{"user":"1","seed":',
        b't{"metadata":{"user_id": "1"},"started_at":"x"}',
    ]
    kept = [
        *map(pack_record, others),
        b't{"tenant":"acme","request":{"user":"1"',
        b't{"request":{"user":"2","seed":"1","text":"\\"user\\":\\"1\\""',
    ]
    for raw in (pack_record(ours), *broken, *kept):
        redis.xadd(keys.QUARANTINE, {"stream": "traffic:gw", "id": "1-0", "r": raw, "reason": ""})
    Store(redis).quarantine_verdict("judge", ref_of(others[1]), "garbage", 'says "1"')
    wanted = forgetting.of_user("default", "1")
    assert forgetting.forget(wanted, is_dry=True).set_aside == 3
    assert forgetting.forget(wanted, settle_seconds=0).set_aside == 3
    left = [fields[b"r"] for _, fields in redis.xrange(keys.QUARANTINE)]
    assert left == [*kept, b""]


@pytest.mark.parametrize("quoted", [[1, 2], [7]])
def test_training_rows_go_and_the_adapters_are_named(
    redis: Any, forgetting: Forgetting, tmp_path: Path, quoted: list[int]
) -> None:
    step = call("s1")
    rewarded(redis, step)
    run = tmp_path / "runs" / "run_1"
    run.mkdir(parents=True)
    member = str(ref_of(step))
    (run / "plan.json").write_bytes(
        orjson.dumps({"run_id": "run_1", "policy": "policy", "refs": [member, "default/other"]})
    )
    about = {"version": 7, "model": "policy-v7", "path": str(run)}
    (run / "run.json").write_bytes(orjson.dumps(about))
    rows = [
        {"trajectory": member, "prompt_token_ids": [1, 2], "token_ids": [4, 5]},
        {"trajectory": "default/other", "prompt_token_ids": [7], "token_ids": [8]},
    ]
    (run / "probe.json").write_bytes(orjson.dumps({"probes": [{"prompt_token_ids": quoted}]}))
    (run / "batch.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    redis.sadd("trained:policy:8", member)
    wanted = Wanted("default", frozenset({ref_of(step)}))
    assert forgetting.forget(wanted, is_dry=True).runs[0].rows == 1
    assert len((run / "batch.jsonl").read_bytes().splitlines()) == 2
    done = forgetting.forget(wanted, settle_seconds=0)
    assert [(entry.policy, entry.version, entry.rows) for entry in done.runs] == [("policy", 7, 1)]
    assert done.runs[0].is_quoted is (quoted == [1, 2])
    assert done.versions == ["policy@8"]
    assert (run / "batch.jsonl").read_bytes() == orjson.dumps(rows[1]) + b"\n"


def test_what_the_archiver_had_in_hand_does_not_reach_the_archive(
    redis: Any, forgetting: Forgetting, place: Place, tmp_path: Path
) -> None:
    step = call("s1")
    rewarded(redis, step)
    archiver: Any = Archiver(redis, place, EAGER, SCORER)
    archiver._lease.acquire()
    archiver._start_over(Writer.with_new_fence(place, redis))
    assert archiver._take() == 1
    forgetting.forget(Wanted("default", frozenset({ref_of(step)})), settle_seconds=0)
    archiver.seal()
    assert CANARY.encode() not in archived(tmp_path)
    assert Archive(place).read(ref_of(step)) is None


def test_what_is_forgotten_while_the_archiver_loses_redis_goes_once_it_is_back(
    redis: Any, forgetting: Forgetting, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = call("s1")
    rewarded(redis, step)
    archiver: Any = Archiver(redis, place, EAGER, SCORER)
    archiver._lease.acquire()
    archiver._start_over(Writer.with_new_fence(place, redis))
    assert archiver._take() == 1
    forgetting.forget(Wanted("default", frozenset({ref_of(step)})), settle_seconds=0)

    def away(*_: Any, **__: Any) -> None:
        raise RedisError("away")

    with monkeypatch.context() as patch:
        patch.setattr(archiver._store, "note_archived", away)
        patch.setattr(Tombstones, "buried_at", away)
        with pytest.raises(RedisError):
            archiver.seal()
    assert Archive(place).read(ref_of(step)) is not None
    stop = Event()
    stop.set()
    archiver._work(stop)
    assert Archive(place).read(ref_of(step)) is None


def test_what_is_forgotten_while_an_archiver_is_killed_goes_with_the_next_one(
    redis: Any, forgetting: Forgetting, place: Place
) -> None:
    step = call("s1")
    rewarded(redis, step)

    class Killed(BaseException):
        pass

    def hook(at: str) -> None:
        if at == "named":  # the manifest is there, and nothing was looked at
            raise Killed

    archiver: Any = Archiver(redis, place, EAGER, SCORER)
    archiver._lease.acquire()
    archiver._start_over(Writer.with_new_fence(place, redis, hook=hook))
    assert archiver._take() == 1
    forgetting.forget(Wanted("default", frozenset({ref_of(step)})), settle_seconds=0)
    archiver._erase_forgotten = lambda: None  # a kill runs no `finally`
    with pytest.raises(Killed):
        archiver.seal()
    assert Archive(place).read(ref_of(step)) is not None
    stop = Event()
    stop.set()
    Archiver(redis, place, EAGER, SCORER)._work(stop)
    assert Archive(place).read(ref_of(step)) is None
    assert Store(redis).sealing() == []


class Meanwhile(Place):
    """A place where something else begins once a new segment is there, before the old one goes."""

    other: Thread | None = None

    def delete(self, name: str) -> None:
        if self.other is not None:
            other, self.other = self.other, None
            other.start()
            other.join(0.5)  # long enough to get through, were it let
        super().delete(name)


def test_two_erasures_at_once_do_not_bring_back_what_the_other_erased(
    redis: Any, place: Place
) -> None:
    one, two, kept = call("one"), call("two"), call("kept")
    rewarded(redis, one, two, kept)
    archive_all(redis, place)
    slow = Meanwhile(place.url)
    other = slow.other = Thread(target=erase, args=(place, redis, [ref_of(two)]))
    erase(slow, redis, [ref_of(one)])
    other.join()
    assert [r.ref for r in Archive(place).scan()] == [ref_of(kept)]
    assert redis.get(keys.ERASING_LEASE) is None


def test_who_reads_the_archive_meanwhile_finds_what_was_written_anew(
    redis: Any, forgetting: Forgetting, place: Place
) -> None:
    gone, kept = call("gone"), call("kept")
    rewarded(redis, gone, kept)
    archive_all(redis, place)
    reader = Archive(place, look_seconds=float("inf"))
    assert reader.read(ref_of(gone)) is not None
    forgetting.forget(Wanted("default", frozenset({ref_of(gone)})), settle_seconds=0)
    found = reader.read(ref_of(kept))
    assert found is not None
    assert found.ref == ref_of(kept)
    assert reader.read(ref_of(gone)) is None


def test_another_tenants_records_of_that_name_stay(redis: Any, forgetting: Forgetting) -> None:
    ours, theirs = call("s1"), call("s1", tenant="acme")
    store = rewarded(redis, ours, theirs)
    forgetting.forget(Wanted("default", frozenset({ref_of(ours)})), settle_seconds=0)
    assert Tombstones(redis).buried_at([("acme", theirs.id), ("acme", ours.id)]) == [None, None]
    assert store.trajectory(ref_of(theirs)) is not None
    deliver(redis, call("s1", tenant="acme"))
    found = store.trajectory(ref_of(theirs))
    assert found is not None
    assert len(found.transitions) == 2
