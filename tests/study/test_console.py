"""What is printed: all of it, as it is, whatever lies in names, paths and reasons."""

import ast
import io
from pathlib import Path
from time import sleep

import pytest

import sdw_core.console
from sdw_core.console import Console, Table, legible, line

ROOT = Path(__file__).parents[2]
FOREIGN = {
    "markup": ("[old] run[/]", "[old] run[/]"),
    "style": ("[bold red]x[/bold red]", "[bold red]x[/bold red]"),
    "link": ("[link=https://a.b]c[/link]", "[link=https://a.b]c[/link]"),
    "emoji": (":warning: 10:30:00", ":warning: 10:30:00"),
    "escape": ("a\x1b[31mb\x1b]0;title\x07", r"a\x1b[31mb\x1b]0;title\x07"),
    "lines": ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
    "unseen": ("a\u202eb\u2028c\x7f\x9b", r"a\u202eb\u2028c\x7f\x9b"),
    "no text": (b"caf\xe9".decode(errors="surrogateescape"), r"caf\udce9"),
    "letters": ("Übung 试验 ✓", "Übung 试验 ✓"),
}


def printed(*values: object, terminal: bool = False, **options: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, **options)
    for value in values:
        console.print(value)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("given", "shown"), FOREIGN.values(), ids=FOREIGN)
def test_a_line_is_printed_as_it_is(given, shown, terminal):
    assert printed(given, terminal=terminal) == f"{shown}\n"
    assert printed(line((given, "bold"), given), terminal=terminal) == f"{shown}{shown}\n"


@pytest.mark.parametrize(("given", "shown"), FOREIGN.values(), ids=FOREIGN)
def test_a_cell_is_printed_as_it_is(given, shown):
    table = Table("name", "size")
    table.add_row(given, "1")
    _, row = printed(table).splitlines()
    assert row.split("  1")[0].strip() == shown


@pytest.mark.parametrize(("given", "shown"), FOREIGN.values(), ids=FOREIGN)
def test_a_spinners_line_is_shown_as_it_is(given, shown):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    with console.working(given) as say:
        say(f"now {given}")
    text = console.file.getvalue()
    assert shown in text
    assert f"now {shown}" in text


def test_elsewhere_work_is_told_once_a_minute(monkeypatch):
    monkeypatch.setattr(sdw_core.console, "A_LINE", 0.02)
    for progress in (True, False):
        console = Console(file=io.StringIO())
        console.progress = progress
        with console.working("evaluating") as say:
            say("training")
            sleep(0.1)
        assert ("training\n" in console.file.getvalue()) == progress


def test_work_that_takes_no_minute_says_nothing():
    console = Console(file=io.StringIO())
    with console.working("evaluating"):
        pass
    assert console.file.getvalue() == ""


def test_a_style_is_only_what_this_project_gives():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(line(("a[red]", "bold"), "b 12 'c' /d/e"))
    assert console.file.getvalue() == "\x1b[1ma[red]\x1b[0mb 12 'c' /d/e\n"


@pytest.mark.parametrize("width", [1, 10, 20, 80])
def test_a_narrow_terminal_folds_and_cuts_nothing(width):
    path, number = "/data/" + "x" * 150 + ".hdf5", "0.0281234"
    table = Table("dataset", "where", "temperature")
    table.add_row(path, "local", number)
    text = printed(table, terminal=True, width=width)
    assert "…" not in text
    if width > 10:
        letters = "".join(text.split())
        assert letters.count("x") == 150
        assert all(each in letters for each in number)
    assert printed(path, terminal=True, width=width) == f"{path}\n"


def test_a_pipe_gets_whole_lines_whatever_the_terminal_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    path = "/data/" + "x" * 300
    table = Table("dataset", "where")
    table.add_row(path, "local")
    assert printed(table).splitlines()[1].split() == [path, "local"]
    assert printed(path) == f"{path}\n"


def test_headings_may_have_lines():
    table = Table("a", "b\nc")
    table.add_row("1", "2")
    assert [each.split() for each in printed(table).splitlines()] == [["b"], ["a", "c"], ["1", "2"]]


def test_what_can_be_seen_stays():
    text = "".join(map(chr, range(32, 127))) + "äöüß±…"
    assert legible(text) == text


def sources() -> list[Path]:
    return [
        path
        for part in ("sdw_core", "search_spaces", "study")
        for path in (ROOT / part).rglob("*.py")
    ]


def test_everything_is_printed_in_one_place():
    """So that the next line cannot read markup from a name, nor the next table cut a name off."""
    makers = {
        "Console",
        "Table",
        "Text",
        "Status",
        "Spinner",
        "print",
        "markup",
        "rprint",
        "inspect",
    }
    for path in sources():
        if path.name == "console.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                assert not makers & {alias.name for alias in node.names}, path
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("rich")], (
                    path
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or path.name == "reference.py", path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("echo", "secho"), path
                given = {keyword.arg for keyword in node.keywords}
                assert not given & {"highlight", "emoji", "soft_wrap"}, path
