"""Where a round's trajectories come from: the hot store, the archive, and earlier rounds."""

from pathlib import Path

import pytest

from tests.trainer.records import a_selection, make_trainable
from trainer.batch.batching import Batch, look, selection_for
from trainer.batch.samples import Sample
from trainer.durable import write_atomic
from trainer.runs import PLAN, RESULT, Plan, RoundResult
from trajectories import keys
from trajectories.archive import Archived, Place, Writer
from trajectories.connection import Redis
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef


def configured(settings: Settings, **changes: object) -> Settings:
    trainer = settings.trainer.model_copy(update=changes)
    return settings.model_copy(update={"trainer": trainer})


def to_archive(
    store: Store, redis: Redis, settings: Settings, refs: list[str], number: int
) -> None:
    """Archive these and let Redis forget them."""
    writer = Writer(Place(settings.archive_url), number)
    for name in refs:
        ref = TrajectoryRef.parse(name)
        found = store.archivable(ref)
        assert found is not None
        writer.add(Archived.of(found))
        redis.delete(*redis.keys(f"trajectory:{ref.tenant}:{ref.id}*"))
        redis.zrem(keys.trainable("policy"), name)
    list(writer.seal())


def round_of(
    store: Store, settings: Settings, versions: tuple[int, ...] = (), now: int = 0
) -> Batch:
    return look(store, settings, selection_for(settings, "grpo", now), versions)


def test_the_archive_fills_a_round_up_newest_first(
    settings: Settings, store: Store, redis: Redis
) -> None:
    old = make_trainable(store, 2)
    to_archive(store, redis, settings, old, 1)
    newer = make_trainable(store, 2, start=2)
    to_archive(store, redis, settings, newer, 2)
    hot = make_trainable(store, 3, start=4)
    assert round_of(store, settings).refs == tuple(hot), "only where it is asked for"
    cold = configured(settings, cold=True)
    assert round_of(store, cold).refs == (*hot, *newer, *old)
    assert round_of(store, configured(cold, max_trajectories=4)).refs == (*hot, newer[0])


def test_what_expired_while_it_waited_is_read_from_the_archive(
    settings: Settings, store: Store, redis: Redis
) -> None:
    names = make_trainable(store, 2)
    to_archive(store, redis, settings, names, 1)
    redis.zadd(keys.trainable("policy"), dict.fromkeys(names, 1.0))
    assert round_of(store, settings).excluded == {"missing": 2}
    found = round_of(store, configured(settings, cold=True))
    assert sorted(found.refs) == sorted(names), "each once, though it is offered twice"


@pytest.mark.parametrize("is_tried", [True, False])
def test_what_a_round_used_without_a_look_at_it_is_drawn_again(
    is_tried: bool, settings: Settings, store: Store, redis: Redis
) -> None:
    names = make_trainable(store, 4)
    to_archive(store, redis, settings, names, 1)
    plan = Plan(
        run_id="r", policy="policy", algorithm="grpo", base_path="", parent=0, parent_path=None,
        optimizer_path=None, trainer=settings.trainer, refs=tuple(names[:2]),
        set_aside=(names[2],),
    )  # fmt: skip
    (settings.runs_dir / "r").mkdir(parents=True)
    write_atomic(settings.runs_dir / "r" / PLAN, plan.to_json())
    result = RoundResult(is_trained=False, reason="the rank is another one", is_tried=is_tried)
    write_atomic(settings.runs_dir / "r" / RESULT, result.to_json())
    used = [TrajectoryRef.parse(name) for name in names[:2]]
    store.mark_used("policy", used)
    store.give_back("policy", used)
    found = round_of(store, configured(settings, cold=True))
    assert set(found.refs) == {names[3], *(() if is_tried else names[:2])}


def test_what_a_round_used_is_never_drawn_as_unused(
    settings: Settings, store: Store, redis: Redis
) -> None:
    names = make_trainable(store, 4)
    to_archive(store, redis, settings, names, 1)
    store.mark_used("policy", [TrajectoryRef.parse(names[0])])
    redis.delete(*redis.keys("trajectory:*"))
    plan = Plan(
        run_id="r", policy="policy", algorithm="grpo", base_path="", parent=0, parent_path=None,
        optimizer_path=None, trainer=settings.trainer, refs=(names[1],), set_aside=(names[2],),
    )  # fmt: skip
    (settings.runs_dir / "r").mkdir(parents=True)
    write_atomic(settings.runs_dir / "r" / PLAN, plan.to_json())
    cold = configured(settings, cold=True)
    assert round_of(store, cold).refs == (names[3],)


def test_old_versions_in_the_archive_are_left_to_algorithms_that_take_them(
    settings: Settings, store: Store, redis: Redis
) -> None:
    to_archive(store, redis, settings, make_trainable(store, 2), 1)
    cold = configured(settings, cold=True, max_staleness=3)
    assert round_of(store, cold, now=3).refs
    assert not round_of(store, cold, now=4).examined
    assert look(store, cold, selection_for(cold, "sft", 4)).refs


def test_a_damaged_archive_stops_no_round(
    settings: Settings, store: Store, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    to_archive(store, redis, settings, make_trainable(store, 2), 1)
    for file in Path(settings.archive_url).rglob("*.zst"):
        file.write_bytes(file.read_bytes()[:-9])
    hot = make_trainable(store, 2, start=2)
    assert round_of(store, configured(settings, cold=True)).refs == tuple(hot)
    assert "damaged" in caplog.text


def test_a_share_of_a_round_is_replayed_and_marked(
    settings: Settings, store: Store, redis: Redis
) -> None:
    before = make_trainable(store, 20)
    used = [TrajectoryRef.parse(name) for name in before]
    store.mark_used("policy", used)
    store.note_trained("policy", 1, used)
    fresh = make_trainable(store, 12, start=20)
    assert not round_of(store, settings, (0, 1)).replayed
    found = round_of(store, configured(settings, replay_share=0.25), (0, 1))
    rows: list[Sample] = list(found.samples)
    assert found.refs == tuple(fresh)
    assert len(found.replayed) == len(set(found.replayed)) == 4
    assert set(found.replayed) <= set(before)
    assert {row.trajectory for row in rows if row.is_replayed} == set(found.replayed)
    assert {row.trajectory for row in rows if not row.is_replayed} == set(fresh)
    assert found.labelled == found.examined == 12, "what is replayed counts for nothing"


@pytest.mark.parametrize(("share", "most"), [(0.0, 8), (0.25, 6)])
def test_a_look_knows_whether_there_may_be_more(
    share: float, most: int, settings: Settings, store: Store
) -> None:
    asked = configured(settings, replay_share=share, max_trajectories=8)
    make_trainable(store, most - 1)
    assert not round_of(store, asked).is_full
    make_trainable(store, 3, start=20)
    found = round_of(store, asked)
    assert (found.examined, found.is_full) == (most, True)


def test_versions_too_old_for_a_ratio_are_not_replayed(settings: Settings, store: Store) -> None:
    used = [TrajectoryRef.parse(name) for name in make_trainable(store, 4)]
    store.mark_used("policy", used)
    store.note_trained("policy", 1, used)
    make_trainable(store, 4, start=4, policy_version=9)
    replaying = configured(settings, replay_share=0.5)
    assert not round_of(store, replaying, (1,), now=9).replayed
    selection = a_selection(current=9, max_staleness=None, needs_ratio=False)
    assert len(look(store, replaying, selection, (1,)).replayed) == 4
