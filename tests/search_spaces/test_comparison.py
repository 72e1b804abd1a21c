"""Comparisons: what they hold, which cells they make, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdw_core.errors import InputError
from search_spaces import ComparisonSpec, load_comparison, shipped_comparisons, shipped_specs

DOCUMENT: dict[str, Any] = {
    "comparison": {
        "name": "small",
        "ours": "ours",
        "over": "theirs",
        "seed": 3,
        "search_seed": 7,
        "search": {"distill": {"seeds": 1}},
    },
    "datasets": {"one": None, "two": {"distill": {"outer_steps": 20}}},
    "pipeline": {"distill": {"outer_steps": 10, "seeds": 2}},
    "methods": {
        "theirs": {},
        "ours": {
            "pipeline": {"distill": {"objective": "pbc"}},
            "candidates": [
                {"weighting": {"temperature": 0}},
                {"weighting": {"scheme": "rank", "temperature": 0.1}},
            ],
        },
        "expert": {"judged": "expert"},
    },
}


def changed(**sections: Any) -> dict[str, Any]:
    return {**DOCUMENT, **sections}


def load(tmp_path: Path, document: Any, *overrides: str) -> ComparisonSpec:
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_comparison(str(path), overrides)


def test_a_cell_is_the_pipeline_with_what_differs_laid_over_it(tmp_path: Path) -> None:
    spec = load(tmp_path, DOCUMENT)
    cell = spec.cell("ours", "two", 1)
    config = cell.config
    assert (config.dataset, config.seed) == ("two", 3)
    assert (config.distill.objective, config.distill.outer_steps) == ("pbc", 20)
    assert (config.distill.seeds, config.weighting.scheme) == (2, "rank")
    assert spec.cell("theirs", "one").config.distill.outer_steps == 10
    assert spec.cell("expert", "one").judged == "expert"


def test_searches_use_seeds_and_a_budget_of_their_own(tmp_path: Path) -> None:
    spec = load(tmp_path, DOCUMENT)
    searched = spec.search_cells("ours", "one")
    assert [cell.config.seed for cell in searched] == [7, 7]
    assert [cell.config.distill.seeds for cell in searched] == [1, 1]
    assert [cell.config.weighting.temperature for cell in searched] == [0, 0.1]
    assert spec.search_cells("theirs", "one") == []
    assert spec.size == 2 * (3 + 2)


def test_an_override_reaches_any_section(tmp_path: Path) -> None:
    spec = load(tmp_path, DOCUMENT, "pipeline.distill.outer_steps=4", "datasets={one: null}")
    assert list(spec.datasets) == ["one"]
    assert spec.cell("theirs", "one").config.distill.outer_steps == 4


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (changed(methods={**DOCUMENT["methods"], "x": {"set": {}}}), ["`methods.x.set`"]),
        (changed(datasets={}), ["`datasets`"]),
        (changed(pipeline={"dataset": "one"}), ["`pipeline.dataset`", "`datasets`"]),
        (changed(pipeline={"seed": 1}), ["`pipeline.seed`", "`comparison.seed`"]),
        (changed(pipeline={"distil": {}}), ["`pipeline.distil`", "`distill`"]),
        (
            changed(methods={**DOCUMENT["methods"], "x": {"pipeline": {"distill": {"steps": 1}}}}),
            ["'x' on 'one'", "`pipeline.distill.steps`", "outer_steps"],
        ),
        (
            changed(comparison={**DOCUMENT["comparison"], "ours": "our"}),
            ["`comparison.ours`", "'our'", "`ours`"],
        ),
        (
            changed(comparison={**DOCUMENT["comparison"], "search_seed": 3}),
            ["`comparison.search_seed`", "3"],
        ),
        (changed(comparison={**DOCUMENT["comparison"], "name": "a/b"}), ["`comparison.name`"]),
        ([1], ["`methods`", "list"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    tmp_path: Path, document: Any, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, document)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean `compare-quick`"):
        load_comparison("compare-quik")


@pytest.mark.parametrize("name", sorted(shipped_comparisons()))
def test_shipped_comparisons_are_valid_and_no_studies(name: str) -> None:
    spec = load_comparison(name)
    assert spec.comparison.name == name
    assert name not in shipped_specs()
    assert {cell.method for cell in spec.all_cells()} == set(spec.methods)
