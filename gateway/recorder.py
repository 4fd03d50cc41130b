"""Records what was served. Serving outlives learning: nothing here reaches a client.

One of the few places that catch every exception: a record that cannot be
written is logged, counted and let go.
"""

import logging
import time
from collections.abc import Callable, Sequence

from gateway.errors import ApiError
from gateway.metrics import Metrics
from gateway.redaction import feedback_without_secrets
from gateway.spool.recent import LIMIT_BYTES
from gateway.spool.writer import MOST_AT_ONCE, Spool
from trajectories.errors import SpoolError
from trajectories.model import Feedback, Retraction, pack_record
from trajectories.privacy.secrets import NO_REDACTION, Redactor

logger = logging.getLogger(__name__)

_MANY_BYTES = LIMIT_BYTES // 4


class Recorder:
    """Transitions and feedback into the spool."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        *,
        is_required: bool,
        redactor: Redactor = NO_REDACTION,
        hold: Callable[[], bool] = lambda: False,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._is_required = is_required
        self._redactor = redactor
        self._hold = hold
        self._hurry = hurry
        self._waiting: list[tuple[str, bytes]] = []
        self._silent_until = 0.0
        self._retry_at = 0.0
        self.is_failing = False

    def check_room(self) -> None:
        """With `durability = required`: refuse a call that could not be recorded."""
        if not self._is_required:
            return
        # A disk that failed is tried again by one call a second.
        is_failing = self.is_failing and time.monotonic() < self._retry_at
        if is_failing or self._spool.is_full:
            raise ApiError(503, "not_recordable", "the spool takes no records now", retry_after=5)

    def record(self, record_id: str, make: Callable[[], bytes]) -> None:
        """Make a transition's payload and write it; a failure is counted, and logged.

        Where `hold` says so it waits for `commit`, and with it the answer's last byte.
        """
        try:
            payload = make()
            if self._hold():
                self._waiting.append((record_id, payload))
            else:
                self._write(payload, "transition")
                self._hurry_if_many()
        except Exception:  # serving outlives learning
            self._note_loss(record_id)

    def commit(self) -> None:
        """Write the transitions that wait, all at once if that is possible."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        if len(waiting) > 1 and self._spool.put_all([payload for _, payload in waiting]):
            self.is_failing = False
            self._metrics.recorded.add("transition", len(waiting))
        else:
            for record_id, payload in waiting:
                try:
                    self._write(payload, "transition")
                except Exception:  # serving outlives learning
                    self._note_loss(record_id)
        self._hurry_if_many()

    def keep_all(self, records: Sequence[Feedback | Retraction]) -> None:
        """Write votes and what takes them back, in one write where that is possible.

        Raises SpoolError; some may be written then, and are to be sent again.
        """
        payloads: list[bytes] = []
        for record in records:
            if isinstance(record, Feedback):
                payloads.append(pack_record(feedback_without_secrets(record, self._redactor)))
            else:
                payloads.append(pack_record(record))
        for start in range(0, len(payloads), MOST_AT_ONCE):
            batch = payloads[start : start + MOST_AT_ONCE]
            if len(batch) > 1 and self._spool.put_all(batch):
                self.is_failing = False
                self._metrics.recorded.add("feedback", len(batch))
            else:
                for payload in batch:
                    self._write(payload, "feedback")

    def _hurry_if_many(self) -> None:
        # What falls out of memory has to be read back from the disk.
        if self._spool.recent.size_bytes >= _MANY_BYTES:
            self._hurry()

    def _note_loss(self, record_id: str) -> None:
        self._metrics.dropped.inc()
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + 1
            logger.exception("a record was lost", extra={"record": record_id})

    def _write(self, payload: bytes, kind: str) -> None:
        try:
            self._spool.put(payload)
        except SpoolError:
            self.is_failing = True
            self._retry_at = time.monotonic() + 1
            raise
        self.is_failing = False
        self._metrics.recorded.add(kind)
