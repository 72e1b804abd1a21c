"""A comparison's table, files and statistics, from results as cells leave them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sdw_core.files import read_json
from sdw_core.identity import Sources
from search_spaces import Cell, ComparisonSpec, load_comparison
from study.cli.compare import print_standings
from study.comparison import Results, final_cell, ready, title
from study.figures import draw
from study.standings import COLUMNS, Standings
from tests.study.comparisons import FAILURE, SPEC, all_results, result, searched, small_comparison


@pytest.fixture
def spec(tmp_path: Path) -> ComparisonSpec:
    return small_comparison(tmp_path)


@pytest.fixture
def results(spec: ComparisonSpec) -> Results:
    return all_results(spec)


def cells_of(cells: list[Cell]) -> list[tuple[str, str, int | None]]:
    return [(cell.method, cell.dataset, cell.candidate) for cell in cells]


# What runs when


def test_searches_come_first_and_what_they_choose_next(spec: ComparisonSpec) -> None:
    one = [cell for cell in ready(spec, {}) if cell.dataset == "a/one-v0"]
    assert cells_of(one) == [
        ("Av-PBC", "a/one-v0", None),
        ("SDW", "a/one-v0", 0),
        ("SDW", "a/one-v0", 1),
        ("expert", "a/one-v0", None),
    ]
    assert [cell.config.seed for cell in one] == [0, 9, 9, 0]
    half = dict(list(searched(spec, "a/one-v0", 5.0, 3.0).items())[:1])
    assert final_cell(spec, "SDW", "a/one-v0", half) == spec.cell("SDW", "a/one-v0", 0)
    assert ("SDW", "a/one-v0", 1) in cells_of(list(ready(spec, half)))
    whole = searched(spec, "a/one-v0", 5.0, 3.0)
    chosen = next(cell for cell in ready(spec, whole) if cell.method == "SDW")
    assert (chosen.candidate, chosen.config.seed) == (0, 0)


def test_a_candidate_that_failed_is_not_chosen(spec: ComparisonSpec) -> None:
    whole = searched(spec, "a/one-v0", None, 3.0)
    assert final_cell(spec, "SDW", "a/one-v0", whole) == spec.cell("SDW", "a/one-v0", 1)
    none = searched(spec, "a/one-v0", None, None)
    assert final_cell(spec, "SDW", "a/one-v0", none) is None
    assert not [c for c in ready(spec, none) if (c.method, c.dataset) == ("SDW", "a/one-v0")]


# What comes of it


def test_scores_are_means_of_a_seeds_policies(spec: ComparisonSpec, results: Results) -> None:
    standings = Standings.of(spec, results)
    assert standings.scores("SDW", "a/one-v0").tolist() == [31, 42]
    assert standings.scores("SDW", "a/one-v0", "best").tolist() == [55, 42]
    assert standings.scores("Av-PBC", "a/two-v0").tolist() == [21, 32]
    assert standings.aggregate("SDW")["mean"].value == pytest.approx((31 + 42 + 41 + 42) / 4)
    improvement = standings.improvement()
    assert improvement["gain"].value == pytest.approx((10 + 10 + 20 + 10) / 4)
    assert improvement["by_dataset"]["a/two-v0"].value == pytest.approx(15)
    # pairs of seeds that ours wins: 31 > 21, 42 > 21, 42 > 32 on one; all four on two
    assert improvement["probability"].value == pytest.approx((3 / 4 + 4 / 4) / 2)


def test_rows_are_written_one_a_policy(
    spec: ComparisonSpec, results: Results, tmp_path: Path
) -> None:
    standings = Standings.of(spec, results)
    standings.write(tmp_path)
    draw(standings, tmp_path)
    frame = pd.read_csv(tmp_path / "results.csv")
    assert list(frame.columns) == COLUMNS
    assert frame.equals(pd.read_parquet(tmp_path / "results.parquet").reset_index(drop=True))
    last = frame[
        (frame.method == "SDW") & (frame.dataset == "a/one-v0") & (frame.outer_steps == 10)
    ]
    assert last[["seed", "policy", "normalized_return"]].to_numpy().tolist() == [
        [0, 0, 30], [0, 1, 32], [1, 0, 40], [1, 1, 44],
    ]  # fmt: skip
    configs = read_json(tmp_path / "configs.json")
    assert set(frame.config_hash) == set(configs)
    identities = read_json(tmp_path / "identities.json")
    assert set(frame.identity) == set(identities)
    assert identities["ab" * 32]["sources"] == Sources(dataset="cd" * 32).to_json()
    assert configs[last.config_hash.iloc[0]]["weighting"]["temperature"] == 0.5
    searches = pd.read_csv(tmp_path / "searches.csv")
    assert searches.candidate.tolist() == [0, 1, 0, 1]
    assert searches.normalized_return.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert searches.settings[1] == "weighting.temperature 0.5"
    for name in ("returns.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_table_says_last_and_best_and_what_was_chosen(
    spec: ComparisonSpec, results: Results
) -> None:
    lines = Standings.of(spec, results).markdown().splitlines()
    rows = [line for line in lines if line.startswith("| SDW |")]
    assert rows[0].startswith("| SDW | 36.5 +- 7.8 | 41.5 +- 0.7 | 39.0 |")
    assert rows[1].startswith("| SDW | 48.5 +- 9.2 |")
    assert "- SDW, a/one-v0: weighting.temperature 0.5" in lines
    assert any("gain +12.5" in line for line in lines)


def test_a_terminal_gets_tables_and_no_markdown(
    spec: ComparisonSpec, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    standings = Standings.of(spec, results)
    print_standings(standings)
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "|" in line or "---" in line]
    rows = [" ".join(standings.table(which)[2]).split() for which in ("last", "best")]
    assert rows[0][:7] == ["SDW", "36.5", "+-", "7.8", "41.5", "+-", "0.7"]
    assert [line.split() for line in lines if line.startswith("SDW  ")] == rows
    assert "- SDW, a/one-v0: weighting.temperature 0.5" in lines


def test_a_cell_that_failed_leaves_the_others_whole(
    spec: ComparisonSpec, results: Results, tmp_path: Path
) -> None:
    results[spec.cell("SDW", "a/two-v0", 1)] = FAILURE
    standings = Standings.of(spec, results)
    draw(standings, tmp_path)
    text = standings.markdown()
    assert "| SDW | 36.5 +- 7.8 | failed |  |" in text
    assert "- SDW, a/two-v0: divergence: too far" in text
    assert standings.aggregate("SDW") is None
    assert standings.aggregate("Av-PBC") is not None
    assert standings.improvement()["datasets"] == ["a/one-v0"]
    assert standings.to_json()["aggregates"]["SDW"] is None


def test_a_dataset_with_a_seed_that_diverged_is_left_out_of_the_statistics(
    spec: ComparisonSpec, results: Results
) -> None:
    results[spec.cell("Av-PBC", "a/one-v0")] = result([20, 22], seeds=(1,))
    standings = Standings.of(spec, results)
    assert standings.scores("Av-PBC", "a/one-v0").tolist() == [21]
    assert standings.improvement()["datasets"] == ["a/two-v0"]
    assert standings.aggregate("Av-PBC") is None


@pytest.mark.parametrize("baseline", [0.0, -5.0])
def test_a_gain_over_nothing_has_no_percentage(
    spec: ComparisonSpec, results: Results, baseline: float
) -> None:
    for dataset in spec.datasets:
        results[spec.cell("Av-PBC", dataset)] = result([baseline] * 4, [baseline] * 4)
    standings = Standings.of(spec, results)
    document = json.loads(json.dumps(standings.to_json(), allow_nan=False))
    assert document["improvement"]["gain_percent"] is None
    assert document["improvement"]["gain"]["value"] == pytest.approx(39 - baseline)
    (line,) = (line for line in standings.markdown().splitlines() if "Av-PBC, 2 dataset" in line)
    assert "%" not in line.replace("95 %", "")
    assert f"gain {39 - baseline:+.1f} (95 %: " in line


def test_a_gain_is_a_share_of_the_baseline(spec: ComparisonSpec, results: Results) -> None:
    standings = Standings.of(spec, results)
    assert standings.improvement()["gain_percent"] == pytest.approx(100 * (39 / 26.5 - 1))
    assert "; +47.2 %)" in standings.markdown()


def test_one_seed_has_no_interval(spec: ComparisonSpec, results: Results) -> None:
    for dataset in spec.datasets:
        for method, value in (("Av-PBC", 20.0), ("SDW", 30.0)):
            cell = spec.cell(method, dataset, 1 if method == "SDW" else None)
            results[cell] = result([value, value], seeds=(0,))
    standings = Standings.of(spec, results)
    text = standings.markdown()
    assert (
        "SDW over Av-PBC, 2 datasets: gain +10.0 (+50.0 %), probability of improvement 1.00.\n"
        "- a/one-v0: +10.0\n- a/two-v0: +10.0\n"
    ) in text
    document = json.loads(json.dumps(standings.to_json(), allow_nan=False))
    for found in (document["aggregates"]["SDW"]["mean"], document["improvement"]["gain"]):
        assert (found["low"], found["high"]) == (None, None)


def test_warnings_of_a_cell_are_told(spec: ComparisonSpec, results: Results) -> None:
    cell = spec.cell("Av-PBC", "a/two-v0")
    results[cell] = replace(results[cell], warnings=["The expert is poor."])
    standings = Standings.of(spec, results)
    assert "\nWarnings:\n\n- Av-PBC, a/two-v0: The expert is poor.\n" in standings.markdown()
    told = {(c["method"], c["dataset"]): c["warnings"] for c in standings.to_json()["cells"]}
    assert told["Av-PBC", "a/two-v0"] == ["The expert is poor."]
    assert told["SDW", "a/two-v0"] == []


ENSEMBLES = """
comparison: {name: small, ours: ten, over: Av-PBC, seed: 0, search_seed: 9}
datasets: {a/one-v0: , a/two-v0: }
pipeline: {distill: {seeds: 2, outer_steps: 10}, evaluation: {policies: 2, ensemble: 10}}
methods:
  Av-PBC: {pipeline: {evaluation: {ensemble: 1}}}
  ten: {}
  "said, ensembles of 10": {}
  either: {candidates: [{evaluation: {ensemble: 1}}, {evaluation: {ensemble: 5}}]}
  expert: {judged: expert}
