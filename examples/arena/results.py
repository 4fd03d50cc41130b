"""What one run of an example measured, where it lies, and the table of all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

MEASUREMENTS = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "examples"
AS_GIVEN, SHUFFLED = "as given", "shuffled"
COLUMNS = (
    "example", "agent in", "variant", "seeds", "sessions", "thumbs", "held out before", "after",
    "gain, lowest to highest", "failed sessions", "minutes a run",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """Share of right answers in the traffic's last sessions, known to the onlooker only."""

    sessions: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Version:
    """One policy version; 0 is the base."""

    version: int
    sessions: int  # of traffic before it
    thumbs: int  # so far
    trajectories: int  # that its round learned from
    held_out: float  # accuracy on questions that were never asked in traffic


@dataclass(slots=True)
class Result:
    """A whole run. `variant` is "as given", "shuffled", or the name of an ablation."""

    world: str
    framework: str
    variant: str
    seed: int
    held_out_questions: int
    versions: list[Version] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    sessions: int = 0
    thumbs: int = 0
    failed_sessions: int = 0
    failed_thumbs: int = 0
    raised: dict[str, int] = field(default_factory=dict)
    transitions: int = 0
    lacking: str = ""  # why a round could not be trained, where one could not
    overrides: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of everything but the model's upbringing
    upbringing_seconds: float = 0.0

    @property
    def before(self) -> float:
        return self.versions[0].held_out

    @property
    def after(self) -> float:
        return self.versions[-1].held_out

    @property
    def gain(self) -> float:
        return self.after - self.before

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)


def path_of(out: Path, world: str, variant: str, seed: int) -> Path:
    """Where a run's result lies."""
    return out / f"{world}-{variant.replace(' ', '-')}-{seed}.json"


def read(path: Path) -> Result:
    """A result, from the file it was written to."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["versions"] = [Version(**version) for version in fields["versions"]]
    fields["curve"] = [Point(**point) for point in fields["curve"]]
    return Result(**fields)


def read_all(out: Path) -> list[Result]:
    """Every result there is: by world, what was given first, by seed."""
    found = [read(path) for path in sorted(out.glob("*.json"))]
    first = {AS_GIVEN: 0, SHUFFLED: 1}
    return sorted(found, key=lambda r: (r.world, first.get(r.variant, 2), r.variant, r.seed))


def table(results: list[Result]) -> str:
    """Markdown: a row for each world and variant, means over its seeds; then who fell short."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for world, variant in dict.fromkeys((r.world, r.variant) for r in results):
        own = [r for r in results if (r.world, r.variant) == (world, variant)]
        gains = [100 * r.gain for r in own]
        cells = (
            world,
            own[0].framework,
            variant,
            ", ".join(str(r.seed) for r in own),
            f"{mean(r.sessions for r in own):,.0f}",
            f"{mean(r.thumbs for r in own):,.0f}",
            f"{mean(r.before for r in own):.3f}",
            f"{mean(r.after for r in own):.3f}",
            f"{mean(gains):+.0f} points ({min(gains):+.0f} to {max(gains):+.0f})",
            str(sum(r.failed_sessions for r in own)),
            f"{mean(r.seconds for r in own) / 60:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    short = [
        f"{r.world} {r.variant}, seed {r.seed}, reached only version {r.versions[-1].version}:"
        f" {r.lacking}."
        for r in results
        if r.lacking
    ]
    return "\n".join([*lines, *[line for said in short for line in ("", said)]])
