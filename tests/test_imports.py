"""What may import what."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def test_test_modules_share_helpers_and_do_not_import_one_another() -> None:
    """So a test can be changed, or moved, with nothing but itself in view."""
    found = [
        f"{path.relative_to(TESTS)}: {node.module}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and ".test_" in f".{node.module}"
    ]
    assert found == []
