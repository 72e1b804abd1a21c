"""Studies: Ray Tune runs trials of the pipeline, Optuna proposes and remembers them."""
