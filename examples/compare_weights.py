"""Use the pipeline from Python: compare density weights with none, on equal seeds.

python examples/compare_weights.py
"""

from pathlib import Path

import torch

import sdw_core as sdw


def main() -> None:
    torch.set_num_threads(1)
    for temperature in (0.0, 0.1):
        config = sdw.PipelineConfig(
            dataset="sdw/hopper-replay-mini-v0",
            weighting=sdw.WeightingConfig(temperature=temperature),
            distill=sdw.DistillConfig(outer_steps=150, seeds=2),
        )
        result = sdw.Pipeline(config, cache=Path("sdw-studies/cache")).run()
        summary = result.summary
        interval = f"{summary.low:.1f} to {summary.high:.1f}"
        print(f"temperature {temperature}: {summary.mean:.1f} ({interval})")


if __name__ == "__main__":
    main()
