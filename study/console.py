"""Where commands print: results on stdout, all else on stderr.

All that the command line prints goes through this module, as the text that it is.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sdw_core.console import Console

# In a notebook lines of text too, from whatever thread.
out = Console(force_jupyter=False)
log = Console(stderr=True, force_jupyter=False)
quiet = Console(quiet=True)
"""For what runs without showing itself."""


class _Logged(logging.Handler):
    """Prints what is logged: `log` has each message on a line, a warning with that word."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; what cannot be printed is an error like any other."""
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        log.print(kind + record.getMessage())


@contextmanager
def logged() -> Iterator[None]:
    """Print what this package logs while the block runs: for a command, all that it does.

    Without a command, Python itself prints warnings, and whoever wants more configures `logging`.
    """
    logger, handler = logging.getLogger("study"), _Logged()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def show(progress: bool, messages: bool) -> None:
    """What a command prints beside results, warnings and errors: how far it is, and what it did."""
    log.progress = progress
    logging.getLogger("study").setLevel(logging.INFO if messages else logging.WARNING)


def print_json(document: Any) -> None:
    """The one document of `--json`, on stdout."""
    print(json.dumps(document, indent=2, allow_nan=False))
