"""The figures of a study's page."""

import math
from collections.abc import Sequence
from itertools import accumulate, groupby
from statistics import fmean
from typing import Any

from sdw_core.config import STAGES
from sdw_core.labels import counted, in_words, named
from sdw_core.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from search_spaces import Choice, Distribution
from study.book import TrialRow
from study.html.page import (
    BEST,
    LEVELS,
    Figure,
    Table,
    axes,
    beside_names,
    document_of,
    plain,
    short,
)
from study.outcomes import COMPLETE, FAILED, PRUNED
from study.snapshot import RETURNS, Snapshot, minutes

WHISKERS = 150
"""Up to so many trials bear their intervals in a figure, and have large points."""
LINES = 30
"""Trials of each fifth in the parallel coordinates, at most, evenly spaced in it."""
TICKED = 10
"""Trials whose axis has a tick each."""
BINS = 4
"""Parts of a range in the table beside its figure."""
LEAST = 10
"""COMPLETE trials that importances take at least."""
CURVES = (VERMILION, BLUE, GREEN, PURPLE, ORANGE)
"""Of the best trials, the best first."""


def metric_name(metric: str, *networks: int) -> str:
    """An objective in words; a return says so where its policies are ensembles."""
    words = in_words(metric)
    return named(words, *networks) if metric in RETURNS else words


def id_of(row: TrialRow) -> str:
    """The anchor of a trial's row in the table of all trials."""
    return f"trial-{row.number}"


def complete(snapshot: Snapshot) -> list[TrialRow]:
    """The COMPLETE trials, by number."""
    return [row for row in snapshot.trials if row.outcome == COMPLETE and row.values]


def value_of(row: TrialRow, index: int) -> float:
    """A COMPLETE trial's objective."""
    assert row.values is not None
    return row.values[index]


def over_trials(snapshot: Snapshot, index: int, expert: float | None) -> Figure:
    """An objective, trial by trial, with the best so far.

    Args:
        snapshot: of the study.
        index: of the objective.
        expert: its return, where the objective is one and the expert is known.
    """
    rows, objective = complete(snapshot), snapshot.spec.study.objectives[index]
    name = metric_name(objective.metric, *{row.ensemble for row in rows})
    numbers, values = [row.number for row in rows], [value_of(row, index) for row in rows]
    better = max if objective.mode == "max" else min
    worst = -better(-math.inf, math.inf)  # a trial beyond a constraint is never the best
    so_far = list(accumulate((worst if r.violates else value_of(r, index) for r in rows), better))
    points = {
        "mode": "markers",
        "name": "COMPLETE",
        "x": numbers,
        "y": [short(value) for value in values],
        "customdata": [id_of(row) for row in rows],
        "marker": {
            "size": 8 if len(rows) <= WHISKERS else 5,
            "color": [BEST if row.number in snapshot.best else BLUE for row in rows],
        },
    }
    if objective.metric == RETURNS[0] and len(rows) <= WHISKERS and all(r.interval for r in rows):
        ends = [(value, *(row.interval or ())) for value, row in zip(values, rows, strict=True)]
        points["error_y"] = {
            "symmetric": False,
            "array": [short(high - value) for value, _, high in ends],
            "arrayminus": [short(value - low) for value, low, _ in ends],
            "thickness": 1,
            "width": 0,
            "color": "--muted",
        }
    best_line = {
        "mode": "lines",
        "name": "best so far",
        "x": numbers,
        "y": [short(value) if math.isfinite(value) else None for value in so_far],
        "line": {"shape": "hv", "color": BEST, "width": 2},
        "hoverinfo": "skip",
    }
    floor = min(values) - 0.07 * (max(values) - min(values) or 1.0)
    ends_of = ((PRUNED, "triangle-down-open", SKY), (FAILED, "x-thin-open", "--ink"))
    without_value = [
        {
            "mode": "markers",
            "name": f"{outcome} (no value)",
            "x": [row.number for row in lost],
            "y": [short(floor)] * len(lost),
            "customdata": [id_of(row) for row in lost],
            "marker": {"size": 9, "symbol": symbol, "color": colour},
        }
        for outcome, symbol, colour in ends_of
        if (lost := [row for row in snapshot.trials if row.outcome == outcome])
    ]
    layout = axes("trial", name) | line_across(expert, "expert")
    if len(snapshot.trials) <= TICKED:
        layout["xaxis"] |= {"dtick": 1}
    jumps = [
        (row, value)
        for row, value, best, before in zip(rows, values, so_far, [worst, *so_far], strict=False)
        if best != before
    ]
    table = Table(
        "Each trial that was the best so far",
        ["trial", name, "95 % interval"],
        [[str(r.number), f"{v:.4g}", interval_of(r)] for r, v in jumps],
    )
    last = f"changed last at trial {jumps[-1][0].number}" if jumps else "is none within bounds"
    said = (
        f"{counted(len(rows), 'COMPLETE trial')} from {min(values):.4g} to {max(values):.4g}; "
        f"the best so far {last}."
    )
    return Figure(f"{sentence(name)} over trials", said, [best_line, points, *without_value],
                  layout, table)  # fmt: skip


