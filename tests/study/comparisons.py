"""Results of a small comparison, as cells leave them."""

from pathlib import Path

import numpy as np

from sdw_core.identity import Sources
from sdw_core.statistics import ReturnSummary
from search_spaces import ComparisonSpec, load_comparison
from study.comparison import Results
from study.outcomes import TrialResult

SPEC = """
comparison: {name: small, ours: SDW, over: Av-PBC, seed: 0, search_seed: 9}
datasets: {a/one-v0: , a/two-v0: }
pipeline: {distill: {seeds: 2, outer_steps: 10}, evaluation: {policies: 2, curve: 2}}
methods:
  Av-PBC: {}
  SDW: {candidates: [{weighting: {temperature: 0}}, {weighting: {temperature: 0.5}}]}
  expert: {judged: expert, pipeline: {distill: {seeds: 1}}}
"""


def small_comparison(folder: Path) -> ComparisonSpec:
    path = folder / "small.yaml"
    path.write_text(SPEC)
    return load_comparison(str(path))


def result(*curve: list[float], seeds: tuple[int, ...] = (0, 1)) -> TrialResult:
    """Of a cell whose policies, those of a seed together, returned so at steps 5 and 10."""
    steps = [5, 10][-len(curve) :]
    mean = float(np.mean(curve[-1]))
    return TrialResult(
        outcome="COMPLETE",
        metrics={"normalized_return": mean},
        normalized_return=ReturnSummary(mean, mean, 0.0, 99.0, ()),
        curve={str(step): returns for step, returns in zip(steps, curve, strict=True)},
        distillation_seeds=list(seeds),
        sources=Sources(dataset="cd" * 32),
        identity="ab" * 32,
    )


FAILURE = TrialResult(outcome="FAILED", reason="divergence: too far")


def searched(spec: ComparisonSpec, dataset: str, *returns: float | None) -> Results:
    cells = spec.search_cells("SDW", dataset)
    return {
        cell: FAILURE if value is None else result([value])
        for cell, value in zip(cells, returns, strict=True)
    }


def all_results(spec: ComparisonSpec) -> Results:
    found: Results = {}
    for shift, dataset in ((0.0, "a/one-v0"), (10.0, "a/two-v0")):
        found |= searched(spec, dataset, 1.0, 2.0)
        ours, theirs = spec.cell("SDW", dataset, 1), spec.cell("Av-PBC", dataset)
        found[ours] = result([50, 60, 0, 0], [30 + shift, 32 + shift, 40, 44])
        found[theirs] = result([0, 0, 0, 0], [20, 22, 30, 34])
        found[spec.cell("expert", dataset)] = result([90.0], seeds=(0,))
    return found
