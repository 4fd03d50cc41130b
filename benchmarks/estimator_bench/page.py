"""The tables of docs/results.md, from the files that the benchmark wrote."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.estimator_bench.credits import TARGET

Results = dict[str, dict[str, Any]]  # table -> seed -> world -> arm -> result


def read(out: Path, tables: Sequence[str]) -> Results:
    """Every result there is."""
    return {
        table: {
            path.stem.rpartition("-")[2]: json.loads(path.read_text())
            for path in sorted(out.glob(f"{table}-*.json"))
        }
        for table in tables
    }


def tables(found: Results) -> dict[str, str]:
    """Each table as Markdown; those without a result are left out."""
    makers: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
        "baselines": _baselines,
        "corrections": _corrections,
        "credits": _credits,
        "missing": _missing,
        "algorithms": _algorithms,
        "siblings": _siblings,
    }
    return {name: "\n".join(makers[name](seeds)) for name, seeds in found.items() if seeds}


def rewritten(text: str, made: dict[str, str]) -> str:
    """A page with the tables put between `<!-- estimators: NAME -->` and `<!-- end -->`."""
    for name, table in made.items():
        begin = f"<!-- estimators: {name} -->\n"
        head, _, rest = text.partition(begin)
        _, end, tail = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"the page has no place for the table {name}: {begin.strip()}")
        text = f"{head}{begin}{table}\n{end}{tail}"
    return text


def _arms(seeds: dict[str, Any], world: str) -> dict[str, list[dict[str, Any]]]:
    """Arm -> its results, one of each seed that has one."""
    names = dict.fromkeys(name for worlds in seeds.values() for name in worlds.get(world, {}))
    return {
        name: [w[world][name] for w in seeds.values() if name in w.get(world, {})] for name in names
    }


def _range(values: Sequence[float], digits: int = 3) -> str:
    """A mean, and between what its seeds lie."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _at(results: Sequence[dict[str, Any]], place: int) -> list[float]:
    return [result["curve"][place] for result in results]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _baselines(seeds: dict[str, Any]) -> Iterator[str]:
    yield from _two_worlds(seeds, "advantage", 2)


def _siblings(seeds: dict[str, Any]) -> Iterator[str]:
    yield from _two_worlds(seeds, "what a round has", 5)


def _two_worlds(seeds: dict[str, Any], title: str, rounds: int) -> Iterator[str]:
    after = f"after {rounds} rounds"
    yield _row(title, f"plain: {after}", "last", f"offsets: {after}", "last", "seeds")
    yield "|---|---|---|---|---|---|"
    offsets = _arms(seeds, "offsets")
    for name, plain in _arms(seeds, "plain").items():
        moved = offsets.get(name, plain)
        early = min(rounds, len(plain[0]["curve"]) - 1)
        yield _row(
            name,
            f"{mean(_at(plain, early)):.3f}",
            _range(_at(plain, -1)),
            f"{mean(_at(moved, early)):.3f}",
            _range(_at(moved, -1)),
            str(len(moved)),
        )


def _corrections(seeds: dict[str, Any]) -> Iterator[str]:
    yield _row("correction", "before", "1 pass", "4 passes", "8 passes", "best pass", "seeds")
    yield "|---|---|---|---|---|---|---|"
    for name, results in _arms(seeds, "one log").items():
        yield _row(
            name,
            f"{mean(_at(results, 0)):.3f}",
            f"{mean(_at(results, 1)):.3f}",
            f"{mean(_at(results, 4)):.3f}",
            _range(_at(results, -1)),
            f"{mean(max(result['curve']) for result in results):.3f}",
            str(len(results)),
        )


def _credits(seeds: dict[str, Any]) -> Iterator[str]:
    yield _row("world", "credit", f"sessions to {TARGET:.2f}", "of those of identical", "seeds")
    yield "|---|---|---|---|---|"
    worlds = dict.fromkeys(world for found in seeds.values() for world in found)
    for world in worlds:
        arms = _arms(seeds, world)
        usual = [result["sessions"] for result in arms["identical"]]
        for name, results in arms.items():
            needed = [result["sessions"] for result in results]
            if None in needed or None in usual:
                yield _row(world, name, "not reached", "-", str(len(needed)))
                continue
            share = mean(needed) / mean(usual[: len(needed)])
            yield _row(world, name, _range(needed, 0), f"{share:.0%}", str(len(needed)))


def _missing(seeds: dict[str, Any]) -> Iterator[str]:
    yield _row("what the trainer hears", "labels", "after 5 rounds", "last", "worst task", "seeds")
    yield "|---|---|---|---|---|---|"
    for name, results in _arms(seeds, "2 % labels").items():
        fifth = min(5, len(results[0]["curve"]) - 1)
        yield _row(
            name,
            f"{mean(result['labels'] for result in results):,.0f}",
            f"{mean(_at(results, fifth)):.3f}",
            _range(_at(results, -1)),
            f"{mean(min(result['tasks']) for result in results):.2f}",
            str(len(results)),
        )


def _algorithms(seeds: dict[str, Any]) -> Iterator[str]:
    worlds = dict.fromkeys(world for found in seeds.values() for world in found)
    heads = [f"{world}: after 2 rounds | last" for world in worlds]
    yield _row("algorithm", *heads, "pairs a round", "seeds")
    yield "|" + "---|" * (2 * len(heads) + 3)
    found = {world: _arms(seeds, world) for world in worlds}
    for name, results in next(iter(found.values()), {}).items():
        cells = []
        for arms in found.values():
            of_arm = arms.get(name, [])
            if not of_arm:
                cells += ["-", "-"]
                continue
            second = min(2, len(of_arm[0]["curve"]) - 1)
            cells += [f"{mean(_at(of_arm, second)):.3f}", _range(_at(of_arm, -1))]
        pairs = [f"{mean(r['pairs'] for r in arms[name]):.0f}" for arms in found.values()]
        yield _row(
            name, *cells, ", ".join(pairs) if name.startswith("dpo") else "", str(len(results))
        )
