"""The command line; `main` is its entry point."""

from study.cli.app import main
from study.cli.studies import _check, _load

__all__ = ["_check", "_load", "main"]
