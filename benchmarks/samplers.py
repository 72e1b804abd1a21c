"""Which sampler finds the best rows, and what the race adds: simulated studies of six datasets.

    python -m benchmarks.samplers [--studies NAME ...] [--trials 16 40 100] [--repetitions 50]
        [--startup N] [--jobs 1] [--to FILE.jsonl] [--json]

A study is real in its sampler (`study.samplers`) and in its race (`study.race`), one trial at a
time; what a trial finds is drawn from `benchmarks.surrogate`, ten policies a trial. Study k of a
dataset has the same teachers and rows for every sampler, so that differences are paired. The return
is the true mean of what is exported, on seeds that the study did not use. `regret` is what the best
settings promise, before the lottery of the rows, over that return; `stated` is over it as well: the
search's best value without the race, and with the race the mean of ten fresh policies, as an export
states it. The race has 15 episodes a trial of the study, as the quickstart's has. `+-` is a
standard error over repetitions, of the mean over datasets.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.cells import Cell, measure_all, parser, told
from benchmarks.surrogate import SEARCH, Study, surrogates
from sdw_core.console import Console, Table
from search_spaces import StudySpec, parse_spec
from study.book import optuna_distribution
from study.race import POLICIES, race
from study.samplers import sampler_of

STUDIES = {
    "tpe, all drawn": {"sampler": "tpe", "defaults_first": False},
    **{name: {"sampler": name} for name in ("tpe", "gp", "nsga2", "random", "grid")},
}
"""Name -> settings of `study`; the first is what a study did before its first trial was given."""
GRID = SEARCH | {
    "expert.steps": {"type": "categorical", "choices": [2000, 8000]},
    "distill.state_noise": {"type": "categorical", "choices": [0, 0.15, 0.3, 0.6]},
    "weighting.temperature": {"type": "categorical", "choices": [0, 0.1]},
    "distill.synthetic_size": {"type": "categorical", "choices": [64, 256]},
}
"""What a grid is made of: the values of the real trials."""
JUDGED = 10
"""Policies of a trial, and of what an export states."""
EPISODES = 15
"""Of the race, for each trial of the study."""
TOP = 5
"""Trials that race."""
FOUND = ("return", "regret", "stated", "return raced", "regret raced", "stated raced")


def main() -> None:
    options = parser("benchmarks.samplers", __doc__)
    options.set_defaults(datasets=list(surrogates()))
    options.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES, metavar="NAME")
    options.add_argument("--trials", nargs="+", type=int, default=[16, 40, 100])
    options.add_argument("--repetitions", type=int, default=50, help="studies a dataset")
    options.add_argument("--startup", type=int, default=4, help="study.startup_trials")
    arguments = options.parse_args()
    asked = [
        {
            "dataset": dataset,
            "study": study,
            "trials": trials,
            "repetitions": arguments.repetitions,
            "startup": arguments.startup,
        }
        for trials in arguments.trials
        for study in arguments.studies
        for dataset in arguments.datasets
    ]
    cells = measure_all(asked, measured, arguments.jobs, arguments.to)
    told({"cells": cells, "means": means(cells)}, arguments.json, show)


def measured(asked: Cell) -> Cell:
    """What each repetition finds."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = [simulated(asked, repetition) for repetition in range(asked["repetitions"])]
    return {name: [round(each[name], 3) for each in found] for name in FOUND}


def spec_of(asked: Cell, seed: int) -> StudySpec:
    """A study of what the surrogate knows."""
    settings = {"name": "simulated", "seed": seed, "trials": asked["trials"]}
    settings |= {"startup_trials": asked["startup"]} | STUDIES[asked["study"]]
    searched = GRID if asked["study"] == "grid" else SEARCH
    pipeline = {"dataset": "sdw/hopper-replay-mini-v0", "expert": {"episodes": [0.9, 1]}}
    return parse_spec({"study": settings, "pipeline": pipeline, "search": searched})


@dataclass(frozen=True)
class Searched:
    """A simulated search.

    Attributes:
        truth: what trials are drawn from.
        study: Optuna's.
        settings: of each trial.
        scores: of each trial: the mean of its policies, and the standard error of that.
    """

    truth: Study
    study: optuna.Study
    settings: list[dict[str, Any]]
    scores: list[tuple[float, float]]


def simulated_search(asked: Cell, repetition: int) -> Searched:
    """One study, without its race."""
    truth = Study(surrogates()[asked["dataset"]], repetition)
    spec = spec_of(asked, repetition)
    space = {path: optuna_distribution(each) for path, each in spec.search.items()}
    study = optuna.create_study(direction="maximize", sampler=sampler_of(spec))
    found = Searched(truth, study, [], [])
    for _ in range(asked["trials"]):
        trial = study.ask(fixed_distributions=space)
        episodes = json.loads(trial.params["expert.episodes"])
        found.settings.append(trial.params | {"expert.episodes": episodes})
        policies = truth.policies(found.settings[-1], "search", JUDGED)
        score = float(policies.mean())
        found.scores.append((score, float(policies.std(ddof=1)) / JUDGED**0.5))
        study.tell(trial, score)
    return found


def best_by_search(found: Searched, trials: int) -> int:
    """The best of the first so many trials."""
    return max(range(trials), key=lambda number: found.scores[number][0])


def best_by_race(found: Searched, trials: int) -> int:
    """The best of the first so many trials, once those that lead have raced."""
    values = [value for value, _ in found.scores[:trials]]
    ranked = sorted(range(trials), key=lambda number: -values[number])

    def judge(number: int, round: int) -> NDArray[np.float64]:
        return found.truth.policies(found.settings[number], f"race-{round}", POLICIES)

    searched = {number: (values[number], JUDGED) for number in ranked[:TOP]}
    return race(searched, judge, EPISODES * trials // POLICIES).winner


def simulated(asked: Cell, repetition: int) -> dict[str, float]:
    """One study, its best trial by the search, and its best by the race."""
    search, trials = simulated_search(asked, repetition), asked["trials"]
    truth, best = search.truth, best_by_search(search, trials)
    promised, found = truth.promised, truth.mean(search.settings[best])
    raced = search.settings[best_by_race(search, trials)]
    return {
        "return": found,
        "regret": promised - found,
        "stated": search.scores[best][0] - found,
        "return raced": truth.mean(raced),
        "regret raced": promised - truth.mean(raced),
        "stated raced": float(truth.policies(raced, "confirm", JUDGED).mean()) - truth.mean(raced),
    }


def means(cells: list[Cell]) -> list[dict[str, Any]]:
    """Of each sampler and number of trials over the datasets: [mean, standard error]."""
    rows = []
    for key in dict.fromkeys((c["study"], c["trials"], c["repetitions"]) for c in cells):
        alike = [c for c in cells if (c["study"], c["trials"], c["repetitions"]) == key]
        row: dict[str, Any] = dict(zip(("study", "trials", "repetitions"), key, strict=True))
        for name in FOUND:
            each = np.mean([cell[name] for cell in alike], axis=0)
            row[name] = [float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)]
        rows.append(row)
    return rows


def show(report: dict[str, Any]) -> None:
    """A line a sampler and number of trials."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    table = Table("study", "trials", "repetitions", *FOUND)
    for row in report["means"]:
        each = ["{:.1f} +- {:.1f}".format(*row[name]) for name in FOUND]
        table.add_row(row["study"], str(row["trials"]), str(row["repetitions"]), *each)
    console.print(table)


if __name__ == "__main__":
    main()
