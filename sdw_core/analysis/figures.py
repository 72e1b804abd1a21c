"""A figure of each analysis, as a PNG."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from sdw_core.analysis.coverage import Coverage, Source
from sdw_core.analysis.errors import Choice, PolicyErrors
from sdw_core.analysis.misalignment import ByLoss, Course, Role
from sdw_core.labels import label

DIVERSE, NARROW, INK = "#2b6cb0", "#c2410c", "#334155"
CHOICES: dict[Choice, tuple[str, str]] = {
    "random": (DIVERSE, "o"),
    "weighted": ("#15803d", "^"),
    "best": (NARROW, "s"),
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
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = by_loss.edges
    centres = np.sqrt(edges[1:] * edges[:-1])
    for course, means, name, colour in (
        (diverse, by_loss.diverse, f"diverse: {label(names[0])}", DIVERSE),
        (narrow, by_loss.narrow, f"narrow: {label(names[1])}", NARROW),
    ):
        left.scatter(course.losses, course.returns, s=10, color=colour, alpha=0.35, linewidths=0)
        left.plot(centres, means, color=colour, marker="o", markersize=5, label=name)
    for (name, role, course), marker in zip(rows, cycle("*PXD"), strict=False):
        colour = DIVERSE if role == "diverse" else NARROW
        style = {"marker": marker, "facecolors": "none", "edgecolors": colour, "linewidths": 0.9}
        style |= {"label": f"rows: {label(name)}", "zorder": 3}
        left.scatter(course.losses, course.returns, s=60, **style)
    left.set(ylabel=RETURN, title="A dot: a policy at one point of its training")
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=8)
    right.axhline(0, color=INK, linewidth=0.8)
    right.fill_between(centres, by_loss.low, by_loss.high, color=NARROW, alpha=0.15, linewidth=0)
    right.plot(centres, by_loss.difference, color=NARROW, marker="o", markersize=5)
    title = "At equal loss"
    if by_loss.crossings is not None:
        crossed = ", ".join(f"{loss:.3g}" for loss in by_loss.crossings)
        title += f"; dotted: changes sign at {crossed}" if crossed else ": no change of sign"
        for loss in by_loss.crossings:
            right.axvline(loss, color=INK, linestyle=":", linewidth=1)
    right.set(ylabel="return, narrow - diverse", title=title)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="training loss (mean square); training goes to the right")
        axes.invert_xaxis()
        _plain(axes)
    _save(figure, path)


def errors_figure(measured: Sequence[PolicyErrors], path: Path) -> None:
    """Return against each error, a dot a policy."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "pivotal_error": "On the expert's states",
        "surrounding_error": "On the policy's own states off the support",
        "pooled_surrounding_error": "On all policies' states off the support",
    }
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for choice, (colour, marker) in CHOICES.items():
            chosen = [each for each in measured if each.choice == choice]
            if chosen:
                errors = [getattr(each, name) for each in chosen]
                returns = [each.normalized_return for each in chosen]
                style = {"marker": marker, "color": colour, "alpha": 0.7, "linewidths": 0}
                axes.scatter(errors, returns, s=22, label=f"{choice} rows", **style)
        axes.set(xscale="log", xlabel=f"{name.replace('_', ' ')} (mean square)", title=title)
        _plain(axes)
    panels[0].set_ylabel(RETURN)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def coverage_figure(source: Source, covered: Sequence[Coverage], path: Path) -> None:
    """Histograms of the log density, and diversity relative to as many states of the source."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2.2, 1, 1))
    left.stairs(source.histogram, source.edges, fill=True, color="#b8c4d0", label="source")
    for index, each in enumerate(covered):
        style = {"color": f"C{index}", "linewidth": 1.6, "label": label(each.name)}
        left.stairs(each.histogram, source.edges, **style)
    left.set(
        xlabel="log density under the source's flow (nats); the ends hold what lies beyond",
        ylabel="share of the states",
        title="States by their density in the source",
    )
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, len(covered) + 1),
        frameon=False,
        fontsize=8,
    )
    for axes, name, title in (
        (middle, "distance", "Mean pairwise distance\n(normalised units)"),
        (right, "entropy", "Nearest-neighbour entropy\n(nats)"),
    ):
        for place, each in enumerate(covered):
            mean, low, high = getattr(each, f"source_{name}")
            bars = [[mean - low], [high - mean]]
            axes.errorbar(place, mean, bars, color="#94a3b8", marker="_", markersize=16, capsize=4)
            value = getattr(each, name)
            axes.scatter(place, value, color=f"C{place}", s=36, zorder=3)
        axes.set(title=title, xlim=(-0.6, len(covered) - 0.4))
        axes.set_xticks([])
        axes.set_xlabel("grey: as many random\nstates of the source", fontsize=8)
        _plain(axes)
    _plain(left)
    _save(figure, path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
    if axes.get_xscale() == "log":  # 0.02 and not 2 x 10^-2
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, format="png")
