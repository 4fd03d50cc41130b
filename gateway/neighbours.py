"""The counts of all processes of `gateway.workers`, whichever of them is asked.

They share one port, so a scrape reaches any of them. Each therefore tells its
own counts to the others over a socket in the data directory, when it is asked,
and whoever was scraped adds them up. A process that has died counts no more,
which looks like a restart to Prometheus.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

_SECONDS = 1.0  # for another process to answer
_SMALLEST = ("_created", "_revision")  # of these the sum means nothing


class Neighbours:
    """The processes that share a port, seen from one of them."""

    def __init__(self, directory: Path, render: Callable[[], bytes]) -> None:
        self._directory = directory
        self._render = render
        self._path = directory / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Answer the others; where that cannot be, count alone, and say so."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._answer, self._path)
        except OSError as error:  # such as a path that is too long for a socket
            logger.warning("each process counts alone: %s", error)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def render_all(self) -> bytes:
        """The exposition of all processes together."""
        others = [path for path in self._directory.glob("*.sock") if path != self._path]
        told = await asyncio.gather(*map(_ask, others))
        texts = [text for text in told if text is not None]
        return merged([self._render(), *texts]) if texts else self._render()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._render())
        writer.close()


def merged(texts: Iterable[bytes]) -> bytes:
    """Several expositions as one: counts and gauges added up."""
    return generate_latest(_Merged(texts))


class _Merged(Collector):
    def __init__(self, texts: Iterable[bytes]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text.decode()):
                families.setdefault(family.name, family)
                found = values.setdefault(family.name, {})
                for sample in family.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    known = found.get(key)
                    if known is None:
                        found[key] = sample.value
                    elif sample.name.endswith(_SMALLEST):
                        found[key] = min(known, sample.value)
                    else:
                        found[key] = known + sample.value
        for name, family in families.items():
            metric = Metric(name, family.documentation, family.type)
            for (sample_name, labels), value in values[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric


async def _ask(path: Path) -> bytes | None:
    """What another process counts; None when it is gone."""
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    except ConnectionRefusedError:
        _forget(path)
    except OSError as error:  # a TimeoutError, too
        logger.warning("a process does not tell its counts: %s", error)
    return None


def _forget(path: Path) -> None:
    """A process died without a word."""
    path.unlink(missing_ok=True)
