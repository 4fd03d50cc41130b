"""An example's picture: held-out accuracy of each seed against sessions, the control beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from examples.arena.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#22303c", "#9aa7b2"
GIVEN, CONTROL = "#0b7a75", "#8d99a6"
LINES: dict[str, dict[str, Any]] = {
    "as given": {"color": GIVEN, "lw": 2.2, "marker": "o", "ms": 6},
    "shuffled": {"color": CONTROL, "lw": 1.6, "ls": "--", "marker": "s", "ms": 5},
}
NAMES = {"as given": "held out, one line a seed", "shuffled": "held out, rewards shuffled"}


def lines_of(result: Result) -> tuple[list[int], list[float]]:
    """Sessions before each version, and its held-out accuracy."""
    versions = result.versions
    return [version.sessions for version in versions], [version.held_out for version in versions]


def draw(results: Sequence[Result], title: str, out: Path) -> None:
    """Write the picture as a PNG. Ablations are left to the table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    look = {"axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "font.size": 10.5}
    with pyplot.rc_context(look):
        figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
        for variant in LINES:
            _draw_variant(axes, [result for result in results if result.variant == variant])
        axes.set_ylim(0, 1.05)
        axes.set_xlim(left=0)
        axes.set_xlabel("sessions of traffic")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=FAINT, alpha=0.25)
        axes.legend(loc="center right", frameon=False)
        axes.set_title(title, loc="left", weight="bold")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
        pyplot.close(figure)


def _draw_variant(axes: Axes, results: Sequence[Result]) -> None:
    """A line for each seed, the traffic's own accuracy thin behind it, the mean at the end."""
    for result in results:
        is_first = result is results[0]
        line = LINES[result.variant]
        axes.plot(*lines_of(result), label=NAMES[result.variant] if is_first else None, **line)
        if result.variant == "as given":
            curve = [point.sessions for point in result.curve], [p.accuracy for p in result.curve]
            label = "in traffic" if is_first else None
            axes.plot(*curve, color=GIVEN, lw=0.8, alpha=0.35, label=label)
    if results:
        last = mean(result.after for result in results)
        axes.annotate(
            f"{last:.0%}",
            (max(result.versions[-1].sessions for result in results), last),
            textcoords="offset points",
            xytext=(9, -4),
            color=LINES[results[0].variant]["color"],
            weight="bold",
        )
