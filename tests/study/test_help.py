"""The help of every command: whole, with examples that are valid, and as the documents say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from study.cli.app import app
from study.cli.help import Command, Group
from study.cli.reference import reference
from study.folder import StudyFolder
from tests.study.commands import sdw
from tests.study.conftest import small_spec

ROOT = Path(__file__).parents[2]
EVERYWHERE = {"--json", "--help", "-h", "--storage", "--quiet", "--no-progress"}
"""Options that docs/command-line.md says once, in words."""
pytestmark = pytest.mark.usefixtures("own_folder")


def commands(group: Group, *path: str) -> dict[tuple[str, ...], Command]:
    found = {}
    for name, command in group.commands.items():
        inside = isinstance(command, Group)
        found |= commands(command, *path, name) if inside else {(*path, name): command}
    return found


ROOT_COMMAND = typer.main.get_command(app)
COMMANDS = commands(ROOT_COMMAND)


def options(command: Command) -> set[str]:
    return {name for each in command.params for name in each.opts if name.startswith("-")}


@pytest.mark.parametrize("width", ["60", "120"])
def test_every_command_is_listed_with_its_whole_first_line(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    for path, command in COMMANDS.items():
        _, out, _ = sdw(capsys, *path[:-1])
        first = command.help.partition("\n\n")[0]
        assert " ".join(first.split()) in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= int(width)


@pytest.mark.parametrize(("path", "command"), COMMANDS.items(), ids=map(" ".join, COMMANDS))
def test_examples_are_commands_that_would_run(path, command):
    assert command.examples
    for example in command.examples:
        words = shlex.split(example)
        assert tuple(words[: len(path) + 1]) == ("sdw", *path)
        command.make_context(example, words[len(path) + 1 :])  # refuses what is no option


def test_the_help_and_the_documents_name_the_same_commands_and_options():
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    synopsis = re.findall(r"^    sdw (.*(?:\n     +\[.*)*)", text.partition("\n`sdw`")[0], re.M)
    told: dict[tuple[str, ...], set[str]] = {}
    for line in synopsis:
        words = line.split()
        path = tuple(words[:2]) if words[0] in ROOT_COMMAND.commands and (
            isinstance(ROOT_COMMAND.commands[words[0]], Group)
        ) else tuple(words[:1])  # fmt: skip
        told.setdefault(path, set()).update(re.findall(r"--[a-z-]+", line))
    assert told == {path: options(command) - EVERYWHERE for path, command in COMMANDS.items()}


def test_the_reference_of_commands_is_that_of_these_commands():
    assert (ROOT / "docs/commands.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize(
    ("words", "usage"), [([], "sdw "), (["data"], "sdw data "), (["-h"], "sdw ")]
)
def test_a_word_alone_prints_help(capsys, words, usage):
    status, out, err = sdw(capsys, *words)
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: {usage}")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["nonsense"], "sdw"),
        (["data", "nonsense"], "sdw data"),
        (["launch"], "sdw launch"),
        (["data", "describe", "a", "--nonsense"], "sdw data describe"),
        (["status", "a", "b"], "sdw status"),
    ],
)
def test_an_error_points_to_the_help_of_its_command(capsys, words, command):
    status, _, err = sdw(capsys, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith(f"; see `{command} --help`.\n")


@pytest.mark.parametrize(
    ("words", "found", "not_found"),
    [
        (["launch", ""], {"quickstart", "pareto"}, {"compare-quick"}),
        (["compare", ""], {"compare-quick"}, {"quickstart"}),
        (["status", "m"], {"mine"}, {"other"}),
        (["resume", ""], {"mine", "other"}, set()),
        (["status", "--storage", "elsewhere", ""], {"there"}, {"mine"}),
        (
            ["launch", "quickstart", "--set", "pipeline.distill.o"],
            {"pipeline.distill.outer_steps="},
            {"pipeline.distill.beta="},
        ),
        (["launch", "quickstart", "--set", "search.w"], {"search.weighting.temperature="}, set()),
        (["enqueue", "mine", "d"], {"distill.synthetic_size="}, {"weighting.temperature="}),
        (["compare", "compare-quick", "--set", "pipeline.d"], {"pipeline.distill.beta="}, set()),
    ],
)
def test_a_shell_completes_names_and_keys(tmp_path, words, found, not_found):
    StudyFolder.create(small_spec("study.name=mine"), tmp_path / "sdw-studies")
    StudyFolder.create(small_spec("study.name=other"), tmp_path / "sdw-studies")
    StudyFolder.create(small_spec("study.name=there"), tmp_path / "elsewhere")
    typed = ["sdw", *words]
    asked = {
        "_SDW_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
        "PATH": "",
    }
    code = "import sys; sys.argv = ['sdw']; from study.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True
    )
    completed = set(done.stdout.split())
    assert found <= completed
    assert not not_found & completed


def test_specs_are_listed_with_what_they_are(capsys):
    _, out, _ = sdw(capsys, "specs")
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        (line,) = [each for each in out.splitlines() if f" {path.stem} " in each]
        assert line.startswith(("sdw compare compare-", f"sdw launch {path.stem} "))
        assert line.rstrip().endswith(".")
