"""How commands are declared and how their help is laid out: options in groups, and examples.

A command's docstring is its help. Its first paragraph stands in the list of commands, and what
follows `Examples:` is shown line by line. The group of a command or an option is its
`rich_help_panel`.
"""

from collections.abc import Callable, Iterable
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}
EXAMPLES = "\n\nExamples:\n"
WHERE, OUTPUT = "Where", "Output"
ORDER = {"Arguments": 0, "Options": 1, WHERE: 3, OUTPUT: 4}
"""Of the groups of options; a command's own groups stand in the middle."""


def _sections(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]]) -> None:
    """A section for each title, in the order of their first rows; (title, (term, meaning))."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for title, row in rows:
        sections.setdefault(title, []).append(row)
    for title, terms in sections.items():
        with formatter.section(title):
            formatter.write_dl(terms)


def _write_options(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:
    rows = [
        (
            getattr(each, "rich_help_panel", None) or f"{each.param_type_name}s".capitalize(),
            (row[0].partition(" <")[0], row[1]),  # without Python's type
        )
        for each in command.get_params(ctx)
        if (row := each.get_help_record(ctx))
    ]
    _sections(formatter, sorted(rows, key=lambda row: ORDER.get(row[0], 2)))


class Command(TyperCommand):
    """A command."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """What the command does."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(cleandoc(self.help or "").partition(EXAMPLES)[0])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and options, by their groups."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, each on a line."""
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    @property
    def examples(self) -> list[str]:
        """The lines of the examples."""
        return cleandoc(cleandoc(self.help or "").partition(EXAMPLES)[2]).splitlines()


class Group(TyperGroup):
    """Commands under one word; that word alone prints the help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, or `--help` in the place of none."""
        return super().parse_args(ctx, args or ["--help"])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options, and the commands by their groups."""
        _write_options(self, ctx, formatter)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        _sections(
            formatter,
            (
                (
                    getattr(command, "rich_help_panel", None) or "Commands",
                    (name, " ".join(cleandoc(command.help or "").partition("\n\n")[0].split())),
                )
                for name, command in commands
                if command
            ),
        )


class App(typer.Typer):
    """Commands, declared as Typer's are, with this module's help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cls=Group,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=SETTINGS,
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """A command of that name, or of the function's."""
        return super().command(name, cls=Command, **options)
