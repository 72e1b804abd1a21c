"""From the results of a comparison to its table and its statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sdw_core.files import replaced_atomically, write_json, write_text
from sdw_core.labels import counted, named, short_name
from sdw_core.statistics import (
    Estimate,
    gain,
    iqm_score,
    mean_score,
    probability_of_improvement,
    with_interval,
)
from search_spaces import ComparisonSpec
from study.comparison import Results, final_cell
from study.outcomes import COMPLETE, TrialResult, config_hash

COLUMNS = [
    *("method", "dataset", "seed", "policy"),
    *("normalized_return", "outer_steps", "config_hash", "identity"),
]


MEASURE = "Normalised return: mean +- standard deviation over distillation seeds."
TABLES = {"last": "After the last outer step", "best": "Best evaluation"}
"""What is tabulated -> its title."""

SEARCH_COLUMNS = [
    *("method", "dataset", "candidate", "settings"),
    *("normalized_return", "low", "high"),
]


@dataclass(frozen=True)
class Standings:
    """A comparison's results.

    Attributes:
        spec: what was compared.
        frame: one row a policy and evaluation, with `COLUMNS`.
        failed: (method, dataset) -> why it has no result.
        chosen: (method, dataset) -> the candidate that a search chose.
        warnings: (method, dataset) -> what its run was warned of.
        configs: config hash -> settings of the cells of the table.
        identities: identity of a cell of the table -> `config_hash`, and `sources`: the content of
            its data and the versions of the method.
        searches: one row a candidate that was tried: method, dataset, candidate, settings,
            normalized_return, low, high.
        ensembles: (method, dataset) -> networks of a policy, E.
    """

    spec: ComparisonSpec
    frame: pd.DataFrame
    failed: dict[tuple[str, str], str]
    chosen: dict[tuple[str, str], dict[str, Any]]
    warnings: dict[tuple[str, str], list[str]]
    configs: dict[str, Any]
    identities: dict[str, Any]
    searches: pd.DataFrame
    ensembles: dict[tuple[str, str], int]

    @classmethod
    def of(cls, spec: ComparisonSpec, results: Results) -> "Standings":
        """Gather what the cells of the table found, as far as they have run."""
        rows: list[dict[str, Any]] = []
        failed, chosen, warnings, configs, identities, ensembles = {}, {}, {}, {}, {}, {}
        for method, settings in spec.methods.items():
            for dataset in spec.datasets:
                cell = final_cell(spec, method, dataset, results)
                if cell is None:
                    search = spec.search_cells(method, dataset)
                    if all(each in results for each in search):
                        reasons = sorted({results[each].reason or "" for each in search})
                        failed[method, dataset] = f"no candidate completed: {'; '.join(reasons)}"
                    continue
                if cell.candidate is not None:
                    chosen[method, dataset] = settings.candidates[cell.candidate]
                if cell not in results:
                    continue
                result = results[cell]
                if result.outcome != COMPLETE:
                    failed[method, dataset] = result.reason or ""
                    continue
                if result.warnings:
                    warnings[method, dataset] = result.warnings
                ensembles[method, dataset] = cell.ensemble
                made_with = config_hash(cell.config)
                configs[made_with] = cell.config.model_dump(mode="json")
                made_of = {"config_hash": made_with, "sources": result.made_of.to_json()}
                identities[str(result.identity)] = made_of
                rows += _rows(method, dataset, made_with, result)
        searches = pd.DataFrame(_searches(spec, results), columns=SEARCH_COLUMNS)
        frame = pd.DataFrame(rows, columns=COLUMNS)
        found = failed, chosen, warnings, configs, identities, searches, ensembles
        return cls(spec, frame, *found)

    def title(self, method: str) -> str:
        """A method's name, which says so where its policies are ensembles."""
        return named(method, *(e for (m, _), e in self.ensembles.items() if m == method))

    def scores(self, method: str, dataset: str, which: str = "last") -> NDArray[np.float64]:
        """A method's return on a dataset, seed by seed: after the `last` outer step, or the `best`.

        The best is that of the evaluation with the highest return, for each seed its own.
        """
        rows = self.frame[(self.frame.method == method) & (self.frame.dataset == dataset)]
        by_step = rows.pivot_table("normalized_return", "seed", "outer_steps", "mean")
        if by_step.empty:
            return np.zeros(0)
        values = by_step.iloc[:, -1] if which == "last" else by_step.max(axis=1)
        return values.to_numpy(np.float64)

    def identity(self, method: str, dataset: str) -> str | None:
        """The identity of a cell of the table; None where it has no result."""
        rows = self.frame[(self.frame.method == method) & (self.frame.dataset == dataset)]
        return None if rows.empty else str(rows.identity.iloc[0])

    def common(self, *methods: str) -> list[str]:
        """The datasets on which each of the methods has the same, whole number of seeds."""
        whole = {
            m: max((len(self.scores(m, d)) for d in self.spec.datasets), default=0) for m in methods
        }
        return [
            dataset
            for dataset in self.spec.datasets
            if all(len(self.scores(m, dataset)) == whole[m] > 0 for m in methods)
        ]

    def matrix(self, method: str, datasets: list[str], which: str = "last") -> NDArray[np.float64]:
        """Scores [seeds, datasets]."""
        return np.stack([self.scores(method, dataset, which) for dataset in datasets], axis=1)

    def aggregate(self, method: str) -> dict[str, Estimate] | None:
        """Mean and interquartile mean over all datasets; None if it failed on one."""
        if self.common(method) != list(self.spec.datasets):
            return None
        matrix = self.matrix(method, list(self.spec.datasets))
        return {"mean": with_interval(mean_score, matrix), "iqm": with_interval(iqm_score, matrix)}

    def improvement(self) -> dict[str, Any] | None:
        """Ours over theirs, on the datasets that both have; None if there are none."""
        names = self.spec.comparison.ours, self.spec.comparison.over
        datasets = self.common(*names)
        if not datasets:
            return None
        ours, theirs = (self.matrix(name, datasets) for name in names)
        difference, baseline = with_interval(gain, ours, theirs, paired=True), float(theirs.mean())
        return {
            "ours": names[0],
            "over": names[1],
            "datasets": datasets,
            "gain": difference,
            "gain_percent": 100 * difference.value / baseline if baseline > 0 else None,
            "probability": with_interval(probability_of_improvement, ours, theirs),
            "by_dataset": {
                d: with_interval(gain, ours[:, [i]], theirs[:, [i]], paired=True)
                for i, d in enumerate(datasets)
            },
        }

    def write(self, folder: Path) -> None:
        """Write the results as tables, and what they were made with and of."""
        with replaced_atomically(folder / "results.csv") as scratch:
            self.frame.to_csv(scratch, index=False)
        with replaced_atomically(folder / "results.parquet") as scratch:
            self.frame.to_parquet(scratch, index=False)
        with replaced_atomically(folder / "searches.csv") as scratch:
            self.searches.to_csv(scratch, index=False)
        write_json(folder / "configs.json", self.configs)
        write_json(folder / "identities.json", self.identities)
        write_text(folder / "table.md", self.markdown())

    def to_json(self) -> dict[str, Any]:
        """What `sdw compare --json` prints."""
        improvement = self.improvement()
        return {
            "comparison": self.spec.comparison.name,
            "cells": [
                {
                    "method": method,
                    "dataset": dataset,
                    "ensemble": self.ensembles.get((method, dataset)),
                    "failed": self.failed.get((method, dataset)),
                    "chosen": self.chosen.get((method, dataset)),
                    "identity": self.identity(method, dataset),
                    "warnings": self.warnings.get((method, dataset), []),
                    "last": self.scores(method, dataset).tolist(),
                    "best": self.scores(method, dataset, "best").tolist(),
                }
                for method in self.spec.methods
                for dataset in self.spec.datasets
            ],
            "aggregates": {
                method: found and {name: vars(value) for name, value in found.items()}
                for method in self.spec.methods
                for found in [self.aggregate(method)]
            },
            "improvement": improvement
            and {
                **improvement,
                "gain": vars(improvement["gain"]),
                "probability": vars(improvement["probability"]),
                "by_dataset": {d: vars(e) for d, e in improvement["by_dataset"].items()},
            },
        }

    def markdown(self) -> str:
        """The tables, with what was chosen and what failed."""
        lines = [MEASURE]
        for which, title in TABLES.items():
            header, *rows = self.table(which)
            lines += [f"\n{title}:\n", _line(header), _line(["---"] * len(header))]
            lines += map(_line, rows)
        return "\n".join((*lines, *self.notes())) + "\n"

    def table(self, which: str) -> list[list[str]]:
        """Headings, and a row a method: its return on each dataset, their mean, its interval.

        Args:
            which: one of `TABLES`; that of the last outer step has the interquartile mean too.
        """
        datasets = list(self.spec.datasets)
        header = ["method", *map(short_name, datasets), "mean", "95 %"]
        header += ["IQM", "95 %"] * (which == "last")
        rows = [
            [
                self.title(method),
                *(self.cell(method, dataset, which) for dataset in datasets),
                *self._aggregates(method, which),
            ]
            for method in self.spec.methods
        ]
        return [header, *rows]

    def notes(self) -> Iterator[str]:
        """Lines on the gain, and on what was chosen, warned of, and failed."""
        if improvement := self.improvement():
            ours, over = self.title(improvement["ours"]), self.title(improvement["over"])
            difference, chance = improvement["gain"], improvement["probability"]
            percent = improvement["gain_percent"]
            share = [] if percent is None else [f"{percent:+.1f} %"]
            gained = _bracketed(interval_text(difference, "+.1f", "95 %: "), *share)
            yield (
                f"\n{ours} over {over}, {counted(len(improvement['datasets']), 'dataset')}: gain "
                f"{difference.value:+.1f}{gained}, probability of improvement "
                f"{chance.value:.2f}{_bracketed(interval_text(chance, '.2f'))}."
            )
            for dataset, each in improvement["by_dataset"].items():
                yield f"- {dataset}: {each.value:+.1f}{_bracketed(interval_text(each, '+.1f'))}"
        if self.chosen:
            yield "\nChosen by search, on seeds that the tables do not use:\n"
            for (method, dataset), settings in self.chosen.items():
                yield f"- {method}, {dataset}: {flat(settings)}"
        if self.warnings:
            yield "\nWarnings:\n"
            for (method, dataset), sentences in self.warnings.items():
                yield from (f"- {method}, {dataset}: {sentence}" for sentence in sentences)
        if self.failed:
            yield "\nFailed:\n"
            for (method, dataset), reason in self.failed.items():
                yield f"- {method}, {dataset}: {reason}"

    def cell(self, method: str, dataset: str, which: str = "last") -> str:
        """A score in words: mean +- standard deviation over seeds, `failed`, or nothing yet."""
        scores = self.scores(method, dataset, which)
        if not len(scores):
            return "failed" if (method, dataset) in self.failed else ""
        if len(scores) == 1:
            return f"{scores[0]:.1f}"
        return f"{scores.mean():.1f} +- {scores.std(ddof=1):.1f}"

    def _aggregates(self, method: str, which: str) -> list[str]:
        datasets = list(self.spec.datasets)
        if self.common(method) != datasets:
            return [""] * (4 if which == "last" else 2)
        matrix = self.matrix(method, datasets, which)
        statistics = (mean_score, iqm_score) if which == "last" else (mean_score,)
        estimates = [with_interval(statistic, matrix) for statistic in statistics]
        return [t for each in estimates for t in (f"{each.value:.1f}", interval_text(each, ".1f"))]


