"""Forgetting: what somebody asked to have erased, wherever it lies (but see docs/privacy.md).

The tombstones come first, so that nothing that is under way brings back what
is erased after them. Everything here may be run again.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from redis import Redis

from trajectories import keys
from trajectories.access import TENANT
from trajectories.archive import Archive, Place
from trajectories.archive.erasing import erase, of_users, segments_with
from trajectories.errors import RecordError
from trajectories.model import Transition, unpack_record
from trajectories.privacy.kin import siblings_that_may_be, those_there
from trajectories.privacy.runs import Trained, erase_rows, together
from trajectories.privacy.tombstones import Tombstones, names_of, user_name
from trajectories.privacy.users import pseudonym, users_of
from trajectories.store import Store, TrajectoryRef
from trajectories.store.erasing import Erased, names_of_steps

SETTLE_SECONDS = 1.0  # a record that was looked at before the tombstone is stored by then
_PAGE = 500
# A field of a record that may be cut off or otherwise broken, and the string it has.
_NAMED = re.compile(
    rb'"(tenant|user|safety_identifier|user_id)"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be forgotten: trajectories, and all that these users said."""

    tenant: str
    refs: frozenset[TrajectoryRef]
    users: frozenset[str] = frozenset()


@dataclass(slots=True)
class Forgotten:
    """What was erased, or would be."""

    hot: Erased = field(default_factory=Erased)
    under_way: int = 0  # entries of streams
    set_aside: int = 0  # entries of the quarantine
    responses: int = 0  # kept for `previous_response_id`
    archived: int = 0  # rows of the archive, or segments that hold some
    runs: list[Trained] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)  # `policy@version`, trained on any of it


