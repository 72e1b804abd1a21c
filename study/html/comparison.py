"""The page of a comparison: who leads, by how much, and on which datasets."""

import platform
from pathlib import Path
from typing import Any

import yaml

from sdw_core.artifact import versions
from sdw_core.labels import counted
from sdw_core.statistics import Estimate, gain, with_interval
from sdw_core.style import Look, looks
from study.html.page import (
    Answer,
    Figure,
    Line,
    Lines,
    Table,
    axes,
    beside_names,
    plain,
    render,
    short,
    themed,
)
from study.standings import Standings, flat, interval_text


def comparison_page(standings: Standings, folder: Path, state: str) -> str:
    """A comparison's page, of the cells that have ended.

    Args:
        standings: their results.
        folder: the comparison's.
        state: whether it is finished, in words.
    """
    spec, style = standings.spec, looks(standings.spec.methods)
    overview = _overview(standings, style)
    datasets = counted(len(spec.datasets), "dataset")
    return render(
        "comparison.html",
        name=spec.comparison.name,
        kind="comparison",
        heading=f"Comparison of {counted(len(spec.methods), 'method')} on {datasets}, {state}.",
        drawn=bool(overview),
        answer=_answer(standings),
        table=_table(standings),
        overview=overview,
        datasets=[f for d in spec.datasets for f in _of_dataset(standings, d, style)],
        standings=standings,
        chosen=[(m, d, flat(settings)) for (m, d), settings in standings.chosen.items()],
        cells=_cells(standings),
        folder=folder,
        facts=_facts(standings),
        spec=yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )


def _gains(standings: Standings) -> list[tuple[str, Estimate, int]]:
    """Of our method over each other, on the datasets that both have, and how many those are.

    Paired by seed: distillation seeds of one number share their random numbers.
    """
    ours = standings.spec.comparison.ours
    found = []
    for method in standings.spec.methods:
        datasets = standings.common(ours, method)
        if method == ours or not datasets:
            continue
        a, b = standings.matrix(ours, datasets), standings.matrix(method, datasets)
        if len(a) != len(b):
            a, b = a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
        found.append((method, with_interval(gain, a, b, paired=True), len(datasets)))
    return found


def _answer(standings: Standings) -> Answer:
    spec = standings.spec
    ours = spec.comparison.ours
    if standings.frame.empty:
        return Answer(None, "No cell has completed yet.", [], [], [])
    means = {m: found["mean"] for m in spec.methods if (found := standings.aggregate(m))}
    sentences = []
    if ours in means:
        score = f"{means[ours].value:.1f}"
        datasets = counted(len(spec.datasets), "dataset")
        of = f"{standings.title(ours)}: mean normalised return over {datasets}"
        of += interval_text(means[ours], ".1f", ", 95 % interval ")
        above = [f"{standings.title(m)} ({each.value:.1f})" for m, each in means.items()
                 if each.value > means[ours].value]  # fmt: skip
        sentences.append(
            f"Higher: {', '.join(above)}." if above else "No other method has a higher mean."
        )
    else:
        score, of = None, f"{standings.title(ours)} has not ended on every dataset."
    gains = _gains(standings)
    if improvement := standings.improvement():
        lead, over = improvement["gain"], standings.title(improvement["over"])
        chance = improvement["probability"]
        sentences.append(
            f"Over {over}: {lead.value:+.1f}{interval_text(lead, '+.1f', ', 95 % interval ')}, "
            f"with a probability of {chance.value:.2f} that a run of it is better."
        )
    alike = [
        standings.title(m) for m, g, _ in gains if g.low is not None and g.low <= 0 <= (g.high or 0)
    ]
    if alike:
        sentences.append(f"It cannot be told from {', '.join(alike)}.")
    return Answer(score, of, sentences, [], [])


def _table(standings: Standings) -> Table:
    """That of `Standings`, its means first: a phone shows few columns."""
    n = len(standings.spec.datasets)
    head, *rows = (
        [method, *found[n : n + 2], *found[:n]] for method, *found in standings.table("last")
    )
    return Table(
        "Normalised return after the last outer step: mean +- standard deviation over distillation "
        "seeds",
        head,
        rows,
    )


