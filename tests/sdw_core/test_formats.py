"""The rows in every format, and what describes them to other tools."""

import json
from pathlib import Path

import minari
import mlcroissant
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import sdw_core as sdw
from sdw_core.artifact import Artifact
from sdw_core.errors import InputError
from sdw_core.formats import require_formats


@pytest.fixture
def table(licensed: Path) -> pd.DataFrame:
    return pd.read_parquet(licensed / "synthetic.parquet")


def test_the_text_and_numpys_file_hold_the_same_rows_exactly(
    licensed: Path, table: pd.DataFrame
) -> None:
    text = pd.read_csv(licensed / "synthetic.csv", dtype=np.float32)
    pd.testing.assert_frame_equal(text, table, check_exact=True)
    arrays = np.load(licensed / "synthetic.npz", allow_pickle=False)
    rows = load_file(licensed / "synthetic.safetensors")
    assert set(arrays) == {*rows, "actions_clipped"}
    for name in rows:
        np.testing.assert_array_equal(arrays[name], rows[name])
    np.testing.assert_array_equal(arrays["actions_clipped"], table.filter(like="clipped"))


def test_minari_reads_the_rows_as_episodes_of_one_step(
    licensed: Path, ensembles: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = ensembles[0]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(licensed / "minari"))
    dataset = minari.load_dataset("rows-v0")
    episodes = list(dataset)
    assert dataset.total_steps == len(episodes) == len(artifact.observations)
    for episode, observation, action in zip(
        episodes, artifact.observations, artifact.actions, strict=True
    ):
        np.testing.assert_array_equal(episode.observations[:-1], observation[None])
        np.testing.assert_array_equal(episode.actions, action[None])
        assert np.isnan(episode.observations[-1]).all()
        assert np.isnan(episode.rewards).all()
        assert (episode.terminations.tolist(), episode.truncations.tolist()) == ([False], [True])
    env = dataset.recover_environment()
    assert env.spec.id == artifact.arena.environment.id
    assert dataset.action_space.contains(100 * artifact.actions[0])
    with pytest.raises(InputError, match="every number must be finite"):
        sdw.load("rows-v0")  # there is nothing to judge a state's worth by


def test_croissants_own_library_finds_nothing_wrong_and_reads_the_table(
    licensed: Path, table: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = mlcroissant.Dataset(licensed / "croissant.json")  # raises where it is not valid
    warned = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert len(warned) == 1
    assert warned[0].count("Property") == 1
    assert "datePublished" in warned[0]  # which an export does not know
    assert dataset.metadata.license == ["https://spdx.org/licenses/CC-BY-4.0.html"]
    found = pd.DataFrame(list(dataset.records("rows"))).rename(columns=lambda n: n.split("/")[1])
    pd.testing.assert_frame_equal(found, table, check_dtype=False, check_exact=True)


def test_croissants_library_finds_what_is_wrong(licensed: Path, tmp_path: Path) -> None:
    document = json.loads((licensed / "croissant.json").read_text())
    del document["distribution"][0]["sha256"]
    (tmp_path / "croissant.json").write_text(json.dumps(document))
    with pytest.raises(mlcroissant.ValidationError, match="sha256"):
        mlcroissant.Dataset(tmp_path / "croissant.json")


def test_where_no_licence_was_chosen_none_is_described(ensembles: tuple[Artifact, Path]) -> None:
    assert "license" not in json.loads((ensembles[1] / "croissant.json").read_text())


def test_the_card_lists_what_the_folder_holds(
    licensed: Path, ensembles: tuple[Artifact, Path]
) -> None:
    names = ["`synthetic.npz`", "`synthetic.csv`", "`minari`"]
    for folder, held in ((licensed, True), (ensembles[1], False)):
        text = (folder / "README.md").read_text()
        assert [f"\n| {name} |" in text for name in names] == [held] * 3


def test_formats_are_named() -> None:
    assert require_formats(["csv", "npz", "csv"]) == ("csv", "npz")
    with pytest.raises(InputError, match=r"one of parquet, npz, csv, minari, not 'xls': give one"):
        require_formats(["csv", "xls"])
