"""When a study may end before its trials do: simulated studies of six datasets, ended by rules.

    python -m benchmarks.patience [--trials 40] [--repetitions 50] [--terminator N]
        [--jobs 1] [--to FILE.jsonl] [--json]

Studies are those of `benchmarks.samplers`, with `study.sampler: tpe` and each trial's standard
error of its ten policies. A rule ends a study where it would have: `patience N` is that of
`study.patience`; `terminator` is that of Optuna's `Terminator`, whose regret bound by a Gaussian
process is held against the standard error of the best trial, from the 20th trial on, in the first N
studies of a dataset, as it takes ten times as long as the rest; `N trials` asks for fewer in the
first place. `saved` is how many trials a rule saves, `lost` and `lost raced`
are by how much the true mean of what is exported falls behind that of all trials, without and with
the race. `even` is what is lost, without the race, if in each study as many trials are saved as the
rule saves in the mean: a rule that knows when to end loses less. `+-` is a standard error over
repetitions, of the mean over datasets.
"""

import warnings
from typing import Any

import numpy as np
import optuna
from optuna.terminator import RegretBoundEvaluator

from benchmarks.cells import Cell, measure_all, parser, told
from benchmarks.samplers import best_by_race, best_by_search, simulated_search
from benchmarks.surrogate import surrogates
from sdw_core.console import Console, Table
from study.patience import since_gain

PATIENCE = (4, 6, 8, 10, 12, 16)
ASKED = (16, 20, 24, 32)
FOUND = ("saved", "lost", "even", "lost raced")


def main() -> None:
    options = parser("benchmarks.patience", __doc__)
    options.set_defaults(datasets=list(surrogates()))
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--repetitions", type=int, default=50, help="studies a dataset")
    options.add_argument("--terminator", type=int, default=0, metavar="N")
    arguments = options.parse_args()
    asked = [
        {
            "dataset": dataset,
            "trials": arguments.trials,
            "repetition": repetition,
            "terminator": repetition < arguments.terminator,
        }
        for repetition in range(arguments.repetitions)
        for dataset in arguments.datasets
    ]
    cells = measure_all(asked, measured, arguments.jobs, arguments.to)
    told({"cells": cells, "means": means(cells)}, arguments.json, show)


def measured(asked: Cell) -> Cell:
    """Of one study: the true mean of what it would export, and where each rule ends."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = simulated_search(asked | {"study": "tpe", "startup": 4}, asked["repetition"])
    count = asked["trials"]
    ends = {f"{n} trials": min(n, count) for n in ASKED}
    for patience in PATIENCE:
        over = (n for n in range(count) if since_gain(found.scores[:n]) >= patience)
        ends[f"patience {patience}"] = next(over, count)
    if asked["terminator"]:
        ends["terminator"] = _terminated(found.study, [error for _, error in found.scores])

    def true(trial: int) -> float:
        return round(found.truth.mean(found.settings[trial]), 3)

    return {
        "searched": [true(best_by_search(found, n)) for n in range(1, count + 1)],
        "raced": {str(n): true(best_by_race(found, n)) for n in {count, *ends.values()}},
        "ends": ends,
    }


def _terminated(study: optuna.Study, errors: list[float]) -> int:
    """After how many trials the regret bound is less than the best trial's standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = RegretBoundEvaluator(seed=0)
        for count in range(20, len(errors)):
            trials = study.trials[:count]
            best = max(trials, key=lambda trial: trial.value or 0.0)
            if evaluator.evaluate(trials, study.direction) < errors[best.number]:
                return count
    return len(errors)


def means(cells: list[Cell]) -> list[dict[str, Any]]:
    """Of each rule over the studies that it was tried in: [mean, standard error]."""
    rows = []
    for rule in dict.fromkeys(rule for cell in cells for rule in cell["ends"]):
        tried = [cell for cell in cells if rule in cell["ends"]]
        repetitions = sorted({cell["repetition"] for cell in tried})
        even = round(float(np.mean([cell["ends"][rule] for cell in tried])))
        row: dict[str, Any] = {"rule": rule, "repetitions": len(repetitions)}
        for name in FOUND:
            of: dict[int, list[float]] = {repetition: [] for repetition in repetitions}
            for cell in tried:
                end = even if name == "even" else cell["ends"][rule]
                of[cell["repetition"]].append(_lost(cell, name, end))
            each = [np.mean(lost) for lost in of.values()]
            row[name] = [float(np.mean(each)), float(np.std(each, ddof=1) / len(each) ** 0.5)]
        rows.append(row)
    return rows


def _lost(cell: Cell, name: str, end: int) -> float:
    if name == "saved":
        return float(cell["trials"] - end)
    if name in ("lost", "even"):
        return float(cell["searched"][-1] - cell["searched"][end - 1])
    return float(cell["raced"][str(cell["trials"])] - cell["raced"][str(end)])


def show(report: dict[str, Any]) -> None:
    """A line a rule."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    table = Table("rule", "repetitions", *FOUND)
    for row in report["means"]:
        each = ["{:.1f} +- {:.1f}".format(*row[name]) for name in FOUND]
        table.add_row(row["rule"], str(row["repetitions"]), *each)
    console.print(table)


if __name__ == "__main__":
    main()
