"""The command line; `main` is its entry point."""

from typing import TYPE_CHECKING

from search_spaces import StudySpec
from study.api import read_study as _load
from study.cli.app import main

if TYPE_CHECKING:
    from sdw_core.dataset import OfflineDataset

__all__ = ["_check", "_load", "main"]


def _check(spec: StudySpec) -> "dict[str, OfflineDataset]":
    """See `study.preflight.check_study`, which is slow to import."""
    from study.preflight import check_study

    return check_study(spec)
