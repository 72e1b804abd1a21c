"""The figures of a comparison: the return of each method, and how it came about."""

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdw_core.files import replaced_atomically
from sdw_core.labels import label, short_name
from sdw_core.plots import drawn, label_ends
from sdw_core.style import INK, looks
from study.standings import Standings

COLUMNS = 3


def draw(standings: Standings, folder: Path) -> None:
    """Write `returns.png` and `curves.png` into a comparison's folder."""
    for name, figure in (("returns.png", returns_figure), ("curves.png", curves_figure)):
        with replaced_atomically(folder / name) as scratch:
            figure(standings, scratch)


def returns_figure(standings: Standings, path: Path) -> None:
    """A panel a dataset; in it a bar a method with its mean, a dot a distillation seed."""
    methods, datasets = list(standings.spec.methods), list(standings.spec.datasets)
    columns, lines = _grid(len(datasets))
    places, found = np.arange(len(methods)), looks(methods)
    dots: dict[str, Any] = {"s": 7, "facecolors": "white", "edgecolors": INK, "linewidths": 0.7}
    height = 0.21 * len(methods) + 0.55
    with drawn(path, 1.9 + 2.6 * columns, lines * height + 0.3) as figure:
        for dataset, axes in zip(datasets, _panels(figure, len(datasets), True), strict=True):
            reach = 0.0
            for place, method in enumerate(methods):
                scores, look = standings.scores(method, dataset), found[method]
                said = "failed" if (method, dataset) in standings.failed else ""
                if len(scores):
                    said = f"{scores.mean():.1f}"
                    bar: dict[str, Any] = {"color": look.colour, "hatch": 3 * look.hatch}
                    axes.barh(place, scores.mean(), 0.78, edgecolor="white", linewidth=0, **bar)
                    axes.scatter(scores, np.full(len(scores), place), **dots)
                beyond = float(scores.max(initial=0.0))
                reach = max(reach, beyond)
                at = (beyond, float(place))
                axes.annotate(said, at, (4, 0), "data", "offset points", fontsize=7.5, va="center")
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_title(label(short_name(dataset)), fontsize=9)
            axes.set_yticks(places, [label(fill(standings.title(m), 28)) for m in methods])
            axes.tick_params(left=False)
            axes.spines["left"].set_visible(False)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlim(right=1.16 * reach or 1.0)
            axes.grid(axis="x")
        said = (
            "normalised return; the number is the mean, a dot a distillation seed, 0 a random "
            "policy, 100 an expert"
        )
        figure.supxlabel(fill(said, int(14 * figure.get_figwidth())), fontsize=8)


def curves_figure(standings: Standings, path: Path) -> None:
    """Return against outer steps: a panel a dataset, a line a method, dotted without a curve."""
    methods, datasets = list(standings.spec.methods), list(standings.spec.datasets)
    columns, lines = _grid(len(datasets))
    found = looks(methods)
    height = max(1.9, 0.125 * len(methods) + 0.2)
    with drawn(path, 4.4 * columns + 0.3, lines * (height + 0.55) + 0.3) as figure:
        for dataset, axes in zip(datasets, _panels(figure, len(datasets), False), strict=True):
            ends = {}
            for method, look in found.items():
                rows = standings.frame
                rows = rows[(rows.method == method) & (rows.dataset == dataset)]
                by_step = rows.pivot_table("normalized_return", "outer_steps", "seed", "mean")
                if by_step.empty:
                    continue
                mean, spread = by_step.mean(axis=1), by_step.std(axis=1).fillna(0)
                last, end = by_step.index[-1], float(mean.iloc[-1])
                if len(by_step) == 1 and last == 0:
                    last = None
                    axes.axhline(end, color=look.colour, linestyle=":", linewidth=1)
                else:
                    style: dict[str, Any] = {"marker": look.marker, "linestyle": look.line}
                    style |= {"markersize": 3.5, "linewidth": 1.2, "elinewidth": 0.6}
                    axes.errorbar(by_step.index, mean, spread, color=look.colour, **style)
                ends[label(standings.title(method))] = (last, end, look.colour)
            axes.set_title(label(short_name(dataset)), fontsize=9)
            label_ends(axes, ends, 8.5 / (72 * height))
        figure.supxlabel("outer steps; upright: standard deviation over seeds", fontsize=8)
        figure.supylabel("normalised return", fontsize=8)


def _grid(panels: int) -> tuple[int, int]:
    columns = min(COLUMNS, panels)
    return columns, -(-panels // columns)


def _panels(figure: Figure, count: int, named: bool) -> list[Axes]:
    """As many axes; with `named`, only those on the left say the names on the vertical axis."""
    columns, lines = _grid(count)
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=named).flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    return panels[:count]
