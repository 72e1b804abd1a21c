"""Use the pipeline from Python: do density weights raise the return, on equal seeds?

Smaller networks and fewer steps than the defaults, so that it takes less than two minutes.

python examples/compare_weights.py
"""

from pathlib import Path

import numpy as np
import torch

import sdw_core as sdw
from sdw_core.statistics import gain, with_interval

SEEDS = 8
"""Distillations at each temperature. Seed i begins with the same rows at both, and draws the same
initialisations, so that returns are compared in pairs."""


def returns(temperature: float) -> np.ndarray:
    """Mean normalised return of the policies of each distillation seed [S, 1]."""
    config = sdw.PipelineConfig(
        dataset="sdw/hopper-replay-mini-v0",
        weighting=sdw.WeightingConfig(temperature=temperature),
        distill=sdw.DistillConfig(width=256, outer_steps=300, seeds=SEEDS),
    )
    result = sdw.Pipeline(config, cache=Path("sdw-studies/cache")).run()
    print(f"temperature {temperature}: {result.summary.mean:.1f}")
    return result.returns.reshape(SEEDS, -1).mean(axis=1, keepdims=True)


def main() -> None:
    torch.set_num_threads(1)
    without, weighted = returns(0), returns(0.1)
    found = with_interval(gain, weighted, without, paired=True)
    interval = f"{found.low:+.1f} to {found.high:+.1f}"
    print(f"0.1 over 0, {SEEDS} pairs of seeds: {found.value:+.1f} (95 %: {interval})")


if __name__ == "__main__":
    main()
