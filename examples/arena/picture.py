"""An example's picture: held-out accuracy of each seed against sessions, the control beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from examples.arena.results import Result

INK, FAINT = "#22303c", "#9aa7b2"
GIVEN, CONTROL = "#0b7a75", "#8d99a6"


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
        styles = {
            "as given": {"color": GIVEN, "lw": 2.2, "marker": "o", "ms": 6},
            "shuffled": {"color": CONTROL, "lw": 1.6, "ls": "--", "marker": "s", "ms": 5},
        }
        names = {"as given": "held out, one line a seed", "shuffled": "held out, rewards shuffled"}
        seen: set[str] = set()
        for result in results:
            style = styles.get(result.variant)
            if style is None:
                continue
            label = None if result.variant in seen else names[result.variant]
            seen.add(result.variant)
            sessions, accuracy = lines_of(result)
            axes.plot(sessions, accuracy, label=label, **style)
            if result.variant == "as given":
                axes.plot(
                    [point.sessions for point in result.curve],
                    [point.accuracy for point in result.curve],
                    color=GIVEN,
                    lw=0.8,
                    alpha=0.35,
                )
                axes.annotate(
                    f"{accuracy[-1]:.0%}",
                    (sessions[-1], accuracy[-1]),
                    textcoords="offset points",
                    xytext=(9, -4),
                    color=GIVEN,
                    weight="bold",
                )
        axes.set_ylim(0, 1.05)
        axes.set_xlim(left=0)
        axes.set_xlabel("sessions of traffic")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=FAINT, alpha=0.25)
        axes.legend(loc="lower right", frameon=False)
        axes.set_title(title, loc="left", weight="bold")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
        pyplot.close(figure)
