"""What is written at the end of a turn of the event loop: records first, then the bytes for others.

While many calls run, one turn of the loop handles many of them. What they have
to write goes out together at its end: their records in one write to the spool,
and whoever waits for the bytes is woken once, not once for each (which costs
more than all else a write does). While turns are short, every write goes out
at once. Which it is, is measured: now and then a turn is gathered and counted.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

_PROBE_EVERY = 256  # writes that went out at once
_WORTH_IT = 3.0  # writes a turn; gathering fewer costs more than it saves
_MEMORY = 0.9  # of the mean, from turn to turn


class Transport(Protocol):
    """What of a transport is used here."""

    def write(self, data: bytes) -> None:
        """Send."""

    def is_closing(self) -> bool:
        """Whether it takes nothing any more."""


class Outbox:
    """The writes of one event loop."""

    __slots__ = ("_countdown", "_is_open", "_mean", "_waiting", "commit")

    def __init__(self) -> None:
        self._waiting: list[tuple[Transport, bytes]] = []
        self._is_open = False  # this turn's writes are gathered, and its end is scheduled
        self._countdown = _PROBE_EVERY
        self._mean = 0.0  # writes in a gathered turn
        self.commit: Callable[[], None] = _nothing  # brings the records of a turn to the spool

    def write(self, transport: Transport, content: bytes) -> None:
        """Send `content`, now or at the end of this turn; in order, either way."""
        if self.hold() or self._is_probe():
            self._waiting.append((transport, content))
        else:
            transport.write(content)

    def hold(self) -> bool:
        """Whether this turn is gathered: a record may wait for its end."""
        if not self._is_open and self._mean >= _WORTH_IT:
            self._open()
        return self._is_open

    def flush(self) -> None:
        """The end of the turn; to be called as well before a connection is closed."""
        if not self._is_open:
            return
        self._is_open = False
        self._countdown = _PROBE_EVERY
        waiting, self._waiting = self._waiting, []
        count = len(waiting)
        was_probe = self._mean < _WORTH_IT
        self._mean = float(count) if was_probe else _MEMORY * self._mean + (1 - _MEMORY) * count
        try:
            self.commit()
        except Exception:  # serving outlives learning
            logger.exception("the records of a turn could not be written")
        for transport, content in waiting:
            try:
                if not transport.is_closing():
                    transport.write(content)
            except Exception:  # one that is broken must not keep the others' bytes
                logger.exception("a connection took no bytes")

    def _is_probe(self) -> bool:
        """Whether this turn is gathered to see how full it is."""
        self._countdown -= 1
        if self._countdown <= 0:
            self._open()
        return self._is_open

    def _open(self) -> None:
        asyncio.get_running_loop().call_soon(self.flush)
        self._is_open = True


def _nothing() -> None:
    pass
