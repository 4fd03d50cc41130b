"""Draws the demo's result: accuracy and reward against sessions, a mark at each policy version.

`python -m ratchet.demo.picture RESULTS.json OUT.png [--control SHUFFLED.json]` draws it from the
files that the demo wrote; the control is a run whose rewards were shuffled.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.demo.results import Point, Results, Version

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#22303c", "#9aa7b2"
ACCURACY, REWARD, CONTROL = "#0b7a75", "#d98324", "#8d99a6"


def read_results(path: Path) -> Results:
    """A run's results, from the file it wrote."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["curve"] = [Point(**point) for point in fields["curve"]]
    fields["versions"] = [Version(**version) for version in fields["versions"]]
    return Results(**fields)


def held_out(results: Results) -> tuple[list[int], list[float]]:
    """Sessions and held-out accuracy: before, at each version, and after."""
    measured = [(mark.sessions, mark.held_out_accuracy) for mark in results.versions[:-1]]
    last = results.versions[-1].sessions if results.versions else results.sessions
    points = [(0, results.accuracy_before), *measured, (last, results.accuracy_after)]
    return [sessions for sessions, _ in points], [accuracy for _, accuracy in points]


def _draw_accuracy(axes: Axes, results: Results, control: Results | None) -> None:
    traffic = [point.sessions for point in results.curve], [p.accuracy for p in results.curve]
    axes.plot(*traffic, color=ACCURACY, lw=1.6, alpha=0.55, label="in traffic")
    sessions, accuracy = held_out(results)
    axes.plot(sessions, accuracy, "o-", color=ACCURACY, lw=2.4, ms=7, label="held out")
    for place in (0, -1):
        axes.annotate(
            f"{accuracy[place]:.0%}",
            (sessions[place], accuracy[place]),
            textcoords="offset points",
            xytext=(8, -16) if place == 0 else (0, 11),
            ha="left" if place == 0 else "center",
            color=ACCURACY,
            weight="bold",
        )
    if control is not None:
        label = "held out, rewards shuffled"
        axes.plot(*held_out(control), "s--", color=CONTROL, lw=1.6, ms=5, label=label)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _draw_reward(axes: Axes, results: Results) -> None:
    sessions = [point.sessions for point in results.curve if point.reward is not None]
    rewards = [point.reward for point in results.curve if point.reward is not None]
    axes.plot(sessions, rewards, color=REWARD, lw=2)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set_ylim(-1.08, 1.08)
    axes.set_ylabel("reward (mean thumb)")
    axes.set_xlabel("sessions")


def _mark_versions(axes: Axes, results: Results, *, named: bool) -> None:
    for mark in results.versions:
        axes.axvline(mark.sessions, color=FAINT, lw=1, ls=(0, (2, 3)), zorder=0)
        if named:
            axes.annotate(
                f"v{mark.version}",
                (mark.sessions, 1.0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                color=INK,
                fontsize=9,
            )


def draw(results: Results, out: Path, *, control: Results | None = None) -> None:
    """Write the picture as a PNG; `control` adds the run with shuffled rewards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    look = {"axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "font.size": 10.5}
    with pyplot.rc_context(look):
        figure, (upper, lower) = pyplot.subplots(
            2, 1, figsize=(9, 6), sharex=True, height_ratios=[2.2, 1], layout="constrained"
        )
        _draw_accuracy(upper, results, control)
        _draw_reward(lower, results)
        for axes in (upper, lower):
            _mark_versions(axes, results, named=axes is upper)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color=FAINT, alpha=0.25)
            axes.set_xlim(left=0)
        title = f"Learning from {results.labels} thumbs"
        figure.suptitle(title, weight="bold", ha="left", x=0.012)
        figure.legend(loc="upper right", ncols=3, frameon=False, fontsize=9.5)
        figure.savefig(out, dpi=150)
        pyplot.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--control", type=Path)
    arguments = parser.parse_args()
    control = read_results(arguments.control) if arguments.control else None
    draw(read_results(arguments.results), arguments.out, control=control)


if __name__ == "__main__":
    main()
