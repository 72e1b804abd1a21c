"""Every command, its arguments, its options and examples, as Markdown.

python -m study.cli.reference > docs/commands.md
"""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import typer

from study.cli.app import app
from study.cli.help import EXAMPLES, Command, Group

HEAD = """\
# Commands

What each command's `-h` says, made from the commands by `python -m study.cli.reference`. What holds
for all commands, and the documents that `--json` prints: [command-line.md](command-line.md).
"""
EVERYWHERE = {"--help", "--json", "--quiet", "--no-progress"}
"""Options of all commands, or of all that take long."""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for path, command in _commands(typer.main.get_command(app), "sdw"):
        text = cleandoc(command.help or "").partition(EXAMPLES)[0]
        parts.append(f"\n## `{path}`\n\n{text}\n")
        if rows := list(_rows(command)):
            parts.append("| | |\n|---|---|")
            parts += [f"| `{term}` | {meaning} |" for term, meaning in rows]
            parts.append("")
        parts.append("\n".join(["```text", *command.examples, "```"]))
    return "\n".join(parts) + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Command]]:
    context = typer.Context(group)
    for name in group.list_commands(context):
        command, below = group.get_command(context, name), f"{path} {name}"
        if isinstance(command, Group):
            yield from _commands(command, below)
        else:
            yield below, command


def _rows(command: Command) -> Iterator[tuple[str, str]]:
    """A term and its meaning, as the help has them."""
    context = typer.Context(command, max_content_width=1000)
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if record and not EVERYWHERE.intersection(each.opts):
            term, meaning = record
            yield term.partition(" <")[0].replace("|", "\\|"), meaning.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
