"""Text as it is, for most of what is printed is not ours (names, paths, reasons, errors).

A string is one line of plain text here: brackets are no markup, colons no emoji, and a character
that cannot be seen (an escape sequence, a line's end) shows as Python would write it. Nothing is
cut off: a terminal folds what is too long, and a file or a pipe gets whole lines.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import rich.console
import rich.table
from rich.console import ConsoleDimensions
from rich.measure import Measurement
from rich.text import Text

UNBOUNDED = 10_000
"""Columns of what is no terminal."""
A_LINE = 60.0
"""Seconds between two lines on how far some work is, where no terminal shows it."""


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
    """A table without lines.

    Where the terminal is too narrow, columns that can be spared are left out; then cells fold.
    """

    def __init__(self, *headings: str, **options: Any) -> None:
        self._spare: dict[int, rich.table.Column] = {}
        super().__init__(*headings, box=None, pad_edge=False, **options)

    def add_column(  # type: ignore[override]
        self, header: str = "", spare: int = 0, **options: Any
    ) -> None:
        """A column whose heading may have lines.

        Args:
            header: the heading.
            spare: its place among the columns that can be left out, 1 the first; 0: it stays.
            options: rich's.
        """
        super().add_column(Text(header), overflow="fold", **options)
        if spare:
            self._spare[spare] = self.columns[-1]

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        """The table as wide as the terminal lets it be."""
        table, left_out = self, []
        for _, column in sorted(self._spare.items()):
            wanted = Measurement.get(console, options.update(max_width=UNBOUNDED), table).maximum
            if wanted <= options.max_width:
                break
            left_out.append(column)
            table = self._without(left_out)
        yield from super(Table, table).__rich_console__(console, options)

    def _without(self, left_out: list[rich.table.Column]) -> "Table":
        table = copy(self)
        kept = [each for each in self.columns if not any(each is column for column in left_out)]
        table.columns = [replace(column, _index=index) for index, column in enumerate(kept)]
        return table


class Console(rich.console.Console):
    """Prints strings, and strings in tables, as `legible` gives them.

    Attributes:
        progress: whether work under way shows itself: as bars and spinners on a terminal, elsewhere
            as lines, one a minute.
    """

    progress = True

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The one place where rich makes text of a string."""
        return super().render_str(legible(text), **options)

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        return super().size if self.is_terminal else ConsoleDimensions(UNBOUNDED, 25)

    @contextmanager
    def working(self, said: str = "") -> Iterator[Callable[[str], None]]:
        """Say what the block does while it runs; yields how to say something else.

        On a terminal it is a line with a spinner, which goes away at the end.
        """
        if self.is_terminal and self.progress:
            with self.status(line(said)) as status:
                yield lambda said: status.update(line(said))
            return
        doing, ended = [said], threading.Event()

        def tell() -> None:
            while not ended.wait(A_LINE):
                if self.progress:
                    self.print(doing[-1])

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield doing.append
        finally:
            ended.set()
