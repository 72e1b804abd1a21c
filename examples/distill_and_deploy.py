"""Distil the bundled dataset, export the rows, and train a policy from the exported folder.

python examples/distill_and_deploy.py out
"""

import sys

import torch

import sdw_core as sdw


def main() -> None:
    torch.set_num_threads(1)
    config = sdw.PipelineConfig(
        dataset="sdw/hopper-replay-mini-v0", distill=sdw.DistillConfig(outer_steps=150)
    )
    sdw.Pipeline(config).run(progress=True).export(sys.argv[1])
    rows = sdw.read_artifact(sys.argv[1])
    returns = rows.evaluate(sdw.EvaluationConfig(policies=3, episodes=2), seed=1)
    print(f"3 fresh policies from {len(rows.observations)} rows: {returns.mean():.1f}")
    rows.train(seed=1).save(f"{sys.argv[1]}.pt2")


if __name__ == "__main__":
    main()