def against_value(snapshot: Snapshot, path: str, index: int) -> Figure:
    """An objective against a searched setting, of the trials for which its range counts."""
    rows = [row for row in complete(snapshot) if path in row.params]
    objective = snapshot.spec.study.objectives[index]
    distribution = snapshot.spec.search[path]
    name = metric_name(objective.metric, *{row.ensemble for row in rows})
    axis = axis_of(distribution)
    places = [place_of(distribution, row.params[path]) for row in rows]
    if isinstance(distribution, Choice):  # side by side, always at the same place
        spread = [0.3 * (0.618 * row.number % 1 - 0.5) for row in rows]
        places = [place + aside for place, aside in zip(places, spread, strict=True)]
    groups = grouped(distribution, path, rows)
    better = max if objective.mode == "max" else min
    cells = [
        [said, str(len(group)), f"{fmean(v):.4g}", f"{better(v):.4g}"]
        for said, group in groups
        for v in [[value_of(row, index) for row in group]]
    ]
    highest = better(cells, key=lambda cell: float(cell[2]))
    trials = counted(int(highest[1]), "trial")
    said = f"Where it is {highest[0]}, the mean over {trials} is best: {highest[2]}."
    points = {
        "mode": "markers",
        "x": [short(place) for place in places],
        "y": [short(value_of(row, index)) for row in rows],
        "customdata": [id_of(row) for row in rows],
        "marker": {
            "size": 8 if len(rows) <= WHISKERS else 5,
            "color": [BEST if row.number in snapshot.best else BLUE for row in rows],
        },
    }
    layout = axes(path, name)
    layout["xaxis"] |= axis
    return Figure(
        path,
        said,
        [points],
        layout,
        Table(f"{name} by {path}", [path, "trials", "mean", "best"], cells),
        300,
    )


def importances(snapshot: Snapshot, found: dict[str, float], share: float) -> Figure:
    """How much of what sets the best trials apart is due to each searched setting.

    Args:
        snapshot: of the study.
        found: path -> share, the largest first.
        share: of the trials that count as the best.
    """
    of = "the Pareto front" if len(snapshot.spec.study.objectives) > 1 else "the best"
    first = next(iter(found))
    said = (
        f"{first} sets the best trials apart most ({found[first]:.0%}). PED-ANOVA (arXiv "
        f"2304.10255): how far each setting's values in {of} {share:.0%} of the trials differ from "
        "those in all; the shares sum to 100 %, and say nothing of what would be better."
    )
    paths = list(reversed(found))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [short(100 * found[path], 3) for path in paths],
        "y": [plain(path) for path in paths],
        "marker": {"color": BLUE},
        "hoverinfo": "skip",
        "texttemplate": "%{x:.0f} %",
    }
    layout = beside_names("share, %")
    cells = [[path, f"{value:.1%}"] for path, value in found.items()]
    table = Table("Importances", ["setting", "share"], cells)
    return Figure("Which settings matter", said, [bars], layout, table, 90 + 34 * len(paths))


