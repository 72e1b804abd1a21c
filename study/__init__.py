"""Studies: Ray Tune runs trials of the pipeline, Optuna proposes and remembers them.

    from study import Comparison, Study

What these two need is imported when they are used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.api import Comparison, Study, WorkFailed

__all__ = ["Comparison", "Study", "WorkFailed"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from study import api

    return getattr(api, name)
