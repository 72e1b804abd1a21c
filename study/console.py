"""What is printed: text as it is, for most of it is not ours (names, paths, reasons, errors).

A string is one line of plain text here: brackets are no markup, colons no emoji, and a character
that cannot be seen (an escape sequence, a line's end) shows as Python would write it. Nothing is
cut off: a terminal folds what is too long, and a file or a pipe gets whole lines. All that the
command line prints goes through this module.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rich.console
import rich.table
from rich.console import ConsoleDimensions
from rich.text import Text

UNBOUNDED = 10_000
"""Columns of what is no terminal."""


def legible(text: str) -> str:
    r"""Text with what cannot be seen spelled out.

    >>> legible("a[b]\x1b[31m\n")
    'a[b]\\x1b[31m\\n'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def line(*parts: str | tuple[str, str]) -> Text:
    """A line of parts, each as it is, or as it is in a style."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*[(legible(text), style) for text, style in styled])


class Table(rich.table.Table):
    """A table without lines, whose cells fold where the terminal is too narrow."""

    def __init__(self, *headings: str, **options: Any) -> None:
        super().__init__(*headings, box=None, **options)

    def add_column(self, header: str = "", **options: Any) -> None:  # type: ignore[override]
        """A column whose heading may have lines."""
        super().add_column(Text(header), overflow="fold", **options)


class Console(rich.console.Console):
    """Prints strings, and strings in tables, as `legible` gives them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
            force_jupyter=False,  # lines of text there too, from whatever thread
            **options,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """The one place where rich makes text of a string."""
        return super().render_str(legible(text), **options)

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        return super().size if self.is_terminal else ConsoleDimensions(UNBOUNDED, 25)

    @contextmanager
    def working(self, said: str = "") -> Iterator[Callable[[str], None]]:
        """On a terminal, a spinner beside a line while the block runs; yields how to change it."""
        with self.status(line(said)) as status:
            yield lambda said: status.update(line(said))


out = Console()
log = Console(stderr=True)
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


def print_json(document: Any) -> None:
    """The one document of `--json`, on stdout."""
    print(json.dumps(document, indent=2, allow_nan=False))
