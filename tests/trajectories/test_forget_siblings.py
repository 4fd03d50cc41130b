"""Who is forgotten is forgotten with every answer that was asked for anew."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.residue import in_files, in_redis
from tests.trajectories.test_forget import (
    CANARY,
    archived,
    call,
    deliver,
    forgetting,
    place,
    redis,
    ref_of,
    rewarded,
)
from tests.workers.test_archiver import archive_all
from trajectories.archive import Archive, Place, erasing
from trajectories.archive.scrubbing import open_scrub
from trajectories.ids import new_id
from trajectories.model import Transition
from trajectories.privacy import forget
from trajectories.privacy.forget import Forgetting, Wanted
from trajectories.rollouts import Rollout
from trajectories.settings import Settings
from trajectories.store import Store

__all__ = ["forgetting", "place", "redis"]  # fixtures


def sibling(of: Transition, number: int, at: float = 0) -> Transition:
    name = new_id("tr")
    return of.model_copy(
        update={
            "id": name,
            "trajectory_id": Rollout(of.tenant, of.id, number).trajectory_id,
            "session_id": None,
            "session_source": "rollout",
            "response_id": f"chatcmpl-{name}",
            "request_id": name,
            "rollout": of.id,
            "started_at": at or of.started_at + 1,
        }
    )


@pytest.mark.parametrize("is_archived", [False, True])
def test_siblings_go_with_what_they_answer(
    redis: Any, forgetting: Forgetting, place: Place, tmp_path: Path, is_archived: bool
) -> None:
    gone, kept = call("gone"), call("kept", user="bob", text="something else " * 20)
    siblings, other = [sibling(gone, number) for number in range(3)], sibling(kept, 0)
    store = rewarded(redis, gone, kept, *siblings, other)
    before = store.trajectory(ref_of(other))
    if is_archived:
        archive_all(redis, place, scrub=open_scrub(Settings(), redis))
        assert CANARY.encode() in archived(tmp_path)
        store.erase([ref_of(gone), *map(ref_of, siblings)])  # the archive alone has them now

    wanted = Wanted("default", frozenset({ref_of(gone)}))
    looked = forgetting.forget(wanted, is_dry=True)
    assert looked.hot.trajectories == (0 if is_archived else 4)
    forgotten = forgetting.forget(wanted, settle_seconds=0)
    assert forgotten.archived == (4 if is_archived else 0)
    assert CANARY.encode() not in in_redis(redis)
    assert CANARY.encode() not in in_files(tmp_path)
    assert store.trajectory(ref_of(other)) == before
    if is_archived:
        assert Archive(place).read(ref_of(other)) is not None


def test_siblings_under_way_or_asked_for_just_then_do_not_come_back(
    redis: Any, forgetting: Forgetting
) -> None:
    gone = call("gone")
    store = rewarded(redis, gone)
    deliver(redis, sibling(gone, 0), step=False)
    forgotten = forgetting.forget(Wanted("default", frozenset({ref_of(gone)})), settle_seconds=0)
    assert forgotten.under_way == 1
    late = sibling(gone, 1, at=time.time() + 5)  # by a process that had its prompt in hand
    deliver(redis, late)
    assert store.trajectory(ref_of(late)) is None
    assert CANARY.encode() not in in_redis(redis)


def test_a_sibling_can_be_forgotten_alone(redis: Any, forgetting: Forgetting) -> None:
    kept = call("kept")
    own = sibling(kept, 0)
    store: Store = rewarded(redis, kept, own)
    forgetting.forget(Wanted("default", frozenset({ref_of(own)})), settle_seconds=0)
    assert store.trajectory(ref_of(own)) is None
    assert store.trajectory(ref_of(kept)) is not None


class Killed(BaseException):
    pass


@pytest.mark.parametrize("is_archived", [False, True])
def test_whoever_is_killed_meanwhile_forgets_them_when_it_is_run_again(
    redis: Any,
    forgetting: Forgetting,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_archived: bool,
) -> None:
    gone = call("gone")
    siblings = [sibling(gone, number) for number in range(2)]
    store = rewarded(redis, gone, *siblings)
    run = tmp_path / "runs" / "run_1"
    run.mkdir(parents=True)
    members = [f"default/{ref_of(step).id}" for step in (gone, *siblings)]
    (run / "plan.json").write_text(json.dumps({"run_id": "run_1", "refs": members}))
    rows = [json.dumps({"trajectory": name, "prompt_token_ids": [1]}) for name in members]
    (run / "batch.jsonl").write_text("\n".join(rows) + "\n")
    if is_archived:
        archive_all(redis, place, scrub=open_scrub(Settings(), redis))
        store.erase([ref_of(gone), *map(ref_of, siblings)])
    wanted = Wanted("default", frozenset({ref_of(gone)}))
    for most in range(40):
        with monkeypatch.context() as patch:
            die_after(patch, most)
            try:
                forgetting.forget(wanted, settle_seconds=0)
            except Killed:
                continue
        break
    assert 3 < most < 39
    assert [store.trajectory(ref_of(step)) for step in (gone, *siblings)] == [None] * 3
    assert CANARY.encode() not in in_redis(redis)
    assert CANARY.encode() not in in_files(tmp_path)
    assert not (run / "batch.jsonl").read_text()


def die_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Kill whoever erases, once so many things were erased: what it can name goes first."""
    left = [steps]

    def counted(erase_one: Any) -> Any:
        def erased(*of: Any, **how: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return erase_one(*of, **how)

        return erased

    patch.setattr(Store, "_erase_keys", counted(Store._erase_keys))
    patch.setattr(erasing, "_rewrite", counted(erasing._rewrite))
    patch.setattr(forget, "erase_rows", counted(forget.erase_rows))
