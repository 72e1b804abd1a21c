"""A figure of each analysis, as a PNG."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from sdw_core.analysis.coverage import Coverage, Source
from sdw_core.analysis.errors import Choice, PolicyErrors
from sdw_core.analysis.misalignment import ByLoss, Course, Role
from sdw_core.labels import label
from sdw_core.plots import drawn, logarithmic
from sdw_core.style import BLUE, GREEN, GREY, INK, ORANGE, SOURCE, VERMILION, looks

DIVERSE, NARROW = BLUE, VERMILION
CHOICES: dict[Choice, tuple[str, str]] = {
    "random": (GREY, "o"),
    "weighted": (GREEN, "^"),
    "best": (ORANGE, "s"),
}
RETURN = "normalised return"


def misalignment_figure(
    diverse: Course,
    narrow: Course,
    by_loss: ByLoss,
    names: tuple[str, str],
    rows: Sequence[tuple[str, Role, Course]],
    path: Path,
) -> None:
    """Return against loss, policies of synthetic rows among them, and the difference at equal loss.

    Args:
        diverse, narrow: the two sets' policies.
        by_loss: their comparison.
        names: theirs.
        rows: name and source of each set of synthetic rows, and its policies.
        path: the file.
    """
    with drawn(path, 10, 4.2) as figure:
        left, right = figure.subplots(1, 2)
        edges = by_loss.edges
        centres = np.sqrt(edges[1:] * edges[:-1])
        for course, means, name, colour in (
            (diverse, by_loss.diverse, f"diverse: {label(names[0])}", DIVERSE),
            (narrow, by_loss.narrow, f"narrow: {label(names[1])}", NARROW),
        ):
            left.scatter(
                course.losses, course.returns, s=10, color=colour, alpha=0.35, linewidths=0
            )
            left.plot(centres, means, color=colour, marker="o", markersize=5, label=name)
        for (name, role, course), marker in zip(rows, cycle("*PXD"), strict=False):
            colour = DIVERSE if role == "diverse" else NARROW
            style = {
                "marker": marker,
                "facecolors": "none",
                "edgecolors": colour,
                "linewidths": 0.9,
            }
            style |= {"label": f"rows: {label(name)}", "zorder": 3}
            left.scatter(course.losses, course.returns, s=60, **style)
        left.set(ylabel=RETURN, title="A dot: a policy at one point of its training")
        left.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=8)
        right.axhline(0, color=INK, linewidth=0.8)
        known = np.isfinite(by_loss.low)
        interval = np.abs(by_loss.difference - [by_loss.low, by_loss.high])[:, known]
        style = {"fmt": "none", "ecolor": INK, "elinewidth": 1, "capsize": 3}
        right.errorbar(centres[known], by_loss.difference[known], interval, **style)
        right.plot(centres, by_loss.difference, color=INK, marker="o", markersize=5)
        hollow = {"s": 25, "facecolors": "white", "edgecolors": INK, "zorder": 3}
        right.scatter(centres[~known], by_loss.difference[~known], **hollow)
        title = "At equal loss, with 95 % intervals" + (
            "; hollow: too few policies" if any(~known) else ""
        )
        for loss in by_loss.crossings or ():
            right.axvline(loss, color=INK, linestyle=":", linewidth=1)
            at = {"xycoords": right.get_xaxis_transform(), "textcoords": "offset points"}
            right.annotate(f"{loss:.3g}", (loss, 1), xytext=(2, -9), fontsize=8, **at)
        if by_loss.crossings == []:
            title += "; no change of sign"
        right.set(ylabel="return, narrow - diverse", title=title)
        for axes in (left, right):
            axes.set_xlabel("training loss (mean square); training goes to the right")
            logarithmic(axes)
            axes.invert_xaxis()


def errors_figure(measured: Sequence[PolicyErrors], path: Path) -> None:
    """Return against each error, a dot a policy."""
    titles = {
        "pivotal_error": "On the expert's states",
        "surrounding_error": "On the policy's own states off the support",
        "pooled_surrounding_error": "On all policies' states off the support",
    }
    with drawn(path, 11, 3.9) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for choice, (colour, marker) in CHOICES.items():
                chosen = [each for each in measured if each.choice == choice]
                if chosen:
                    errors = [getattr(each, name) for each in chosen]
                    returns = [each.normalized_return for each in chosen]
                    style = {"marker": marker, "color": colour, "alpha": 0.7, "linewidths": 0}
                    axes.scatter(errors, returns, s=22, label=f"{choice} rows", **style)
            axes.set(xlabel=f"{name.replace('_', ' ')} (mean square)", title=title)
            logarithmic(axes)
        panels[0].set_ylabel(RETURN)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)


def coverage_figure(source: Source, covered: Sequence[Coverage], path: Path) -> None:
    """A line a set: histogram of the log density; diversity beside as many states of the source."""
    found = looks(each.name for each in covered)
    with drawn(path, 11, 1.0 * len(covered) + 1.0) as figure:
        grid = figure.subplots(
            len(covered), 3, squeeze=False, sharex="col", width_ratios=(2.2, 1, 1)
        )
        for each, (left, *others) in zip(covered, grid, strict=True):
            colour = found[each.name].colour
            left.stairs(source.histogram, source.edges, fill=True, color=SOURCE)
            left.stairs(each.histogram, source.edges, color=colour, linewidth=1.6)
            left.set_title(f"{label(each.name)}, {each.states} states", fontsize=9, color=colour)
            for axes, name in zip(others, ("distance", "entropy"), strict=True):
                mean, low, high = getattr(each, f"source_{name}")
                axes.plot([low, high], [0, 0], color=SOURCE, linewidth=7, solid_capstyle="butt")
                axes.plot(mean, 0, "|", color=INK, markersize=9)
                value = getattr(each, name)
                axes.plot(value, 0, "o", color=colour, markersize=7)
                axes.annotate(
                    f"{value:.2f}", (value, 0), (0, 7), "data", "offset points",
                    fontsize=8, color=colour, ha="center",
                )  # fmt: skip
                axes.set(ylim=(-1, 1), yticks=[])
                axes.spines["left"].set_visible(False)
        grid[0, 1].set_title("Mean pairwise distance")
        grid[0, 2].set_title("Nearest-neighbour entropy")
        grid[-1, 0].set_xlabel(
            "log density under the source's flow (nats); the ends hold what lies beyond"
        )
        grid[-1, 1].set_xlabel("normalised units")
        grid[-1, 2].set_xlabel("nats")
        figure.supylabel("share of the states", fontsize=9)
        figure.supxlabel(
            "grey: the source; to the right the mean and the range of as many of its states, drawn "
            "at random",
            fontsize=8,
        )