def parallel(snapshot: Snapshot, index: int) -> Figure:
    """A line a COMPLETE trial through its settings to its objective, coloured by fifths of that."""
    rows, objective = complete(snapshot), snapshot.spec.study.objectives[index]
    search = snapshot.spec.search
    name = metric_name(objective.metric, *{row.ensemble for row in rows})
    sign = 1 if objective.mode == "max" else -1
    ranked = sorted(rows, key=lambda row: sign * value_of(row, index))
    values = [value_of(row, index) for row in ranked]
    low, high = min(values), max(values)

    def heights(row: TrialRow) -> list[float | None]:
        own = [
            height_of(search[path], row.params[path]) if path in row.params else None
            for path in search
        ]
        return [*own, (value_of(row, index) - low) / (high - low) if high > low else 0.5]

    fifths = [
        [r for place, r in enumerate(ranked) if 5 * place // len(ranked) == fifth]
        for fifth in range(5)
    ]
    drawn = [group[:: math.ceil(len(group) / LINES) or 1] for group in fifths]
    names = ("lowest fifth", "second", "third", "fourth", "highest fifth")
    if sign < 0:
        names = names[::-1]
    steps = len(search) + 1
    lines = [
        {
            "mode": "lines+markers",
            "name": label,
            "x": [*range(steps), None] * len(group),
            "y": [y for row in group for y in [*map(short_height, heights(row)), None]],
            "customdata": [i for row in group for i in [*[id_of(row)] * steps, None]],
            "line": {"color": colour, "width": 1},
            "marker": {"size": 4},
            "opacity": 0.8,
        }
        for label, colour, group in zip(names, LEVELS, drawn, strict=True)
        if group
    ]
    if len(snapshot.best) == 1:
        best = snapshot.row(snapshot.best[0])
        lines.append(
            {
                "mode": "lines+markers",
                "name": f"trial {best.number}, the best",
                "x": list(range(steps)),
                "y": list(map(short_height, heights(best))),
                "customdata": [id_of(best)] * steps,
                "line": {"color": BEST, "width": 3},
            }
        )
    ticks = [ends_of(search[path]) for path in search] + [[(0, f"{low:.4g}"), (1, f"{high:.4g}")]]
    layout: dict[str, Any] = {
        "xaxis": {
            "tickvals": list(range(steps)),
            "ticktext": [*(wrapped(plain(path)) for path in search), wrapped(plain(name))],
            "range": [-0.4, steps - 0.45],
            "gridcolor": "--muted",
        },
        "yaxis": {"visible": False, "range": [-0.08, 1.08]},
        "annotations": [
            {
                "x": place,
                "y": height,
                "text": plain(text),
                "showarrow": False,
                "xanchor": "left",
                "xshift": 5,
                "font": {"size": 11},
                "bgcolor": "--card",
                "opacity": 0.85,
            }
            for place, column in enumerate(ticks)
            for height, text in column
        ],
    }
    tops = fifths[-1] or ranked
    spans = [
        [path, *(span_of(search[path], values) if values else ("", ""))]
        for path in search
        for values in [[row.params[path] for row in tops if path in row.params]]
    ]
    table = Table(
        f"Settings of the {len(tops)} best trials by {name}",
        ["setting", "lowest", "highest"],
        spans,
    )
    said = (
        f"A line a COMPLETE trial, from setting to setting to its {name}, coloured by the fifth of "
        "the trials that it is in."
    )
    if (few := sum(map(len, drawn))) < len(rows):
        said += f" {few} of the {len(rows)} trials are drawn, evenly spaced by that, and the best."
    return Figure("All settings together", said, lines, layout, table, 420)


def pareto(snapshot: Snapshot) -> Figure:
    """The two objectives of every COMPLETE trial, and the front."""
    rows, objectives = complete(snapshot), snapshot.spec.study.objectives
    kinds = {row.ensemble for row in rows}
    names = [metric_name(objective.metric, *kinds) for objective in objectives]
    front = sorted((snapshot.row(n) for n in snapshot.best), key=lambda row: value_of(row, 0))

    def points(group: Sequence[TrialRow], **style: Any) -> dict[str, Any]:
        return {
            "x": [short(value_of(row, 1)) for row in group],
            "y": [short(value_of(row, 0)) for row in group],
            "customdata": [id_of(row) for row in group],
        } | style

    others = [row for row in rows if row.number not in snapshot.best]
    line = {"color": BEST, "width": 1.5, "dash": "dot"}
    data = [
        points(others, mode="markers", name="dominated", marker={"size": 8, "color": BLUE}),
        points(front, mode="lines+markers", name="Pareto front", line=line,
               marker={"size": 10, "color": BEST}),
    ]  # fmt: skip
    cells = [[str(r.number), *(f"{value_of(r, i):.4g}" for i in (0, 1))] for r in front]
    table = Table("The Pareto front", ["trial", *names], cells)
    said = (
        f"{len(front)} of {len(rows)} COMPLETE trials are on the front: no other trial"
        f"{' within the constraints' * bool(snapshot.spec.study.constraints)} is better in one "
        "objective and no worse in the other."
    )
    return Figure("Pareto front", said, data, axes(names[1], names[0]), table)


def losses(curves: dict[int, tuple[list[int], list[float]]]) -> Figure:
    """Smoothed meta-losses against outer steps.

    Args:
        curves: number of a trial -> ends of stretches, outer steps, and the means over those.
    """
    data = [
        {
            "mode": "lines",
            "name": f"trial {number}",
            "x": steps,
            "y": [short(value) for value in means],
            "customdata": [f"trial-{number}"] * len(steps),
            "line": {"color": colour, "width": 3 if colour == CURVES[0] else 1.5},
        }
        for colour, (number, (steps, means)) in zip(CURVES, curves.items(), strict=False)
    ]
    cells = [
        [str(number), f"{means[0]:.4g}", f"{min(means):.4g}", f"{means[-1]:.4g}"]
        for number, (_, means) in curves.items()
    ]
    table = Table("Meta-loss", ["trial", "first", "lowest", "last"], cells)
    said = (
        "The meta-loss that the rows are optimised for, as means over stretches of outer steps, of "
        "the best trials: a loss tells less than a return, and losses of trials whose weights or "
        "experts differ cannot be compared."
    )
    layout = axes("outer steps", "meta-loss")
    layout["yaxis"]["type"] = "log"
    return Figure("Learning curves of the best", said, data, layout, table)


def returns_along(curves: dict[int, dict[int, list[float]]], name: str) -> Figure:
    """Mean returns at evaluations on the way.

    Args:
        curves: number of a trial -> outer step -> mean return of each policy.
        name: of the return.
    """
    data = [
        {
            "mode": "lines+markers",
            "name": f"trial {number}",
            "x": list(curve),
            "y": [short(fmean(values)) for values in curve.values()],
            "customdata": [f"trial-{number}"] * len(curve),
            "line": {"color": colour},
        }
        for colour, (number, curve) in zip(CURVES, curves.items(), strict=False)
    ]
    cells = [
        [str(number), str(step), f"{fmean(values):.4g}"]
        for number, curve in curves.items()
        for step, values in curve.items()
    ]
    table = Table("Returns on the way", ["trial", "outer steps", name], cells)
    said = "Returns of the best trials' rows at evaluations on the way, on the search's own seeds."
    return Figure("Returns on the way", said, data, axes("outer steps", name), table)


def stage_times(snapshot: Snapshot) -> Figure:
    """Seconds of each stage, summed over the trials."""
    timed = [row.stages for row in snapshot.trials if row.stages]
    totals = {
        stage: seconds for stage in STAGES if (seconds := sum(each.get(stage, 0) for each in timed))
    }
    whole = sum(totals.values())
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [short(totals[stage]) for stage in reversed(totals)],
        "y": list(reversed(totals)),
        "marker": {"color": BLUE},
        "hoverinfo": "skip",
        "texttemplate": "%{x:.3g} s",
    }
    most = max(totals, key=lambda stage: totals[stage])
    said = (
        f"{minutes(whole)} in all over {len(timed)} trials, {totals[most] / whole:.0%} of it in "
        f"the stage {most}; what trials share is computed once."
    )
    cells = [
        [stage, minutes(seconds), f"{seconds / len(timed):.3g}", f"{seconds / whole:.0%}"]
        for stage, seconds in totals.items()
    ]
    table = Table("Stages", ["stage", "in all", "seconds a trial", "share"], cells)
    return Figure("Where the time went", said, [bars], beside_names("seconds"), table,
                  90 + 34 * len(totals))  # fmt: skip


