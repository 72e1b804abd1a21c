"""A surrogate of what trials find, fitted to real trials of six datasets: cheap studies.

    python -m benchmarks.surrogate COMPARISON [COMPARISON ...] > benchmarks/results/trials.jsonl

writes the real trials of comparisons' folders (`sdw compare compare-six`), and those of
`benchmarks/results/ablation.jsonl`, that a study of `SEARCH` could have had: a line a trial with
its dataset, root seed, searched settings, and the return of each policy, distillation seed by
distillation seed (those of the ablation state their mean only).

What is measured and what is made up. Real are the trials: of a dataset 16 settings at root seed
1000, and at root seed 0, with 3 or 5 distillation seeds each, 4 to 6 more. Between them the mean
return is interpolated by a Gaussian process over the searched settings, one for each dataset, with
lengths and variances that all share (by maximum likelihood, of returns standardised by dataset);
most combinations of a teacher with states, steps and width were never run. Around that mean stand a
lottery of the teacher, which all trials of a study have in common that share the expert's settings,
and one of the rows; the same likelihood says how large they are, from the root seeds and the
distillation seeds. Both are normal, and that of the rows differs between any two settings, however
alike. A trial's policies lie around its rows' mean as those of the real rows of that dataset do
whose mean is nearest: skewed and of many widths. Policies of one place are alike in all trials, by
the rank correlation that is measured. What an episode adds to its policy's return is left out:
there a policy of one episode is as good as one of three.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from sdw_core.config import PipelineConfig
from sdw_core.seeds import derive_seed

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
TRIALS = RESULTS / "trials.jsonl"
SEARCH: dict[str, dict[str, Any]] = {
    "expert.episodes": {
        "type": "categorical",
        "choices": [[0.9, 1], [0.5, 1], [0, 0.5], [0, 0.3]],
    },
    "expert.steps": {"type": "categorical", "choices": [2000, 4000, 8000]},
    "distill.states": {"type": "categorical", "choices": ["all", "teacher"]},
    "distill.state_noise": {"type": "float", "low": 0, "high": 0.6},
    "weighting.temperature": {"type": "float", "low": 0, "high": 0.1},
    "distill.width": {"type": "categorical", "choices": [1024, 2048]},
    "distill.synthetic_size": {"type": "int", "low": 64, "high": 256, "log": True},
}
"""What the studies search."""
TEACHER = ("expert.episodes", "expert.steps")
"""Settings that a teacher hangs on."""
Settings = Mapping[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.surrogate", description=__doc__)
    options.add_argument("comparisons", nargs="+", type=Path, metavar="COMPARISON")
    ablation = RESULTS / "ablation.jsonl"
    lines = {json.dumps(trial) for trial in of_ablation(ablation)}
    for folder in options.parse_args().comparisons:
        lines |= {json.dumps(trial) for trial in of_comparison(folder)}
    print(*sorted(lines), sep="\n")
    print(f"{len(lines)} trials", file=sys.stderr)


def of_comparison(folder: Path) -> list[dict[str, Any]]:
    """The trials of a comparison's folder."""
    from study.comparison import ComparisonFolder
    from study.outcomes import COMPLETE

    comparison = ComparisonFolder(folder)
    spec = comparison.spec()
    found = []
    for cell, result in comparison.results(spec, comparison.stated(spec)).items():
        settings = searched(cell.config)
        if result.outcome != COMPLETE or cell.judged == "expert" or settings is None:
            continue
        assert result.normalized_return is not None
        sets = len(result.distillation_seeds)
        policies = np.reshape(result.normalized_return.per_policy, (sets, -1)).round(2)
        found.append(_trial(cell.config, settings, policies))
    return found


def of_ablation(file: Path) -> list[dict[str, Any]]:
    """The trials among the lines of `benchmarks.ablation`."""
    found = []
    for line in map(json.loads, file.read_text().splitlines()):
        config = PipelineConfig(dataset=line["dataset"], **line["settings"])
        settings = searched(config)
        if settings is not None and "mini" not in config.source:
            found.append(_trial(config, settings, np.round(line["returns"], 2)[:, None]))
    return found


def _trial(config: PipelineConfig, settings: Settings, returns: Array) -> dict[str, Any]:
    about = {"dataset": config.source, "seed": config.seed, "settings": settings}
    return about | {"returns": returns.tolist()}


def searched(config: PipelineConfig) -> dict[str, Any] | None:
    """The settings that `SEARCH` names; None of a trial that differs in others."""
    distill, expert, defaults = config.distill, config.expert, PipelineConfig(dataset="d")
    same = ("objective", "outer_steps", "layers", "outer_schedule", "inner_steps")
    if any(getattr(distill, name) != getattr(defaults.distill, name) for name in same):
        return None
    alike = (config.evaluation.ensemble, config.weighting.scheme, expert.method, expert.ensemble)
    if alike != (1, "reciprocal", "percent_bc", 1) or expert.fraction != 0.1:
        return None
    return {
        "expert.episodes": list(expert.episodes or (0.9, 1)),
        "expert.steps": expert.steps,
        "distill.states": distill.states,
        "distill.state_noise": distill.state_noise,
        "weighting.temperature": config.weighting.temperature,
        "distill.width": distill.width,
        "distill.synthetic_size": distill.synthetic_size,
    }


