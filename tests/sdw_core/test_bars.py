"""What a person sees of a run: a bar a stage on a terminal, a line a minute elsewhere."""

import io

from rich.text import Text

from sdw_core import bars
from sdw_core.bars import watched
from sdw_core.console import Console


def seen(written: io.StringIO) -> list[str]:
    """The lines that were written last."""
    return Text.from_ansi(written.getvalue()).plain.splitlines()[-3:]


def test_a_stage_that_found_its_result_is_done_when_the_next_begins():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system=None, width=80)
    with watched(console) as (tell, _):
        tell("dataset", 0.0)
        tell("density", 0.0)
        tell("distill", 0.5)
    dataset, density, distill = seen(written)
    assert "100%" in dataset
    assert "100%" in density
    assert "50%" in distill


def test_elsewhere_it_is_a_line_a_minute(monkeypatch):
    written = io.StringIO()
    console = Console(file=written)
    with watched(console) as (tell, _):
        tell("distill", 0.25)
        assert written.getvalue() == ""
        monkeypatch.setattr(bars, "A_LINE", 0.0)
        tell("distill", 0.5)
    assert written.getvalue() == "distill: 50%\n"
