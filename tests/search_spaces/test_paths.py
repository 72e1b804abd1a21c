"""Files in settings are named so that every folder and every node finds the same ones."""

from pathlib import Path

import pytest
import yaml

from search_spaces import load_comparison, load_spec

COMPARISON = """
comparison: {name: c, ours: a, over: b, search: {expert: {method: checkpoint, path: e.pt}}}
datasets: {"data/d.npz?env=Hopper-v5": , sdw/hopper-replay-mini-v0: {expert: {path: e.pt}}}
pipeline: {expert: {method: checkpoint, path: ~/home.pt}}
methods:
  a: {candidates: [{expert: {path: e.pt}}, {dataset: "data/d.npz?env=Hopper-v5"}]}
  b: {pipeline: {expert: {path: e.pt}}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and home, with a dataset and two checkpoints."""
    (tmp_path / "data").mkdir()
    for name in ("data/d.npz", "e.pt", "home.pt"):
        (tmp_path / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spelt", ["data/d.npz", "./data/../data/d.npz", "~/data/d.npz"])
def test_a_study_names_files_from_anywhere(here: Path, spelt: str) -> None:
    spec = load_spec("quickstart", [f"pipeline.dataset={spelt}?env=Hopper-v5"])
    assert spec.pipeline.dataset == f"{here}/data/d.npz?env=Hopper-v5"


def test_so_does_what_a_study_searches(here: Path) -> None:
    given = [
        "pipeline.expert={method: checkpoint, path: e.pt}",
        "search={dataset: {type: categorical, choices: [data/d.npz, sdw/hopper-replay-mini-v0]}, "
        "expert.path: {type: categorical, choices: [e.pt, ~/home.pt]}}",
    ]
    spec = load_spec("quickstart", given)
    datasets = f"{here}/data/d.npz", "sdw/hopper-replay-mini-v0"
    paths = f"{here}/e.pt", f"{here}/home.pt"
    for reached in (spec.extremes(), spec.reaching()):
        found = [(c.dataset, c.expert.path) for c in reached]
        assert {dataset for dataset, _ in found} == set(datasets)
        assert {path for _, path in found} == set(paths)
    assert set(found) == {(dataset, path) for dataset in datasets for path in paths}


def test_a_bundled_dataset_is_not_taken_for_a_folder_of_its_name(here: Path) -> None:
    (here / "sdw/hopper-replay-mini-v0/data").mkdir(parents=True)
    assert load_spec("quickstart").pipeline.dataset == "sdw/hopper-replay-mini-v0"


def test_every_cell_of_a_comparison_names_files_from_anywhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here / "c.yaml"
    path.write_text(COMPARISON)
    spec = load_comparison(str(path))
    for cell in spec.all_cells():
        assert cell.dataset in spec.datasets
        assert Path(cell.config.expert.path).is_absolute()
        assert cell.config.dataset in (
            f"{here}/data/d.npz?env=Hopper-v5",
            "sdw/hopper-replay-mini-v0",
        )
    cells = [cell.config for cell in spec.all_cells()]
    path.write_text(yaml.safe_dump(spec.with_absolute_paths().model_dump(mode="json")))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    again = load_comparison(str(path))
    assert list(again.datasets) == list(spec.datasets)  # what tables call them
    assert [cell.config for cell in again.all_cells()] == cells