class Forgetting:
    """Erases from Redis, the archive and the runs of the trainer.

    Raises RedisError, ArchiveError, LeaseLost and OSError; then it has to be run again.
    """

    def __init__(self, redis: Redis, place: Place, runs_dir: Any) -> None:
        self._redis: Any = redis
        self._store = Store(redis)
        self._place = place
        self._runs_dir = runs_dir
        self._tombstones = Tombstones(redis)

    def of_user(
        self, tenant: str, user: str, *, progress: Callable[[], None] = lambda: None
    ) -> Wanted:
        """All trajectories with a call of that user. Reads all that the tenant has."""
        key = self._redis.get(keys.USER_KEY)
        users = frozenset({user} | ({pseudonym(user, bytes(key))} if key else set()))
        refs: set[TrajectoryRef] = set()
        for ref in self._store.all_trajectories():
            if ref.tenant == tenant:
                progress()
                named = (user for step in self._steps(ref) for user in users_of(step.request))
                if users & set(named):
                    refs.add(ref)
        refs |= of_users(self._place, tenant, users, progress=progress)
        return Wanted(tenant, frozenset(refs), users)

    def forget(
        self,
        wanted: Wanted,
        *,
        is_dry: bool = False,
        settle_seconds: float = SETTLE_SECONDS,
        progress: Callable[[], None] = lambda: None,
    ) -> Forgotten:
        """Erase it, or (`is_dry`) only say what there is. Siblings go with what they answer."""
        tenant, own = wanted.tenant, wanted.refs
        siblings = siblings_that_may_be(self._redis, self._place, own)
        there = those_there(self._redis, self._place, siblings)
        refs = own | there
        wanted = replace(wanted, refs=refs)
        forgotten = Forgotten(hot=self._store.erase(refs, is_dry=True))
        names = {ref.id for ref in refs} | forgotten.hot.names | self._archived_names(refs)
        if not is_dry:
            buried = names | {user_name(user) for user in wanted.users}
            self._tombstones.bury(tenant, buried, time.time())
        forgotten.under_way = self._streams(wanted, names, is_dry=is_dry)
        forgotten.set_aside = self._quarantine(wanted, names, is_dry=is_dry)
        forgotten.responses = self._responses(tenant, names, is_dry=is_dry)
        forgotten.versions = self._versions({str(ref) for ref in refs | siblings})
        if is_dry:
            forgotten.archived = len(segments_with(self._place, refs))
        else:
            time.sleep(settle_seconds)
            siblings |= siblings_that_may_be(self._redis, self._place, own)
            there = those_there(self._redis, self._place, siblings)
        # By what they answer siblings are found again, whoever is killed here: that goes last.
        for some, members in ((there - own, siblings - own), (own, own)):
            if not is_dry:
                forgotten.hot.contents += self._store.erase(some).contents
                forgotten.archived += erase(self._place, self._redis, some, progress=progress)
            named = {str(ref) for ref in members}
            forgotten.runs += erase_rows(self._runs_dir, named, is_dry=is_dry)
        forgotten.runs = together(forgotten.runs)
        if not is_dry:
            self._store.erase(own | there)  # and what a worker had in hand
        return forgotten

    def _steps(self, ref: TrajectoryRef) -> list[Transition]:
        try:
            return self._store.recorded(ref)
        except RecordError:  # nobody can say whose it is
            return []

    def _archived_names(self, refs: Collection[TrajectoryRef]) -> set[str]:
        archive = Archive(self._place)
        records = [archive.read(ref) for ref in refs]
        steps = [
            step
            for record in records
            if record is not None
            for step in (*record.trajectory.transitions, *record.superseded)
        ]
        return set(names_of_steps(steps))

    def _streams(self, wanted: Wanted, names: Collection[str], *, is_dry: bool) -> int:
        """Records that no dispatcher has taken out of the streams yet."""
        users = {user_name(user) for user in wanted.users}
        erased = 0
        for gateway in self._redis.smembers(keys.GATEWAYS):
            stream = keys.traffic(gateway.decode())
            for entry_id, fields in self._entries(stream):
                try:
                    record = unpack_record(fields.get(b"r", b""))
                except RecordError:
                    continue
                is_ours = record.tenant == wanted.tenant
                if is_ours and not {*names, *users}.isdisjoint(names_of(record)):
                    erased += 1
                    if not is_dry:
                        self._redis.xdel(stream, entry_id)
        return erased

    def _quarantine(self, wanted: Wanted, names: Collection[str], *, is_dry: bool) -> int:
        """Records that could not be applied, and verdicts that were given up."""
        erased = 0
        for entry_id, fields in self._entries(keys.QUARANTINE):
            if is_set_aside_of(wanted, names, fields):
                erased += 1
                if not is_dry:
                    self._redis.xdel(keys.QUARANTINE, entry_id)
        return erased

    def _entries(self, stream: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        start = "-"
        while found := self._redis.xrange(stream, start, "+", count=_PAGE):
            yield from found
            start = f"({found[-1][0].decode()}"

    def _responses(self, tenant: str, names: Collection[str], *, is_dry: bool) -> int:
        """Responses that were kept to be asked for again."""
        erased = 0
        for key in self._redis.scan_iter(match=keys.kept_response(tenant, "*"), count=1000):
            raw = self._redis.get(key)
            kept = orjson.loads(raw) if raw else {}
            is_named = kept.get("trajectory_id") in names
            if is_named or key.decode().rpartition(":")[2] in names:
                erased += 1
                if not is_dry:
                    self._redis.delete(key)
        return erased

    def _versions(self, members: Collection[str]) -> list[str]:
        """Adapters that the registry knows to have been trained on any of these."""
        found = []
        for key in self._redis.scan_iter(match="trained:*", count=1000):
            _, policy, version = key.decode().split(":")
            if any(self._redis.smismember(key, list(members))) if members else False:
                found.append(f"{policy}@{version}")
        return sorted(found)


def is_set_aside_of(wanted: Wanted, names: Collection[str], fields: Mapping[bytes, bytes]) -> bool:
    """Whether an entry of the quarantine is of what is wanted: its payload may be anything."""
    raw = fields.get(b"r", b"")
    if not raw:  # a verdict
        return fields.get(b"id", b"").decode() in {str(ref) for ref in wanted.refs}
    # Ids of our own making: what a client calls its votes may stand anywhere.
    marks = [name.encode() for name in names if name.startswith(("tr_", "traj_"))]
    said = b"\n".join(fields.values())
    is_named = any(mark in said for mark in marks)
    try:
        record = unpack_record(raw)
    except RecordError:
        tenant, users = _tenant_and_users(raw)
        return tenant == wanted.tenant and (is_named or not wanted.users.isdisjoint(users))
    own = {*names, *map(user_name, wanted.users)}
    return record.tenant == wanted.tenant and (is_named or not own.isdisjoint(names_of(record)))


def _tenant_and_users(raw: bytes) -> tuple[str, set[str]]:
    """Whose a payload is that is no record, as far as it can be told from its bytes."""
    found = [
        (name, text)
        for name, written in _NAMED.findall(raw)
        if (text := _text(written)) is not None
    ]
    tenants = [text for name, text in found if name == b"tenant"]
    users = {text for name, text in found if name != b"tenant"}
    return tenants[0] if tenants else TENANT, users


def _text(written: bytes) -> str | None:
    try:
        return str(orjson.loads(written))
    except orjson.JSONDecodeError:
        return None