def _rows(
    method: str, dataset: str, config_hash: str, result: TrialResult
) -> Iterator[dict[str, Any]]:
    seeds = result.distillation_seeds
    for step, returns in result.curve.items():
        policies = len(returns) // len(seeds)
        for index, value in enumerate(returns):
            row = (method, dataset, seeds[index // policies], index % policies, value, int(step))
            yield dict(zip(COLUMNS, (*row, config_hash, result.identity), strict=True))


def _searches(spec: ComparisonSpec, results: Results) -> Iterator[dict[str, Any]]:
    for method, settings in spec.methods.items():
        for dataset in spec.datasets:
            for cell in spec.search_cells(method, dataset):
                found = results[cell].normalized_return if cell in results else None
                returns = [found.mean, found.low, found.high] if found else [None] * 3
                what = flat(settings.candidates[cell.candidate or 0])
                row = (method, dataset, cell.candidate, what, *returns)
                yield dict(zip(SEARCH_COLUMNS, row, strict=True))


def interval_text(found: Estimate, form: str, prefix: str = "") -> str:
    """Empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{prefix}{found.low:{form}} to {found.high:{form}}"


def _bracketed(*parts: str) -> str:
    """In brackets what there is of it, behind a space."""
    said = "; ".join(filter(None, parts))
    return f" ({said})" if said else ""


def _line(cells: list[str]) -> str:
    """A line of a table; a bar in a name ends no cell."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def flat(settings: dict[str, Any], prefix: str = "") -> str:
    """Nested settings in a line, a path each."""
    parts = [
        flat(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} {value}"
        for key, value in settings.items()
    ]
    return ", ".join(parts)
