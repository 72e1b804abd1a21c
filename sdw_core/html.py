"""What notebooks show of results: tables and pictures, as HTML; all text in them is escaped."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sdw_core.labels import named


def table(rows: Iterable[Iterable[Any]], headings: Iterable[Any] = ()) -> str:
    """A table, a line each of `rows`.

    >>> table([["<", 1]])
    '<table><tr><td>&lt;</td><td>1</td></tr></table>'
    """
    head = "".join(f"<th>{escape(str(each))}</th>" for each in headings)
    lines = ["".join(f"<td>{escape(str(each))}</td>" for each in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in [head, *lines] if line) + "</table>"


def returns(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of summaries of normalised returns, by name."""
    return table(
        (
            [
                named(name, s.get("ensemble", 1)),
                f"{s['mean']:.1f}",
                f"{s['iqm']:.1f}",
                f"{s['low']:.1f} to {s['high']:.1f}",
            ]
            for name, s in scores.items()
        ),
        ["normalised return", "mean", "interquartile mean", "95 % interval"],
    )


def image(png: bytes) -> str:
    """A picture within the page."""
    return f'<img style="max-width: 100%" src="data:image/png;base64,{b64encode(png).decode()}">'
