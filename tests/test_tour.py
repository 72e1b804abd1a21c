"""`examples/tour.ipynb` runs from its first cell to its last, and shows what it speaks of."""

import json
from pathlib import Path

import pytest

from tests.sdw_core.processes import ROOT, run

TOUR = ROOT / "examples" / "tour.ipynb"
AS_IN_A_NOTEBOOK = """
import ast, json, sys

space = {}
for cell in json.loads(open(sys.argv[1], encoding="utf-8").read())["cells"]:
    if cell["cell_type"] == "code":
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            if shown is None:
                continue
            html = getattr(shown, "_repr_html_", lambda: None)()
            print(json.dumps([repr(shown), html]))
"""
"""Runs the code cells; prints a line for each that ends in a value: its repr, and its HTML."""


def test_it_holds_no_outputs() -> None:
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    said = run(AS_IN_A_NOTEBOOK, TOUR, cwd=tmp_path, timeout=900)
    shown = [json.loads(line) for line in said.splitlines()]
    texts, pages = zip(*shown, strict=True)
    assert "285 episodes" in texts[0]
    for page in (pages[1], pages[3]):  # of the result, and of the rows
        assert "<table>" in page
        assert "data:image/png" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best",
        "policy.pt2",
        "rows",
        "sdw-studies",
    ]
    assert [path.name for path in (tmp_path / "best").iterdir()] != []
