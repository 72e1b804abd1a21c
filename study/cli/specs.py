"""`sdw specs`: what comes with the project, to be run by name."""

from pathlib import Path
from typing import Any

from sdw_core.console import Table
from sdw_core.labels import counted
from search_spaces import load_comparison, load_spec, shipped_comparisons, shipped_specs
from search_spaces.spec import SHIPPED
from study.cli.common import AsJson
from study.console import out, print_json


def specs(as_json: AsJson = False) -> None:
    """Studies and comparisons that come with the project.

    Examples:
        sdw specs
    """
    document = [_study(name, path) for name, path in shipped_specs().items()]
    document += [_comparison(name, path) for name, path in shipped_comparisons().items()]
    if as_json:
        print_json(document)
        return
    table = Table()
    table.add_column("run with")
    table.add_column("of", spare=1)
    table.add_column("what it is")
    for each in document:
        table.add_row("sdw {command} {name}".format(**each), each["size"], each["about"])
    out.print(table)
    out.print(f"one of your own begins as a copy of a file in {SHIPPED}")


def _study(name: str, path: Path) -> dict[str, Any]:
    spec = load_spec(name)
    size = counted(spec.study.trials, "trial")
    return _entry(name, path, "launch", size)


def _comparison(name: str, path: Path) -> dict[str, Any]:
    spec = load_comparison(name)
    size = f"{counted(len(spec.methods), 'method')} x {counted(len(spec.datasets), 'dataset')}"
    return _entry(name, path, "compare", size)


def _entry(name: str, path: Path, command: str, size: str) -> dict[str, Any]:
    return {
        "name": name,
        "command": command,
        "size": size,
        "about": _about(path),
        "file": str(path),
    }


def _about(path: Path) -> str:
    """The first sentence of a spec's head comment, which says what the spec is."""
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    return " ".join(head).partition(". ")[0].rstrip(".") + "."
