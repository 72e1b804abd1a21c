"""Small exports, written once, for every test that reads one."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from sdw_core.artifact import Artifact, write_artifact
from sdw_core.formats import FORMATS
from tests.sdw_core.exports import SOURCE_STATES, make

ENVIRONMENTS = ["Hopper-v5", "Pendulum-v1"]  # bounds of [-1, 1], and of [-2, 2]


@pytest.fixture(params=ENVIRONMENTS, scope="session")
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Path]:
    artifact = make(request.param)
    folder = tmp_path_factory.mktemp("exports") / "nested" / request.param
    write_artifact(artifact, folder, SOURCE_STATES[:, : artifact.observations.shape[1]])
    return artifact, folder


@pytest.fixture(scope="session")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """An export whose manifest states ensembles of four."""
    artifact = make(ENVIRONMENTS[1], ensemble=4)
    folder = tmp_path_factory.mktemp("exports") / "ensembles"
    write_artifact(artifact, folder, SOURCE_STATES[:, : artifact.observations.shape[1]])
    return artifact, folder


@pytest.fixture(scope="session")
def licensed(ensembles: tuple[Artifact, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a source that states a licence, in every format."""
    artifact = ensembles[0]
    source = artifact.evidence["source"] | {"license": "cc-by-4.0"}
    artifact = dataclasses.replace(artifact, evidence=artifact.evidence | {"source": source})
    folder = tmp_path_factory.mktemp("licensed") / "rows"
    states = SOURCE_STATES[:, : artifact.observations.shape[1]]
    write_artifact(artifact, folder, states, formats=FORMATS)
    return folder


@pytest.fixture
def copy(written: tuple[Artifact, Path], tmp_path: Path) -> Path:
    """A folder that may be damaged."""
    return Path(shutil.copytree(written[1], tmp_path / "copy"))
