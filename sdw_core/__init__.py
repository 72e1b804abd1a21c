"""State-density-weighted offline behaviour distillation: the method, without Ray or Optuna."""

__version__ = "0.1.0"
