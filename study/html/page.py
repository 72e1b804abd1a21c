"""What pages are made of, and how one becomes a file that loads nothing from anywhere.

Figures are plotly's, as plain documents: page.js draws them, in the colours of the reader's scheme.
A colour that begins with `--` is a variable of page.css. Text of others goes into a figure by
`plain`, and into the templates as it is: they escape it.
"""

import gzip
import json
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdw_core import __version__
from sdw_core.errors import InputError
from sdw_core.files import created_file
from sdw_core.labels import counted
from sdw_core.style import INK, PALE
from study.preflight import check_writable

if TYPE_CHECKING:
    from jinja2 import Environment

LEVELS = tuple(f"--level-{level}" for level in range(5))
"""A colour for each fifth, from the lowest to the highest."""
SCALE = [[level / 4, colour] for level, colour in enumerate(LEVELS)]
"""The same as a continuous scale."""
BEST = "--best"
"""The colour of the best, and of synthetic rows."""


@dataclass(frozen=True)
class Table:
    """A table in words and numbers; `caption` says what of."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure with its text alternative.

    Attributes:
        title: its heading.
        said: what one sees in it, in a sentence or two.
        data: plotly's traces; `customdata` of a point is the id of the table's row that it is of.
        layout: plotly's, beside what all figures share.
        table: the same in numbers.
        height: pixels.
    """

    title: str
    said: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    table: Table | None = None
    height: int = 340

    @property
    def document(self) -> dict[str, Any]:
        """What page.js draws."""
        return {"data": self.data, "layout": self.layout}


@dataclass(frozen=True)
class Answer:
    """What one came for.

    Attributes:
        score: the number; None where no trial completed.
        of: what the number is, or why there is none.
        sentences: what one should know of it.
        settings: of the best, a path and its value each.
        tables: the first is shown, the others are behind a click.
    """

    score: str | None
    of: str
    sentences: list[str]
    settings: list[str]
    tables: list[Table]


@dataclass(frozen=True)
class Line:
    """A row that points of figures link to.

    Attributes:
        id: its anchor.
        first: its first cell, which shows it in the panel.
        title: the panel's heading.
        said: what happened, in a sentence: shown where one points.
        best: whether it is the best, or one of them.
        cells: the others.
    """

    id: str
    first: str
    title: str
    said: str
    best: bool
    cells: Sequence[str]


@dataclass(frozen=True)
class Lines:
    """A table of such rows; a column is what it is called in short and in full."""

    first: str
    head: Sequence[tuple[str, str]]
    lines: Sequence[Line]


def plain(text: object) -> str:
    """Text that plotly shows as it is: it takes some tags for markup."""
    return escape(str(text), quote=False)


def short(value: float | None, digits: int = 4) -> float | None:
    """A number with as many digits as a figure can show, and no more bytes; a gap for none.

    >>> short(90.62281086), short(float("nan"))
    (90.62, None)
    """
    return None if value is None or not isfinite(value) else float(f"{value:.{digits}g}")


def axes(x: str, y: str) -> dict[str, Any]:
    """A layout with the axes' names."""
    return {"xaxis": {"title": {"text": plain(x)}}, "yaxis": {"title": {"text": plain(y)}}}


def beside_names(x: str) -> dict[str, Any]:
    """A layout of a line a name, whatever the names look like."""
    return {"xaxis": {"title": {"text": plain(x)}}, "yaxis": {"type": "category"}}


def themed(colour: str) -> str:
    """A colour of `sdw_core.style` on a page, where ink and what is pale follow the scheme."""
    return {INK: "--ink", PALE: "--pale"}.get(colour, colour)


def render(template: str, **content: Any) -> str:
    """A page of one of this folder's templates."""
    made = datetime.now().astimezone()
    given = {"plotly": _plotly, "made": made, "version": __version__} | content
    return _templates().get_template(template).render(given)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("study", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def require_new(to: Path) -> None:
    """Refuse a file that a page cannot become.

    Raises:
        InputError: the file exists, or its folder does not, or cannot be written.
    """
    if not to.parent.is_dir():
        raise InputError(
            f"A report is written into a folder that exists, and {str(to.parent)!r} is none; make "
            "it, or choose another `to`."
        )
    _refuse_existing(to)
    check_writable(to.parent, "to")


def write_new(page: str, to: Path) -> None:
    """Write a page, whole or not at all, and never over a file that is there.

    Raises:
        InputError: the file exists by now.
    """
    try:
        with created_file(to) as scratch:
            scratch.write_text(page, encoding="utf-8")
    except FileExistsError:
        _refuse_existing(to)
        raise


def _refuse_existing(to: Path) -> None:
    if os.path.lexists(to):
        raise InputError(
            f"A report never overwrites, and {str(to)!r} exists: remove it, or choose another file."
        ) from None


@cache
def _plotly() -> str:
    """plotly's JavaScript, packed: 2 MB of text instead of 5."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return b64encode(gzip.compress(script, mtime=0)).decode()


def document_of(value: Any) -> str:
    """A setting's value as a spec would say it.

    >>> document_of([0.9, 1]), document_of("maf"), document_of(0.123456)
    ('[0.9, 1]', 'maf', '0.1235')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