"""


def test_ensembles_are_named_in_every_table_and_figure(tmp_path: Path) -> None:
    """Those of a method, of a search's choice, or of all; an expert is one policy."""
    (tmp_path / "ensembles.yaml").write_text(ENSEMBLES)
    spec = load_comparison(str(tmp_path / "ensembles.yaml"))
    found: Results = {}
    for dataset, returns in (("a/one-v0", (1.0, 2.0)), ("a/two-v0", (2.0, 1.0))):
        cells = spec.search_cells("either", dataset)
        found |= {cell: result([value]) for cell, value in zip(cells, returns, strict=True)}
        for method in spec.methods:
            cell = final_cell(spec, method, dataset, found)
            assert cell is not None
            found[cell] = result([30, 32, 40, 44])
    standings = Standings.of(spec, found)
    lines = standings.markdown().splitlines()
    methods = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")]
    assert methods[2:7] == [
        *("Av-PBC", "ten, ensembles of 10", "said, ensembles of 10"),
        *("either, ensembles of 1 or 5", "expert"),
    ]
    assert any(line.startswith("ten, ensembles of 10 over Av-PBC, 2 dataset") for line in lines)
    told = {(c["method"], c["dataset"]): c["ensemble"] for c in standings.to_json()["cells"]}
    assert [told[method, "a/one-v0"] for method in spec.methods] == [1, 10, 10, 5, 1]
    assert told["either", "a/two-v0"] == 1
    assert title(spec, spec.cell("ten", "a/one-v0")) == "ten on a/one-v0, ensembles of 10"
    assert title(spec, spec.cell("expert", "a/one-v0")) == "expert on a/one-v0"
    half = Standings.of(spec, {c: r for c, r in found.items() if c.dataset == "a/two-v0"})
    assert half.title("either") == "either"
    standings.write(tmp_path / "written")
    draw(standings, tmp_path / "written")


