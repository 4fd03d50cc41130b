"""Dictionaries for zstd, learned from a tenant's own traffic by the dispatcher that stores it.

A short message compresses badly by itself: what all messages have in common has
to be known beforehand. The dispatcher keeps a sample of what is new and trains
a dictionary from it, in a thread, when there is enough, and again when there is
twenty times as much. A dictionary outlives the messages it was made of, so it
must not quote anybody: before training, every word is taken out of the samples
that does not occur in several trajectories.
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import zstandard

from trajectories.store import Store
from trajectories.store.compression import Dictionary

log = logging.getLogger(__name__)

DICTIONARY_BYTES = 64 * 1024
SAMPLES = 1_000
LONGEST_SAMPLE = 8_192  # bytes
AGAIN_AT = 20  # times the samples of the first
MOST_TENANTS = 64  # that are sampled at a time
OF_TRAJECTORIES = 5  # a word has to occur in as many
_WORDS = re.compile(rb"[\w\x80-\xff'-]+|[^\w\x80-\xff'-]+")

Sample = tuple[str, bytes]  # trajectory, and what was new in it


@dataclass(slots=True)
class _Samples:
    """A reservoir: every sample seen is in it with the same chance."""

    kept: list[Sample] = field(default_factory=list)
    seen: int = 0
    due_at: int = SAMPLES

    def add(self, sample: Sample) -> None:
        self.seen += 1
        if len(self.kept) < SAMPLES:
            self.kept.append(sample)
        elif (place := random.randrange(self.seen)) < SAMPLES:
            self.kept[place] = sample


class Dictionaries:
    """Samples what a store writes, and gives it dictionaries. Of the dispatcher's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._samples: dict[str, _Samples] = {}
        self._trained: dict[str, Future[bytes | None]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dictionaries")
        store.observe = self.observe

    def observe(self, tenant: str, trajectory: str, raw: bytes) -> None:
        """Something new was written: maybe it becomes a sample."""
        if len(raw) > LONGEST_SAMPLE or len(raw) < 32:
            return
        samples = self._samples.get(tenant)
        if samples is None:
            if len(self._samples) >= MOST_TENANTS:
                return
            samples = self._samples[tenant] = _Samples()
        samples.add((trajectory, raw))

    def look(self) -> None:
        """Begin and end trainings. Raises redis.RedisError when Redis cannot answer."""
        for tenant, samples in self._samples.items():
            if samples.seen >= samples.due_at and tenant not in self._trained:
                is_first = samples.due_at == SAMPLES
                samples.due_at *= AGAIN_AT
                if is_first and self._store.dictionary(tenant) is not None:
                    continue  # of an earlier run, or of another dispatcher
                self._trained[tenant] = self._pool.submit(train, list(samples.kept))
        for tenant, future in list(self._trained.items()):
            if future.done():
                del self._trained[tenant]
                self._take(tenant, future)

    def _take(self, tenant: str, future: "Future[bytes | None]") -> None:
        if error := future.exception():
            log.warning("no dictionary could be trained for %s: %s", tenant, error)
        elif content := future.result():
            self._store.use_dictionary(tenant, Dictionary(content))
            log.info("a dictionary of %d bytes was trained for %s", len(content), tenant)


def train(samples: Sequence[Sample]) -> bytes | None:
    """A dictionary of what trajectories have in common; None when that is next to nothing."""
    texts = [text for text in shared_words(samples) if len(text) >= 16]
    size = min(DICTIONARY_BYTES, sum(map(len, texts)) // 4)
    if size < 1024:
        return None
    return zstandard.train_dictionary(size, [*texts]).as_bytes()


def shared_words(samples: Iterable[Sample]) -> list[bytes]:
    """The samples without the words that occur in fewer than `OF_TRAJECTORIES` trajectories."""
    split = [(trajectory, _WORDS.findall(raw)) for trajectory, raw in samples]
    where = {(word, trajectory) for trajectory, words in split for word in words}
    counts = Counter(word for word, _ in where)
    return [
        b"".join(word for word in words if counts[word] >= OF_TRAJECTORIES) for _, words in split
    ]
