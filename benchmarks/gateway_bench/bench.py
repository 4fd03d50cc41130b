"""The bench itself: upstream, gateways and load client, ready to be measured."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway_bench import ours
from benchmarks.gateway_bench.compiling import ROOT, compiled_packages
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.installing import installed
from benchmarks.gateway_bench.peers import PEERS, Launch, Place
from benchmarks.gateway_bench.ports import free_port
from benchmarks.gateway_bench.rows import DIRECT, LINES
from benchmarks.gateway_bench.running import Running, started, wait_until_it_answers
from benchmarks.gateway_bench.wire import compiled, upstream


@dataclass
class Bench:
    """What runs, which versions, and which peers could not be had, with the reason."""

    program: Path
    packages: Path = ROOT  # Ratchet's
    gateways: list[Running] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Running:
        return next(gateway for gateway in self.gateways if gateway.name == name)


@contextmanager
def open_bench(
    names: Sequence[str], cache: Path, tell: Callable[[str], None], *, is_pure: bool = False
) -> Iterator[Bench]:
    """Install what is not there yet and start everything; a peer that fails becomes `missing`.

    Raises BenchmarkError when Ratchet or the upstream does not start.
    """
    tell("compiling benchmarks/wire.c")
    bench = Bench(compiled(cache))
    if not is_pure and not set(LINES).isdisjoint(names):
        tell("compiling Ratchet")
        bench.packages = compiled_packages(cache)
    with ExitStack() as stack:
        # Short: a Unix socket's path may have 107 bytes at most.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb")))
        upstream_port = stack.enter_context(upstream(bench.program))
        for name in names:
            tell(f"starting {name}")
            try:
                gateway = _start(stack, bench, name, cache, root / name, upstream_port, tell)
                wait_until_it_answers(gateway, bench.program)
            except BenchmarkError as error:
                if name not in PEERS:
                    raise
                bench.missing[name] = str(error)
            else:
                bench.gateways.append(gateway)
        yield bench


def _start(
    stack: ExitStack,
    bench: Bench,
    name: str,
    cache: Path,
    folder: Path,
    upstream_port: int,
    tell: Callable[[str], None],
) -> Running:
    if name == DIRECT:
        return Running(DIRECT, upstream_port, Launch(()))
    port = free_port()
    if name in LINES:
        bench.versions.update(ours.versions(bench.packages))
        return stack.enter_context(
            ours.ratchet(
                name,
                port=port,
                upstream_port=upstream_port,
                folder=folder,
                packages=bench.packages,
            )
        )
    tell(f"installing {name}")
    package = installed(name, cache)
    bench.versions[name] = package.version
    tell(f"starting {name} {package.version}")
    place = Place(port, upstream_port, folder, package.home, free_port())
    return stack.enter_context(started(name, PEERS[name](place), port=port, folder=folder))