@dataclass(frozen=True)
class Rows:
    """Rows of a real trial: their settings, and what their policies returned.

    Attributes:
        seed: root seed.
        mean: of the policies' returns.
        error: squared standard error of the mean.
        around: the policies' returns around it; none, if only the mean is known.
    """

    seed: int
    settings: Settings
    mean: float
    error: float
    around: Array


@dataclass(frozen=True)
class Surrogate:
    """Of a dataset.

    Attributes:
        rows: real ones.
        scale: log of the lengths of the mean's kernel, then of three standard deviations: of the
            mean, of the teacher's lottery, of the rows' lottery, in those of the dataset.
        correlation: of what policies of one place return, in any two trials.
    """

    rows: Sequence[Rows]
    scale: Array
    correlation: float

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the real rows' means."""
        return float(np.std([rows.mean for rows in self.rows]))

    @cached_property
    def centre(self) -> float:
        """Mean of the real rows' means."""
        return float(np.mean([rows.mean for rows in self.rows]))

    @property
    def lotteries(self) -> tuple[float, float]:
        """Standard deviations of the teacher's lottery and of the rows', in points of return."""
        teacher, rows = np.exp(self.scale[-2:]) * self.spread
        return float(teacher), float(rows)

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        places = np.array([place(rows.settings) for rows in self.rows])
        values = np.array([rows.mean - self.centre for rows in self.rows]) / self.spread
        return places, np.linalg.solve(covariance(self.rows, self.scale, self.spread), values)

    def mean(self, settings: Sequence[Settings]) -> Array:
        """Expected return of settings [N], over teachers and rows; it may leave 0 to 100."""
        places, weights = self._solved
        asked = np.array([place(each) for each in settings])
        return self.centre + self.spread * (kernel(asked, places, self.scale) @ weights)

    def around(self, mean: float) -> Array:
        """How policies lie around rows of that mean: sorted, and 0 in the mean."""
        means, arounds = self._known
        return arounds[int(np.abs(means - mean).argmin())]

    @cached_property
    def _known(self) -> tuple[Array, list[Array]]:
        known = [rows for rows in self.rows if len(rows.around)]
        return np.array([rows.mean for rows in known]), [np.sort(rows.around) for rows in known]

    @cached_property
    def drawn(self) -> tuple[list[str], Array]:
        """Teachers of 2,000 settings that were drawn at random, and their expected returns."""
        rng = np.random.default_rng(0)
        choices = {path: each["choices"] for path, each in SEARCH.items() if "choices" in each}
        many = [
            {path: each[rng.integers(len(each))] for path, each in choices.items()}
            | {
                "distill.state_noise": rng.uniform(0, 0.6),
                "weighting.temperature": rng.uniform(0, 0.1),
                "distill.synthetic_size": 64 * 4 ** rng.random(),
            }
            for _ in range(2000)
        ]
        return [teacher(each) for each in many], self.mean(many)


@dataclass
class Study:
    """The truth of one simulated study.

    Args:
        surrogate: of its dataset.
        seed: of its lotteries.
    """

    surrogate: Surrogate
    seed: int
    _means: dict[str, float] = field(default_factory=dict)

    def mean(self, settings: Settings) -> float:
        """Of all policies that can be cloned from the rows of a trial: what the search is after."""
        key = json.dumps(settings)
        if key not in self._means:
            _, rows = self.surrogate.lotteries
            found = self._expected([teacher(settings)], self.surrogate.mean([settings]))[0]
            self._means[key] = float(np.clip(found + rows * self._normal("rows", key), 0, 100))
        return self._means[key]

    @property
    def promised(self) -> float:
        """What the best of many settings promise, before the lottery of the rows."""
        return float(np.clip(self._expected(*self.surrogate.drawn).max(), 0, 100))

    def _expected(self, teachers: Sequence[str], means: Array) -> Array:
        of = {each: self._normal("teacher", each) for each in set(teachers)}
        return means + self.surrogate.lotteries[0] * np.array([of[each] for each in teachers])

    def policies(self, settings: Settings, stage: str, count: int) -> Array:
        """Returns of so many policies that are cloned from a trial's rows, on a stage's streams."""
        shared = self._generator("policies", stage).standard_normal(count)
        own = self._generator("policies", stage, json.dumps(settings)).standard_normal(count)
        alike = self.surrogate.correlation
        place = ndtr(alike**0.5 * shared + (1 - alike) ** 0.5 * own)
        mean = self.mean(settings)
        around = self.surrogate.around(mean)
        return np.asarray(mean + around[(place * len(around)).astype(int)])

    def _normal(self, *address: str) -> float:
        return float(self._generator(*address).standard_normal())

    def _generator(self, *address: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, " ".join(address)))