def _overview(standings: Standings, style: dict[str, Look]) -> list[Figure]:
    """Means over all datasets, and gains, with intervals."""
    spec, figures = standings.spec, []
    means = [(m, found["mean"]) for m in spec.methods if (found := standings.aggregate(m))]
    if means:
        best = max(means, key=lambda each: each[1].value)
        said = f"{standings.title(best[0])} has the highest mean: {best[1].value:.1f}."
        cells = [[standings.title(m), f"{e.value:.1f}", interval_text(e, ".1f")] for m, e in means]
        table = Table("Mean normalised return over all datasets", ["method", "mean", "95 %"], cells)
        layout = beside_names("mean normalised return")
        figures.append(
            Figure("Mean over all datasets", said, _intervals(standings, means, style),
                   layout, table, _height(means))
        )  # fmt: skip
    gains = [(m, e) for m, e, _ in _gains(standings)]
    if gains:
        ours = standings.title(spec.comparison.ours)
        sure = sum(e.low is not None and e.low > 0 for _, e in gains)
        said = (
            f"The whole interval is above 0 for {sure} of {len(gains)} methods. Mean differences, "
            "paired by distillation seed, with 95 % intervals by the bootstrap stratified by "
            "dataset."
        )
        layout = beside_names(f"gain of {ours}")
        layout["shapes"] = [
            {"type": "line", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1,
             "line": {"dash": "dash", "width": 1, "color": "--ink"}}
        ]  # fmt: skip
        cells = [
            [standings.title(m), f"{e.value:+.1f}", interval_text(e, "+.1f")] for m, e in gains
        ]
        table = Table(f"Gain of {ours}", ["over", "gain", "95 %"], cells)
        title = f"Gain of {ours} over each method"
        figures.append(
            Figure(title, said, _intervals(standings, gains, style), layout, table, _height(gains))
        )
    return figures


def _intervals(
    standings: Standings, estimates: list[tuple[str, Estimate]], style: dict[str, Look]
) -> list[dict[str, Any]]:
    """A point a method, the first one on top, with its interval."""
    data = []
    for method, estimate in reversed(estimates):
        low, high = estimate.low, estimate.high
        spread = {}
        if low is not None and high is not None:
            spread = {
                "error_x": {
                    "symmetric": False,
                    "array": [short(high - estimate.value)],
                    "arrayminus": [short(estimate.value - low)],
                    "color": themed(style[method].colour),
                }
            }
        data.append(
            {
                "mode": "markers",
                "x": [short(estimate.value)],
                "y": [plain(standings.title(method))],
                "showlegend": False,
                "hoverinfo": "x+y",
                "marker": _marker(style[method], 10),
                **spread,
            }
        )
    return data


def _of_dataset(standings: Standings, dataset: str, style: dict[str, Look]) -> list[Figure]:
    """Each method's distillation seeds and their mean; and returns on the way, if there are any."""
    methods = [m for m in standings.spec.methods if len(standings.scores(m, dataset))]
    if not methods:
        return []
    data: list[dict[str, Any]] = []
    for method in reversed(methods):
        scores, name = standings.scores(method, dataset), plain(standings.title(method))
        points = {"mode": "markers", "showlegend": False}
        shown = _marker(style[method], 7) | {"opacity": 0.6}
        bar = _marker(style[method], 18) | {
            "symbol": "line-ns",
            "line": {"width": 3, "color": themed(style[method].colour)},
        }
        link = _id(standings, method, dataset)
        data.append(
            points
            | {"x": [short(float(s)) for s in scores], "y": [name] * len(scores),
               "customdata": [link] * len(scores), "marker": shown}
        )  # fmt: skip
        data.append(
            points
            | {"x": [short(float(scores.mean()))], "y": [name], "customdata": [link], "marker": bar}
        )
    best = max(methods, key=lambda m: float(standings.scores(m, dataset).mean()))
    said = (
        f"{standings.title(best)} has the highest mean, {standings.cell(best, dataset)}. A point "
        "is a distillation seed, a bar their mean."
    )
    cells = [
        [standings.title(m), f"{s.mean():.1f}", *(f"{v:.1f}" for v in (s.min(), s.max()))]
        for m in methods
        for s in [standings.scores(m, dataset)]
    ]
    table = Table(f"Returns on {dataset}", ["method", "mean", "lowest seed", "highest seed"], cells)
    layout = beside_names("normalised return")
    found = [Figure(dataset, said, data, layout, table, _height(methods))]
    return found + _curves(standings, dataset, methods, style)


