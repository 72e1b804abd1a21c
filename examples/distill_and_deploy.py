"""Distil the bundled dataset, export the rows, and train a policy from the exported folder.

python examples/distill_and_deploy.py out
"""

import sys
from pathlib import Path

from sdw_core.artifact import read_artifact
from sdw_core.config import EvaluationConfig
from study.cli.app import app


def main() -> None:
    folder = Path(sys.argv[1])
    app(
        ["distill", "quickstart", "--set", "pipeline.distill.outer_steps=150", "--to", str(folder)],
        standalone_mode=False,
    )
    artifact = read_artifact(folder)
    returns = artifact.evaluate(EvaluationConfig(policies=3, episodes=2), seed=1)
    print(f"3 fresh policies from {len(artifact.observations)} rows: {returns.mean():.1f}")


if __name__ == "__main__":
    main()