def test_what_has_not_run_is_left_blank(
    spec: ComparisonSpec, results: Results, tmp_path: Path
) -> None:
    del results[spec.cell("Av-PBC", "a/two-v0")]
    del results[spec.search_cells("SDW", "a/one-v0")[0]]
    standings = Standings.of(spec, {c: r for c, r in results.items() if c.method != "expert"})
    draw(standings, tmp_path)
    assert standings.failed == {}
    assert "| expert |  |  |" in standings.markdown()
    assert standings.scores("Av-PBC", "a/two-v0").size == 0


def test_names_are_shown_as_they_are_in_tables_and_figures(tmp_path: Path) -> None:
    """A name may hold what a table, a formula or a legend would take for its own."""
    path = tmp_path / "odd.yaml"
    odd = r"'$\frac|$ [b]x[/b]'"
    text = SPEC.replace("Av-PBC", odd).replace("SDW", "_mine").replace("two-v0", "two$^$-v0")
    path.write_text(text)
    spec = load_comparison(str(path))
    found: Results = {}
    for method, dataset in [
        (method, dataset) for method in spec.methods for dataset in spec.datasets
    ]:
        for cell in (*spec.search_cells(method, dataset), spec.cell(method, dataset, None)):
            found[cell] = result([30, 32, 40, 44])
        chosen = final_cell(spec, method, dataset, found)
        assert chosen is not None
        found[chosen] = result([30, 32, 40, 44])
    standings = Standings.of(spec, found)
    standings.write(tmp_path / "odd")
    draw(standings, tmp_path / "odd")
    table = (tmp_path / "odd" / "table.md").read_text()
    assert r"| $\frac\|$ [b]x[/b] |" in table
    for each in ("returns.png", "curves.png"):
        assert (tmp_path / "odd" / each).stat().st_size > 1000