def teacher(settings: Settings) -> str:
    """Names the teacher of a trial."""
    return json.dumps([settings[name] for name in TEACHER])


def place(settings: Settings) -> list[float]:
    """Settings as a point: numbers about 1 apart, and 1 apart for every two choices."""
    episodes = [float(list(settings["expert.episodes"]) == c) for c in EPISODES]
    return [
        *(value * 0.5**0.5 for value in episodes),
        np.log2(settings["expert.steps"] / 2000) / 2,
        float(settings["distill.states"] == "teacher"),
        settings["distill.state_noise"] / 0.6,
        settings["weighting.temperature"] / 0.1,
        np.log2(settings["distill.width"] / 1024),
        np.log2(settings["distill.synthetic_size"] / 64) / 2,
    ]


EPISODES = SEARCH["expert.episodes"]["choices"]
LENGTHS = len(SEARCH)
"""How many lengths the kernel has: one a searched setting; the first is that of four numbers."""


def kernel(a: Array, b: Array, scale: Array) -> Array:
    """Covariance of the mean at places [N, P] and [M, P], in the dataset's variances: [N, M].

    A constant is part of it, for the dataset's mean is not known beforehand.
    """
    lengths = np.exp(scale[[0] * len(EPISODES) + list(range(1, LENGTHS))])
    apart = ((a[:, None] - b[None]) / lengths) ** 2
    return np.asarray(1 + np.exp(2 * scale[LENGTHS]) * np.exp(-0.5 * apart.sum(-1)))


def covariance(rows: Sequence[Rows], scale: Array, spread: float) -> Array:
    """Of the rows' measured means, in the dataset's variances."""
    places = np.array([place(each.settings) for each in rows])
    teachers = [(each.seed, teacher(each.settings)) for each in rows]
    same = np.array([[a == b for b in teachers] for a in teachers])
    own = np.exp(2 * scale[-1]) + np.array([each.error for each in rows]) / spread**2
    return kernel(places, places, scale) + np.exp(2 * scale[-2]) * same + np.diag(own)


@lru_cache
def surrogates(file: Path = TRIALS) -> dict[str, Surrogate]:
    """Dataset -> its surrogate, of the trials that a file holds."""
    from scipy.optimize import minimize

    rows = real_rows(file)
    correlation = rank_correlation(file)
    start = np.array([0.0] * LENGTHS + [0.0, -1.0, -1.0])
    unfitted = {name: Surrogate(each, start, correlation) for name, each in rows.items()}

    def loss(scale: Array) -> float:
        """Negative log posterior: lengths and deviations are within a few e-foldings of these."""
        total = 0.5 * float(((scale - start) ** 2).sum())
        for each in unfitted.values():
            values = np.array([r.mean - each.centre for r in each.rows]) / each.spread
            factor = np.linalg.cholesky(covariance(each.rows, scale, each.spread))
            whitened = np.linalg.solve(factor, values)
            total += float(np.log(np.diag(factor)).sum() + 0.5 * whitened @ whitened)
        return total

    fitted = minimize(loss, start, method="L-BFGS-B").x
    return {name: Surrogate(each, fitted, correlation) for name, each in rows.items()}


def real_rows(file: Path) -> dict[str, list[Rows]]:
    """Dataset -> the rows of its trials."""
    found: dict[str, list[Rows]] = {}
    trials = [json.loads(line) for line in file.read_text().splitlines()]
    for trial in trials:
        for policies in np.array(trial["returns"]):
            many, mean = len(policies) > 1, float(policies.mean())
            error = policies.var(ddof=1) / len(policies) if many else np.nan
            around = policies - mean if many else policies[:0]
            rows = Rows(trial["seed"], trial["settings"], mean, float(error), around)
            found.setdefault(trial["dataset"], []).append(rows)
    return {name: [_with_error(each, rows) for each in rows] for name, rows in found.items()}


def _with_error(rows: Rows, known: Sequence[Rows]) -> Rows:
    """With an error of its mean: if unknown, of 10 policies that lie as those of the nearest do."""
    if not np.isnan(rows.error):
        return rows
    nearest = min((k for k in known if len(k.around)), key=lambda k: abs(k.mean - rows.mean))
    return Rows(rows.seed, rows.settings, rows.mean, float(nearest.around.var()) / 10, rows.around)


def rank_correlation(file: Path) -> float:
    """Of policies of one place in two trials of a dataset: alike in all but the rows."""
    from scipy.stats import spearmanr

    of: dict[tuple[Any, ...], list[list[float]]] = {}
    for trial in map(json.loads, file.read_text().splitlines()):
        settings = trial["settings"]
        for number, policies in enumerate(trial["returns"]):
            shape = (settings["distill.width"], len(policies))
            of.setdefault((trial["dataset"], trial["seed"], number, *shape), []).append(policies)
    found = [
        spearmanr(a, b).statistic
        for group in of.values()
        for i, a in enumerate(group)
        for b in group[:i]
        if len(a) > 9
    ]
    return float(max(0.0, np.mean(found)))


if __name__ == "__main__":
    main()
