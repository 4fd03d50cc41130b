"""Whether bytes may match one of many patterns, in one pass: Hyperscan's, or RE2's where it is not.

Both are automata that take the same time for a byte whatever somebody writes.
Hyperscan looks at many bytes at once, and is three to six times as fast; it is
made for Linux on processors of this decade.
"""

import threading
from collections.abc import Sequence
from typing import Any

import re2

try:
    import hyperscan
except ImportError:  # another system, or an older processor
    hyperscan = None  # type: ignore[assignment]


class Prefilter:
    """Looks for patterns (of RE2's syntax, over bytes). Safe to share between threads."""

    def __init__(self, patterns: Sequence[bytes], options: Any, *, is_vector: bool = True) -> None:
        """`options` are RE2's; with `is_vector` Hyperscan looks where it can."""
        self._database = _compiled(patterns) if is_vector else None
        self._regexp: Any = None
        if self._database is None:
            self._regexp = re2.compile(b"|".join(patterns), options)
        self._of_thread = threading.local()

    @property
    def is_vector(self) -> bool:
        """Whether Hyperscan looks."""
        return self._database is not None

    def finds(self, content: bytes) -> bool:
        """Whether one of them matches somewhere."""
        database = self._database
        if database is None:
            return self._regexp.search(content) is not None
        try:
            scratch = self._of_thread.scratch
        except AttributeError:
            scratch = self._of_thread.scratch = hyperscan.Scratch(database)
        found: list[int] = []
        database.scan(content, match_event_handler=_note, context=found, scratch=scratch)
        return bool(found)


def _note(number: int, start: int, stop: int, flags: int, found: Any) -> None:
    found.append(number)


def _compiled(patterns: Sequence[bytes]) -> Any:
    if hyperscan is None:
        return None
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
    try:
        database.compile(
            expressions=list(patterns),
            ids=list(range(len(patterns))),
            flags=[flags] * len(patterns),
            elements=len(patterns),
        )
    except hyperscan.error:  # a value too long for it, or a processor that it does not know
        return None
    return database
