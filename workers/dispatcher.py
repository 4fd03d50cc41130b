"""The dispatcher: from the traffic streams into the store, and from there to reward jobs.

It reads what gateways shipped, stores it (effect first, acknowledgement
after), and asks for the scoring of what changed. It computes no reward, and it
may be killed at any point: a record that was applied but not acknowledged is
delivered again and changes nothing. Any number of dispatchers may run.
"""

import logging
import traceback
from collections.abc import Sequence
from threading import Event
from time import monotonic, time
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from trajectories import keys
from trajectories.connection import connect
from trajectories.model import Recorded, Retraction, Transition, unpack_record
from trajectories.privacy.tombstones import Tombstones, when
from trajectories.queues import reward_queue
from trajectories.settings import Settings
from trajectories.store import Store
from workers.dictionaries import Dictionaries
from workers.linker import Linker
from workers.reconciler import Reconciler
from workers.timing import Timer, Timing
from workers.traffic import Entry, Traffic
from workers.verdicts.desk import VerdictDesk

log = logging.getLogger(__name__)


class Dispatcher:
    """One loop over all streams and the small duties between two reads."""

    def __init__(
        self,
        redis: Redis,
        blocking: Redis,
        *,
        label_window_seconds: float,
        verdicts: Settings | None = None,
        timing: Timing | None = None,
    ) -> None:
        timing = timing or Timing()
        self._redis: Any = redis
        self._store = Store(redis)
        self._linker = Linker(self._store)
        self._dictionaries = Dictionaries(self._store)
        self._traffic = Traffic(redis, blocking)
        self._tombstones = Tombstones(redis)
        queue = reward_queue(redis, timing.job_timeout)
        self._reconciler = Reconciler(redis, self._store, queue, timing)
        self._desk = VerdictDesk(redis, self._store, verdicts) if verdicts else None
        self._label_window_seconds = label_window_seconds
        self._timing = timing
        self._reload = Timer(timing.reload_gateways)
        self._take_over = Timer(timing.reclaim_every)
        self._trim = Timer(timing.trim_every)
        self._close = Timer(timing.close_every)
        self._expire = Timer(timing.expire_every)
        self._learn = Timer(timing.learn_every)
        self._is_well = True
        self._is_behind = False  # more was idle than one turn could close

    def run(self, stop: Event) -> None:
        """Work until `stop` is set. Redis away is waited out; nothing else ends the loop."""
        wait = 0.1
        while not stop.is_set():
            try:
                self.step(stop)
                self._note(None)
                wait = 0.1
            except RedisError as error:
                if str(error).startswith("NOGROUP"):
                    self._start_over()
                    continue
                self._note(error)
                self._start_over()
                stop.wait(wait)
                wait = min(2 * wait, self._timing.longest_wait)
            except Exception:  # the loop outlives a bug in one step
                log.exception("dispatcher step failed")
                stop.wait(self._timing.longest_wait)

    def step(self, stop: Event) -> None:
        """One turn: read and apply what is there, then whatever is due."""
        if self._reload.is_due():
            self._traffic.reload()
        if self._traffic.streams:
            self._apply_all(self._traffic.read(self._timing.block))
        else:
            stop.wait(self._timing.block)
        if self._take_over.is_due():
            for entries in self._traffic.take_over(self._timing.reclaim_idle):
                self._apply_all(entries)
        if self._close.is_due() or self._is_behind:
            self._is_behind = self._close_all()
        self._reconciler.ask()
        if self._desk is not None:
            self._desk.ask()
        if self._trim.is_due():
            self._traffic.trim()
        if self._learn.is_due():
            self._dictionaries.look()
        if self._expire.is_due():
            self._store.expire_pending(time())
            if missed := self._store.expire_archiving(time()):
                log.error("%d trajectories expired before they were archived", missed)

    def _close_all(self) -> bool:
        """Close what is idle and end the windows that are over; whether some may be left."""
        until = monotonic() + self._timing.close_for
        self._store.end_windows(time())
        while self._store.close_idle(time() - self._label_window_seconds):
            if monotonic() >= until:
                return True
        return False

    def _apply_all(self, entries: Sequence[Entry]) -> None:
        """Apply a batch in the order of its calls: several streams may hold one conversation."""
        if not entries:
            return
        read = [(entry, self._read(entry)) for entry in entries]
        known = [(entry, record) for entry, record in read if record is not None]
        buried = self._tombstones.buried([record for _, record in known])
        pairs = sorted(
            (pair for pair, is_buried in zip(known, buried, strict=True) if not is_buried),
            key=lambda pair: when(pair[1]),
        )
        is_added = self._add_all([record for _, record in pairs if isinstance(record, Transition)])
        for entry, record in pairs:
            if not (is_added and isinstance(record, Transition)):
                self._apply(entry, record)
        self._traffic.acknowledge(entries)

    def _add_all(self, transitions: Sequence[Transition]) -> bool:
        """Store the transitions of a batch; False where each has to be tried by itself."""
        try:
            self._linker.add_all(transitions, settle_seconds=self._timing.settle)
        except RedisError:
            raise
        except Exception:  # something is wrong with one of them
            log.exception("a batch could not be stored as one")
            return False
        return True

    def _read(self, entry: Entry) -> Recorded | None:
        """The record of an entry; what is none is set aside."""
        try:
            return unpack_record(entry.payload)
        except Exception:  # as in `_apply`
            self._quarantine(entry, traceback.format_exc(limit=-3))
            return None

    def _apply(self, entry: Entry, record: Recorded) -> None:
        """The effect of one record, or its quarantine; raises only when Redis cannot answer."""
        try:
            if isinstance(record, Transition):
                self._linker.add(record)
            elif isinstance(record, Retraction):
                self._store.retract(record)
            else:
                self._store.add_feedback(record)
        except RedisError:
            raise
        except Exception:  # whatever is wrong with one record must not stop the others
            self._quarantine(entry, traceback.format_exc(limit=-3))

    def _quarantine(self, entry: Entry, reason: str) -> None:
        """Set a record aside where it can be looked at, and count it."""
        log.error("record set aside", extra={"stream": entry.stream, "entry": entry.id})
        pipe = self._redis.pipeline(transaction=True)
        pipe.xadd(
            keys.QUARANTINE,
            {"stream": entry.stream, "id": entry.id, "r": entry.payload, "reason": reason},
            maxlen=keys.QUARANTINE_KEPT,
            approximate=False,
        )
        pipe.hincrby(keys.COUNTS, "quarantined", 1)
        pipe.execute()

    def _start_over(self) -> None:
        """The groups may be gone: join them again before the next read."""
        self._traffic.forget()
        self._store.forget_written()
        self._reload = Timer(self._timing.reload_gateways)

    def _note(self, error: RedisError | None) -> None:
        """One line when Redis goes, one when it is back."""
        if error is not None and self._is_well:
            log.warning("Redis is away, waiting: %s", error)
        elif error is None and not self._is_well:
            log.info("Redis is back")
        self._is_well = error is None


def build_dispatcher(settings: Settings, timing: Timing | None = None) -> Dispatcher:
    """A dispatcher for these settings; does not connect yet."""
    timing = timing or Timing()
    return Dispatcher(
        connect(settings.redis),
        connect(settings.redis, blocking_seconds=timing.block),
        label_window_seconds=settings.rewards.label_window_seconds,
        verdicts=settings,
        timing=timing,
    )