def _curves(
    standings: Standings, dataset: str, methods: list[str], style: dict[str, Look]
) -> list[Figure]:
    frame = standings.frame[standings.frame.dataset == dataset]
    data, cells = [], []
    for method in methods:
        rows = frame[frame.method == method]
        means = rows.groupby("outer_steps").normalized_return.mean()
        if len(means) < 2:
            continue
        look = style[method]
        data.append(
            {
                "mode": "lines+markers",
                "name": plain(standings.title(method)),
                "x": [int(step) for step in means.index],
                "y": [short(float(value)) for value in means],
                "customdata": [_id(standings, method, dataset)] * len(means),
                "line": {"color": themed(look.colour), "dash": look.dash},
                "marker": {"symbol": look.symbol},
            }
        )
        cells += [
            [standings.title(method), str(s), f"{v:.1f}"]
            for s, v in zip(means.index, means, strict=True)
        ]
    if not data:
        return []
    table = Table(f"Returns on the way on {dataset}", ["method", "outer steps", "mean"], cells)
    said = "Mean over distillation seeds, of the methods that were evaluated on the way."
    layout = axes("outer steps", "normalised return")
    return [Figure(f"{dataset}, on the way", said, data, layout, table, 380)]


def _cells(standings: Standings) -> Lines:
    """A row a method and dataset, which the figures link to."""
    head = ["dataset", "mean +- sd", "seeds", "each seed", "chosen by search", "failed", "warnings"]
    lines = []
    for method in standings.spec.methods:
        for dataset in standings.spec.datasets:
            scores, key = standings.scores(method, dataset), (method, dataset)
            title = standings.title(method)
            reason = standings.failed.get(key)
            mean = standings.cell(method, dataset)
            if len(scores):
                said = f"{title} on {dataset}: {mean}"
            else:
                said = f"{title} on {dataset}: " + (f"failed: {reason}" if reason else "not ended")
            cells = [
                dataset,
                mean,
                str(len(scores) or ""),
                ", ".join(f"{score:.1f}" for score in scores),
                flat(standings.chosen[key]) if key in standings.chosen else "",
                reason or "",
                " ".join(standings.warnings.get(key, [])),
            ]
            lines.append(
                Line(
                    _id(standings, method, dataset),
                    title,
                    f"{title}, {dataset}",
                    said,
                    False,
                    cells,
                )
            )
    return Lines("method", [(each, each) for each in head], lines)


def _facts(standings: Standings) -> dict[str, str]:
    settings = standings.spec.comparison
    need = settings.resources
    return {
        "seeds": f"{settings.seed}; searches {settings.search_seed}",
        "a cell has": f"{need.cpu} CPU, {need.gpu:g} GPU",
        "results, settings, identities": "results.csv, configs.json, identities.json in the folder",
        "this page's versions": ", ".join(f"{name} {each}" for name, each in versions().items()),
        "this page's machine": f"{platform.node()}, {platform.platform()}",
    }


def _id(standings: Standings, method: str, dataset: str) -> str:
    methods, datasets = list(standings.spec.methods), list(standings.spec.datasets)
    return f"cell-{methods.index(method)}-{datasets.index(dataset)}"


def _marker(look: Look, size: int) -> dict[str, Any]:
    return {"size": size, "symbol": look.symbol, "color": themed(look.colour)}


def _height(rows: list[Any]) -> int:
    return 90 + 26 * len(rows)