# Settings as places on an axis


def place_of(distribution: Distribution, value: Any) -> float:
    """Where a value lies: itself, or the place of a choice."""
    if isinstance(distribution, Choice):
        return float(distribution.params.index(value))
    return float(value)


def height_of(distribution: Distribution, value: Any) -> float:
    """The same between 0 and 1, on a logarithmic scale where the search's is one."""
    place = place_of(distribution, value)
    if isinstance(distribution, Choice):
        return place / max(1, len(distribution.choices) - 1)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        place, low, high = math.log(place), math.log(low), math.log(high)
    return (place - low) / (high - low) if high > low else 0.5


def short_height(height: float | None) -> float | None:
    """Three decimals: a third of a pixel; None is a gap in a line."""
    return None if height is None else round(height, 3)


def axis_of(distribution: Distribution) -> dict[str, Any]:
    """plotly's axis for a setting."""
    if isinstance(distribution, Choice):
        choices = [plain(document_of(each)) for each in distribution.params]
        return {"tickvals": list(range(len(choices))), "ticktext": choices,
                "range": [-0.5, len(choices) - 0.5]}  # fmt: skip
    if not distribution.log:
        return {}
    decades = range(
        math.floor(math.log10(distribution.low)), 1 + round(math.log10(distribution.high))
    )
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def ends_of(distribution: Distribution) -> list[tuple[float, str]]:
    """What stands beside an axis of the parallel coordinates, and how high."""
    if isinstance(distribution, Choice):
        return [(height_of(distribution, c), document_of(c)) for c in distribution.params]
    return [(0, document_of(distribution.low)), (1, document_of(distribution.high))]


