"""Data that are edited, checkpoints that are replaced, another method: nothing is mixed up."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sdw_core.dataset import load
from sdw_core.errors import InputError
from sdw_core.files import read_json, write_json
from sdw_core.identity import Inventory, method_of
from sdw_core.units import Units
from search_spaces import ComparisonSpec, load_comparison, load_spec
from study.comparison import ComparisonFolder, Results, check_comparison, ready, run_cell
from study.confirm import confirm
from study.export import export
from study.folder import StudyFolder
from study.outcomes import finished_result
from study.search import StudySearch
from study.stage_cache import contents, prune
from tests.sdw_core.checkpoints import networks_of
from tests.study.commands import sdw
from tests.study.conftest import SMALL, by_another_method, small_spec
from tests.study.reports import run_trials

BUNDLED = Path(__file__).parents[2] / "sdw_core/data/sdw/hopper-replay-mini-v0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one's own, a folder, and a study on it in which one trial is complete."""
    path = tmp_path_factory.mktemp("home")
    shutil.copytree(BUNDLED, path / "own")
    run_trials(launched(path / "own", path / "studies"))
    return path


@pytest.fixture
def data(home: Path) -> Iterator[Path]:
    """The dataset, as it was at first."""
    yield home / "own"
    shutil.copytree(BUNDLED, home / "own", dirs_exist_ok=True)


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> StudyFolder:
    """The study, a copy."""
    name = "hopper-quickstart"
    return StudyFolder(shutil.copytree(home / "studies" / name, tmp_path / name))


