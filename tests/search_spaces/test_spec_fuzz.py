"""Specs and comparisons that are wrong in any way: refused in a sentence, or right."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import pytest
import yaml

from sdw_core.errors import InputError
from search_spaces import load_comparison, load_spec, shipped_specs
from search_spaces.comparison import shipped_comparisons
from tests.mutations import is_a_sentence, mutated, mutated_bytes, with_raw

SPEC: dict[str, Any] = {
    "study": {
        "name": "a",
        "seed": 3,
        "trials": 5,
        "objectives": [{"metric": "normalized_return", "mode": "max"}],
        "resources": {"cpu": 1, "gpu": 0.5},
        "early_stopping": {"grace": 0.2, "reduction_factor": 3, "policies": 2, "episodes": 1},
        "time_budget": 100,
        "database": "sqlite",
    },
    "pipeline": {
        "dataset": "sdw/hopper-replay-mini-v0",
        "reference_scores": [-20.0, 3000.0],
        "seed": 4,
        "density": {"model": "maf", "steps": 10},
        "weighting": {"scheme": "rank"},
        "expert": {"method": "percent_bc", "fraction": 0.5},
        "distill": {"objective": "pbc", "width": 32, "window": None},
        "evaluation": {"policies": 2, "learning_rate": 0.1},
    },
    "search": {
        "weighting.temperature": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        "distill.synthetic_size": {"type": "int", "low": 8, "high": 16, "step": 2},
        "distill.initial_states": {"type": "categorical", "choices": ["random", "best"]},
    },
}
COMPARISON: dict[str, Any] = {
    "comparison": {"name": "b", "ours": "sdw", "over": "av_pbc", "search": {"distill": {}}},
    "datasets": {"sdw/hopper-replay-mini-v0": None, "other/x-v0": {"distill": {"width": 16}}},
    "pipeline": {"distill": {"outer_steps": 10}, "evaluation": {"policies": 2}},
    "methods": {
        "sdw": {"candidates": [{"weighting": {"temperature": 0.1}}, {"distill": {"width": 8}}]},
        "av_pbc": {"pipeline": {"weighting": {"temperature": 0}}, "judged": "rows"},
    },
}


def stated(read: Any, document: Any, path: str = "") -> list[str]:
    """Where what was read differs from what the document states."""
    if isinstance(document, dict):
        if not isinstance(read, dict):
            return [path]
        below = [stated(read.get(key), value, f"{path}/{key}") for key, value in document.items()]
        return [place for places in below for place in places]
    if isinstance(document, list) and isinstance(read, list | tuple):
        if len(read) != len(document):
            return [path]
        below = [
            stated(*pair, f"{path}/{i}") for i, pair in enumerate(zip(read, document, strict=True))
        ]
        return [place for places in below for place in places]
    return [] if is_same(read, document) else [path]


def is_same(read: Any, document: Any) -> bool:
    """Whether a value is the one that was typed: `"1"` is 1, `yes` is true, a path absolute."""
    if read == document:
        return True
    if isinstance(read, bool):
        return str(document).lower() in (("1", "true", "yes", "on") if read else _NO)
    if isinstance(read, int | float) and isinstance(document, str):
        return float(read) == float(document)
    return read == str(Path(str(document)).resolve())


_NO = ("0", "false", "no", "off")


def fuzz(
    load: Callable[[str], Any], document: dict[str, Any], file: Path, count: int, seed: int
) -> int:
    """How many of the mutated documents were right."""
    random, right = Random(seed), 0
    content = yaml.safe_dump(document, sort_keys=False).encode()
    for _ in range(count):
        changed = None
        if random.random() < 0.7:
            changed = mutated(document, random)
            text = with_raw(yaml.safe_dump(changed, sort_keys=False), "'")
            file.write_bytes(text.encode(errors="surrogatepass"))
        else:
            file.write_bytes(mutated_bytes(content, random))
        start = process_time()
        try:
            read = load(str(file)).model_dump(mode="json")
        except InputError as error:
            assert is_a_sentence(str(error)), str(error)
        else:
            right += 1
            if changed is not None and not any(mark in str(changed) for mark in ("@", "10**")):
                assert not stated(read, changed), (changed, stated(read, changed))
        spent = process_time() - start
        assert spent < 2, (spent, str(changed)[:500], file.read_bytes()[:300])
    return right


@pytest.mark.parametrize(
    ("load", "document"), [(load_spec, SPEC), (load_comparison, COMPARISON)], ids=["spec", "table"]
)
def test_what_is_wrong_is_refused_in_a_sentence(
    load: Callable[[str], Any], document: dict[str, Any], tmp_path: Path
) -> None:
    right = fuzz(load, document, tmp_path / "a.yaml", 60, 0)
    assert 3 < right < 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(
    ("load", "document"), [(load_spec, SPEC), (load_comparison, COMPARISON)], ids=["spec", "table"]
)
def test_so_it_is_ten_thousand_times(
    load: Callable[[str], Any], document: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    assert fuzz(load, document, tmp_path / "a.yaml", 1500, seed) > 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", [*shipped_specs().values(), *shipped_comparisons().values()])
def test_so_it_is_of_what_is_shipped(path: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    load = load_comparison if path.stem.startswith("compare-") else load_spec
    fuzz(load, document, tmp_path / "a.yaml", 300, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "study: {name: a, objectives: [{metric: 0x" + "f" * 6000 + ", mode: max}]}",
            "not valid YAML",
        ),
        ('"\\ud800": 1\nstudy: {name: a}', "must hold valid text only"),
        ("search: {" + "a" * 900 + ": {type: int, low: 1, high: 2}}", "aaa'` is no setting"),
        ("search: {distill.width: {type: int, low: 1, high: 1" + "0" * 400 + "}}", "at most"),
        ("pipeline: {evaluation: {policies: 1000000000}}", "at most 10000, not 1000000000"),
        ("pipeline: {distill: {width: 10000000}}", "at most 16384, not 10000000"),
        ("pipeline: {distill: {layers: true}}", "`pipeline.distill.layers` must be a whole number"),
    ],
)
def test_what_the_fuzz_found_stays_mended(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.yaml"
    parts = {"study": "study: {name: a}", "pipeline": "pipeline: {dataset: a}"}
    others = [part for key, part in parts.items() if f"{key}:" not in text]
    needed = text.replace("pipeline: {", "pipeline: {dataset: a, ")
    file.write_text("\n".join([*others, needed]))
    with pytest.raises(InputError) as caught:
        load_spec(str(file))
    assert words in str(caught.value)
    assert is_a_sentence(str(caught.value))