def span_of(distribution: Distribution, values: Sequence[Any]) -> list[str]:
    """The lowest and the highest of some values, in the order of the choices where it is one."""
    ordered = sorted(values, key=lambda value: place_of(distribution, value))
    return [document_of(ordered[0]), document_of(ordered[-1])]


def grouped(
    distribution: Distribution, path: str, rows: Sequence[TrialRow]
) -> list[tuple[str, Sequence[TrialRow]]]:
    """Trials by choice, or by parts of a range that hold about as many each; no part ends between
    equal values."""
    if isinstance(distribution, Choice):
        groups = [
            (document_of(choice), [row for row in rows if row.params[path] == choice])
            for choice in distribution.params
        ]
        return [(said, group) for said, group in groups if group]

    def value(row: TrialRow) -> float:
        return float(row.params[path])

    size = math.ceil(len(rows) / BINS)
    parts: list[list[TrialRow]] = [[]]
    for _, equal in groupby(sorted(rows, key=value), value):
        if len(parts[-1]) >= size:
            parts.append([])
        parts[-1] += equal
    return [
        (
            " to ".join(dict.fromkeys(span_of(distribution, [row.params[path] for row in part]))),
            part,
        )
        for part in parts
    ]


# Words


def line_across(value: float | None, name: str) -> dict[str, Any]:
    """A dashed line with its name; nothing for no value."""
    if value is None:
        return {}
    where = {"xref": "paper", "y0": value, "y1": value, "x0": 0, "x1": 1}
    line = {"dash": "dash", "color": "--ink", "width": 1}
    return {
        "shapes": [{"type": "line", **where, "line": line}],
        "annotations": [
            {"xref": "paper", "x": 1, "y": value, "text": f"{name} {value:.1f}", "showarrow": False,
             "xanchor": "right", "yanchor": "bottom", "bgcolor": "--card"}
        ],
    }  # fmt: skip


def interval_of(row: TrialRow) -> str:
    """Empty where there is none."""
    return "{:.1f} to {:.1f}".format(*row.interval) if row.interval else ""


def sentence(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def wrapped(path: str) -> str:
    """The parts of a path below one another."""
    return path.replace(".", ".<br>").replace(" ", "<br>")