def edit(data: Path, scale: float = 2.0) -> None:
    """Other observations, of other mean and spread."""
    with h5py.File(data / "data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            episode["observations"][...] = scale * episode["observations"][()] + 1


def rescore(data: Path) -> None:
    """Other reference scores."""
    path = data / "data/metadata.json"
    write_json(path, read_json(path) | {"ref_min_score": 0.0, "ref_max_score": 100.0})


def launched(data: Path, storage: Path, *overrides: str) -> StudyFolder:
    spec = small_spec(f"pipeline.dataset={data}", "study.trials=3", *overrides)
    datasets = {config.dataset: load(config.dataset) for config in spec.reaching()}
    return StudyFolder.create(spec, storage, Inventory.of(spec.reaching(), datasets))


# Exports


@pytest.mark.parametrize("first_version", [False, True])
def test_an_export_is_refused_once_the_dataset_changed(
    data: Path, tmp_path: Path, first_version: bool, folder: StudyFolder
) -> None:
    if first_version:
        as_the_first_version_left_it(folder)
    edit(data)
    with pytest.raises(InputError, match=r"The content of the dataset .*own' changed .* put back"):
        export(folder, [0], tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


def as_the_first_version_left_it(folder: StudyFolder) -> None:
    (folder.path / "sources.json").unlink()
    for result in folder.path.glob("trials/*/result.json"):
        document = read_json(result)
        del document["sources"], document["identity"]
        write_json(result, document)
        rows = load_file(result.with_name("rows.safetensors"))
        kept = {name: rows[name] for name in ("observations", "actions", "losses")}
        save_file(kept, result.with_name("rows.safetensors"))


def test_other_reference_scores_refuse_an_export_too(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    rescore(data)
    with pytest.raises(InputError, match=r"The reference scores of the dataset .* changed since"):
        export(folder, [0], tmp_path / "exports")


def test_rows_are_read_in_the_units_that_they_were_distilled_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: StudyFolder
) -> None:
    """Even by a later version whose normaliser is another."""
    before = confirm(folder, 0, load(str(data)), folder.cache).artifact
    fit = Units.fit

    def other(observations: np.ndarray, *bounds: np.ndarray) -> Units:
        found = fit(observations, *bounds)
        return Units(found.observation_mean + 1, 3 * found.observation_scale, *bounds)

    monkeypatch.setattr(Units, "fit", other)
    assert np.array_equal(
        confirm(folder, 0, load(str(data)), folder.cache).artifact.observations, before.observations
    )


def test_an_export_of_another_trial_of_that_number_is_not_taken_for_its_own(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    (target,) = export(folder, [0])
    assert export(folder, [0]) == [target]
    rows = load_file(folder.trial(0) / "rows.safetensors")
    save_file(rows | {"actions": 0.5 * rows["actions"]}, folder.trial(0) / "rows.safetensors")
    with pytest.raises(InputError, match=r"trial-0' holds other rows than .*trials/0'.*`to`"):
        export(folder, [0])


def test_scores_on_fresh_seeds_count_for_the_rows_that_they_were_found_with(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    before = confirm(folder, 0, load(str(data)), folder.cache).artifact.evidence["scores"][
        "synthetic"
    ]
    rows = load_file(folder.trial(0) / "rows.safetensors")
    save_file(rows | {"actions": 0.5 * rows["actions"]}, folder.trial(0) / "rows.safetensors")
    assert (
        confirm(folder, 0, load(str(data)), folder.cache).artifact.evidence["scores"]["synthetic"]
        != before
    )


# Studies


def test_a_study_keeps_what_it_was_launched_on_and_its_trials_say_so(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    stated = {
        "dataset": load(str(data)).content_hash,
        "scores": list(load(str(data)).required_scores),
        "checkpoint": None,
        "method": dict(method_of(load(str(data)))),
    }
    assert read_json(folder.trial(0) / "result.json")["sources"] == stated
    assert read_json(folder.trial(0) / "record.json")["sources"] == stated
    assert read_json(folder.path / "sources.json") == {
        "datasets": {str(data): stated},
        "checkpoints": {},
    }


@pytest.mark.parametrize(
    ("known", "change"),
    [
        ("by the launch", edit),
        ("by the launch", rescore),
        ("by the first result", edit),
        ("by the first result", rescore),
        ("by the first version", edit),  # which did not state the scores
    ],
)
def test_a_trial_that_reads_edited_data_is_not_mixed_in(
    data: Path, known: str, change: Callable[[Path], None], folder: StudyFolder
) -> None:
    if known == "by the first version":
        as_the_first_version_left_it(folder)
    if known == "by the first result":
        (folder.path / "sources.json").unlink()
    prune(folder, everything=True)  # the study's own copy
    change(data)
    search = run_trials(folder)
    assert search.changed is not None
    assert "changed since the earlier runs" in search.changed
    assert search.suggest("next") == "FINISHED"
    assert [row.outcome for row in folder.book().rows()] == ["COMPLETE", "WAITING"]
    assert not (folder.trial(1) / "result.json").exists()


@pytest.mark.parametrize("change", [edit, rescore])
def test_a_trial_under_whose_study_data_are_edited_goes_on_with_the_studys_own(
    data: Path, change: Callable[[Path], None], folder: StudyFolder
) -> None:
    change(data)
    assert run_trials(folder).changed is None
    first, second = (read_json(folder.trial(n) / "result.json")["sources"] for n in (0, 1))
    assert first == second


@pytest.mark.parametrize("command", ["resume", "extend", "retry-failed"])
@pytest.mark.parametrize("what", ["dataset", "method"])
def test_a_study_whose_data_or_method_changed_is_not_gone_on_with(
    capsys, data: Path, tmp_path: Path, command: str, what: str, folder: StudyFolder
) -> None:
    search = StudySearch(folder.book())
    asked = search.suggest("failed")
    failure = {"outcome": "FAILED", "reason": "divergence: too far"}
    search.on_trial_complete("failed", {"document": json.dumps(failure)})
    assert asked["number"] == 1
    if what == "dataset":
        edit(data)
    else:
        path = folder.path / "sources.json"
        document = read_json(path)
        document["datasets"][str(data)]["method"]["distill"] -= 1
        write_json(path, document)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    given = ["--trials", "2"] if command == "extend" else []
    status, out, err = sdw(capsys, command, str(folder.path), *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    named = f"content of the dataset '{data}'" if what == "dataset" else "stage `distill`"
    assert named in err
    assert "under another name" in err
    for path, content in before.items():
        if not path.name.startswith("study.db"):
            assert path.read_bytes() == content


def test_a_replaced_checkpoint_is_noticed(capsys, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_file(networks_of(11, 3), path)
    expert = f"pipeline.expert={{method: checkpoint, path: {path}}}"
    overrides = [each for each in SMALL if "expert" not in each]
    spec = load_spec("quickstart", [*overrides, expert, "study.trials=2"])
    datasets = {spec.pipeline.dataset: load(spec.pipeline.dataset)}
    folder = StudyFolder.create(spec, tmp_path, Inventory.of(spec.reaching(), datasets))
    run_trials(folder)
    assert read_json(folder.trial(0) / "result.json")["sources"]["checkpoint"] is not None
    networks = networks_of(11, 3)
    save_file({name: 0.5 * tensor for name, tensor in networks.items()}, path)
    assert "content of the expert's checkpoint" in str(run_trials(folder).changed)
    status, _, err = sdw(capsys, "resume", str(folder.path))
    assert status == 2
    assert f"content of the expert's checkpoint '{path}' changed" in err


def test_a_result_counts_for_the_sources_that_it_was_made_of(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    config = folder.spec().pipeline_with(folder.book().rows()[0].params)
    sources = folder.inventory().sources(config)
    home = folder.trial(0)
    assert finished_result(home, config, sources)
    edit(data)
    now = Inventory.of([config], {config.dataset: load(config.dataset)}).sources(config)
    assert finished_result(home, config, now) is None
    other = config.model_copy(update={"seed": 5})
    assert finished_result(home, other, sources) is None


def test_stage_results_of_edited_data_still_belong_to_their_trials(
    data: Path, tmp_path: Path, folder: StudyFolder
) -> None:
    """They are needed again when the data are put back, and data that are gone do not matter."""
    shutil.rmtree(data)
    assert [entry.trials for entry in contents(folder)] == [[0], [0], [0]]


# Comparisons

COMPARISON = """
comparison: {name: c, ours: SDW, over: Av-PBC}
datasets: {own: }
pipeline:
  density: {model: gaussian}
  weighting: {temperature: 0}
  expert: {layers: 2, width: 16, steps: 20, value_steps: 20}
  distill:
    {layers: 2, width: 8, synthetic_size: 8, inner_steps: 4, outer_steps: 2, seeds: 2, window: 3,
    meta_batch_size: 64}
  evaluation: {policies: 1, episodes: 1}
methods:
  Av-PBC: {}
  SDW: {pipeline: {weighting: {temperature: 0.5}}}
  expert: {judged: expert}
"""


@pytest.fixture
def comparison(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ComparisonFolder, ComparisonSpec]:
    monkeypatch.chdir(home)
    (tmp_path / "c.yaml").write_text(COMPARISON)
    return ComparisonFolder(tmp_path / "c"), load_comparison(str(tmp_path / "c.yaml"))


def run_cells(folder: ComparisonFolder, spec: ComparisonSpec, inventory: Inventory) -> Results:
    """Cells as workers run them, without Ray."""
    for cell in ready(spec, folder.results(spec, inventory)):
        run_cell(folder, cell, inventory.sources(cell.config), 1, 0)
    return folder.results(spec, inventory)


def test_cells_of_edited_data_are_other_cells(comparison, data: Path) -> None:
    folder, spec = comparison
    then = check_comparison(spec)[0]
    before = run_cells(folder, spec, then)
    assert len(before) == 3
    assert not any(ready(spec, before))
    edit(data)
    now = check_comparison(spec)[0]
    assert folder.results(spec, now) == {}
    assert folder.unused(spec, now) == 3
    after = run_cells(folder, spec, now)
    identities = [{result.identity for result in each.values()} for each in (before, after)]
    assert not identities[0] & identities[1]
    assert folder.results(spec, then) == before  # put back, all is as it was


def test_what_was_found_is_shown_without_the_data(comparison, data: Path) -> None:
    folder, spec = comparison
    before = run_cells(folder, spec, check_comparison(spec)[0])
    edit(data)
    after = run_cells(folder, spec, check_comparison(spec)[0])
    spec = spec.with_absolute_paths()  # as the folder keeps it
    before, after = (
        dict(zip(spec.all_cells(), each.values(), strict=True)) for each in (before, after)
    )
    data.rename(data.with_name("elsewhere"))
    assert folder.results(spec, folder.stated(spec)) == after
    for result in after.values():
        for file in folder.path.glob(f"cells/*-{result.identity[:16]}/result.json"):
            os.utime(file, (0, 0))  # older than what the data gave before
    assert folder.results(spec, folder.stated(spec)) == before


def test_cells_of_another_method_are_other_cells(comparison) -> None:
    folder, spec = comparison
    now = check_comparison(spec)[0]
    run_cells(folder, spec, now)
    raised = by_another_method(now, "distill")
    assert folder.results(spec, raised) == {}
    assert folder.unused(spec, raised) == 3


def test_equal_data_elsewhere_are_the_same_cells(comparison, data: Path, tmp_path: Path) -> None:
    folder, spec = comparison
    before = run_cells(folder, spec, check_comparison(spec)[0])
    data.rename(tmp_path / "moved")
    (tmp_path / "c.yaml").write_text(COMPARISON.replace("own:", f"{tmp_path}/moved:"))
    moved = load_comparison(str(tmp_path / "c.yaml"))
    again = folder.results(moved, check_comparison(moved)[0])
    assert list(again.values()) == list(before.values())
    assert folder.unused(moved, check_comparison(moved)[0]) == 0


def test_a_cell_whose_data_change_on_the_way_is_not_mixed_in(comparison, data: Path) -> None:
    folder, spec = comparison
    then = check_comparison(spec)[0]
    edit(data)
    for cell in spec.all_cells():
        result = run_cell(folder, cell, then.sources(cell.config), 1, 0)
        assert result.outcome == "STOPPED"
        assert result.sources_changed
    assert folder.results(spec, then) == {}
