"""State-density-weighted offline behaviour distillation: the method, without Ray or Optuna.

    import sdw_core as sdw

    data = sdw.load("sdw/hopper-replay-mini-v0")
    result = sdw.Pipeline(sdw.PipelineConfig(dataset=data)).run(progress=True)
    result.export("rows")
    policy = sdw.read_artifact("rows").train(seed=0)

What is named here is imported when it is first asked for, so that this import costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdw_core.artifact import Artifact, read_artifact
    from sdw_core.cloned import ClonedPolicy
    from sdw_core.config import (
        CalQLConfig,
        CheckpointConfig,
        DensityConfig,
        DistillConfig,
        EvaluationConfig,
        OwnExpertConfig,
        PercentBCConfig,
        PipelineConfig,
        WeightingConfig,
    )
    from sdw_core.dataset import OfflineDataset, load
    from sdw_core.errors import (
        DivergenceError,
        InputError,
        SDWError,
        SourceChanged,
        StopRequested,
    )
    from sdw_core.film import Film, render
    from sdw_core.pipeline import Pipeline
    from sdw_core.publishing import publish, pull
    from sdw_core.result import PipelineResult

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "CalQLConfig",
    "CheckpointConfig",
    "ClonedPolicy",
    "DensityConfig",
    "DistillConfig",
    "DivergenceError",
    "EvaluationConfig",
    "Film",
    "InputError",
    "OfflineDataset",
    "OwnExpertConfig",
    "PercentBCConfig",
    "Pipeline",
    "PipelineConfig",
    "PipelineResult",
    "SDWError",
    "SourceChanged",
    "StopRequested",
    "WeightingConfig",
    "load",
    "publish",
    "pull",
    "read_artifact",
    "render",
]
_ROOMS = {
    "artifact": {"Artifact", "read_artifact"},
    "cloned": {"ClonedPolicy"},
    "dataset": {"OfflineDataset", "load"},
    "errors": {"DivergenceError", "InputError", "SDWError", "SourceChanged", "StopRequested"},
    "film": {"Film", "render"},
    "pipeline": {"Pipeline"},
    "publishing": {"publish", "pull"},
    "result": {"PipelineResult"},
}
"""Where each name lives; all others are settings, in `config`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "config")
    return getattr(import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
