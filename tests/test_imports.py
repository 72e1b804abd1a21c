"""What may import what."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def test_test_modules_share_helpers_and_do_not_import_one_another() -> None:
    """So a test can be changed, or moved, with nothing but itself in view."""
    found = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
        if ".test_" in f".{name}"
    ]
    assert found == []


def imports() -> dict[str, set[str]]:
    """Module of the packages -> what it imports: at its head, in a function, for types only."""
    root = TESTS.parent
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("sdw_core", "search_spaces", "study")
        for path in (root / package).rglob("*.py")
    }
    return {
        module: {
            imported
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in imported_names(node)
            if (imported := name if name in files else name.rpartition(".")[0]) in files
        }
        for module, path in files.items()
    }


def imported_names(node: ast.AST) -> list[str]:
    """`module` or `module.name` for each name that an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_imports_are_seen_wherever_they_stand() -> None:
    found = imports()
    assert "sdw_core.pipeline" in found["study.trial"]  # at its head
    assert "study.snapshot" in found["study.api"]  # in a function
    assert "sdw_core.offline_dataset" in found["sdw_core.identity"]  # for types only
