"""Ray Tune and Optuna around the pipeline: launch, watch, export."""
