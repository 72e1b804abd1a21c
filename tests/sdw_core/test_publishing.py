"""A dataset hub and back: byte for byte, or one sentence and nothing half-published."""

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

import sdw_core as sdw
from sdw_core.artifact import Artifact
from sdw_core.errors import InputError
from sdw_core.remote import HubDataset
from tests import hub as hubs
from tests.hub import Hub
from tests.sdw_core.processes import ROOT
from tests.study.commands import sdw as command

ADDRESS = "hf://me/rows"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """One that knows this user; its library's cache is the test's own."""
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with hubs.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
    enable_progress_bars()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(work: Any, *arguments: Any, **named: Any) -> str:
    """The one sentence that it is refused with."""
    with pytest.raises(InputError) as caught:
        work(*arguments, **named)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert sentence.count(". ") == 0
    return sentence


def test_what_is_pulled_is_byte_for_byte_what_was_pushed(
    hub: Hub, licensed: Path, tmp_path: Path
) -> None:
    made = sdw.publish(licensed, ADDRESS)
    assert hub.files["me/rows"].keys() == {*contents(licensed), ".gitattributes"}
    assert made == HubDataset("me/rows", hub.sha("me/rows"))
    for address in (ADDRESS, str(made), "hf://datasets/me/rows@main"):
        to = tmp_path / str(len(address))
        assert contents(sdw.pull(address, to)) == contents(licensed)
    assert not any(path.is_symlink() for path in to.iterdir())
    read, here = sdw.read_artifact(ADDRESS), sdw.read_artifact(licensed)
    np.testing.assert_array_equal(read.observations, here.observations)
    assert read.evidence == here.evidence
    card = DatasetCard(hub.files["me/rows"]["README.md"].decode())
    assert (card.data.license, card.data.size_categories) == ("cc-by-4.0", ["n<1K"])


def test_only_what_the_manifest_lists_is_published_and_pulled(
    hub: Hub, licensed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(licensed, tmp_path / "copy"))
    (copy / "film.mp4").write_bytes(b"made afterwards")
    (copy / "notes.txt").write_text("mine")
    sdw.publish(copy, ADDRESS)
    assert hub.files["me/rows"].keys() == {*contents(licensed), ".gitattributes"}
    hub.files["me/rows"] |= {"film.mp4": b"a stranger's", "more/evil.py": b"import os"}
    assert contents(sdw.pull(ADDRESS, tmp_path / "back")) == contents(licensed)


def test_without_a_licence_nothing_is_published_and_with_one_a_copy_states_it(
    hub: Hub, ensembles: tuple[Artifact, Path], tmp_path: Path
) -> None:
    folder = ensembles[1]
    before = contents(folder)
    assert "needs a licence, and " in refused(sdw.publish, folder, ADDRESS)
    assert "chosen by its id" in refused(sdw.publish, folder, ADDRESS, license="none of yours")
    assert hub.asked == []
    sdw.publish(folder, ADDRESS, license="BSD-4-Clause")
    assert contents(folder) == before
    back = sdw.pull(ADDRESS, tmp_path / "back")
    assert sdw.read_artifact(back).evidence["source"]["license"] == "BSD-4-Clause"
    differing = {name for name, content in contents(back).items() if content != before[name]}
    assert differing == {"README.md", "croissant.json", "manifest.json"}
    described = json.loads((back / "croissant.json").read_text())
    assert described["license"] == "https://spdx.org/licenses/BSD-4-Clause.html"
    text = (back / "README.md").read_text()
    data = DatasetCard(text).data
    assert (data.license, data["license_name"]) == ("other", "bsd-4-clause")
    assert "The licence is `BSD-4-Clause`." in text
    assert "No licence is chosen" not in text


def test_a_card_of_the_first_version_states_a_licence_that_nobody_chose(
    hub: Hub, tmp_path: Path
) -> None:
    first = ROOT / "tests/legacy/finished/exports/trial-0"
    assert "whatever its card says" in refused(sdw.publish, first, ADDRESS)
    sdw.publish(first, ADDRESS, license="mit")
    text = (sdw.pull(ADDRESS, tmp_path / "back") / "README.md").read_text()
    assert "apache" not in text
    assert DatasetCard(text).data.license == "mit"
    assert DatasetCard(text).data.configs[0]["data_files"] == "synthetic.parquet"


@pytest.mark.parametrize(
    ("failing", "sentence"),
    [
        (("create", 401), "does not let you write hf://me/rows"),
        (("create", 403), r"\(it answered 403\): check the name, and log in with `hf auth login`"),
        (("create", 409), "never overwrites, and hf://me/rows exists at http"),
        (("create", 500), "answered 500"),
        (("validate", 400), "refuses to write hf://me/rows: Invalid metadata"),
        (("preupload", 403), "answered 403"),
        (("batch", 418), "answered 418"),
        (("PUT", 403), "answered 403"),
        (("commit", 500), "cannot be made to write hf://me/rows, and answered 500"),
        (("tree", 404), "answered 404"),
        ((".", 404), "does not have it .it answered 404"),
    ],
    ids=str,
)
def test_wherever_a_hub_refuses_nothing_is_half_published(
    hub: Hub, licensed: Path, failing: tuple[str, int], sentence: str
) -> None:
    hub.failing = failing
    assert re.search(sentence, refused(sdw.publish, licensed, ADDRESS))
    assert hub.files == {}


def test_a_user_whom_the_hub_does_not_know_is_told_to_log_in(
    hub: Hub, licensed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "log in with `hf auth login`" in refused(sdw.publish, licensed, ADDRESS)
    assert hub.files == {}


def test_a_name_that_is_taken_is_left_alone(hub: Hub, licensed: Path) -> None:
    hub.files["me/rows"] = {"README.md": b"of a year's work"}
    assert "never overwrites, and hf://me/rows exists" in refused(sdw.publish, licensed, ADDRESS)
    assert hub.files == {"me/rows": {"README.md": b"of a year's work"}}
    assert all(call.startswith("GET") for call in hub.asked)


def test_what_comes_back_otherwise_is_taken_back(hub: Hub, licensed: Path) -> None:
    hub.spoils = "synthetic.parquet"
    sentence = refused(sdw.publish, licensed, ADDRESS)
    assert "synthetic.parquet came back from hf://me/rows@" in sentence
    assert hub.files == {}


def test_what_cannot_be_taken_back_is_said(hub: Hub, licensed: Path) -> None:
    hub.failing = ("commit|delete", 403)
    sentence = refused(sdw.publish, licensed, ADDRESS)
    assert sentence.endswith(f"cannot be removed ({sentence.split('(')[-1]}")
    assert f"remove it at {hub.address}/datasets/me/rows" in sentence


def test_a_folder_that_was_changed_is_neither_published_nor_read_from_a_hub(
    hub: Hub, licensed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(licensed, tmp_path / "copy"))
    with (copy / "policy.py").open("a") as file:
        file.write("import os\n")
    sentence = refused(sdw.publish, copy, ADDRESS)
    assert sentence.startswith("policy.py of ")
    assert "was changed after its export" in sentence
    assert hub.asked == []
    sdw.publish(licensed, ADDRESS)
    hub.files["me/rows"]["policy.py"] += b"import os\n"
    for work in (sdw.read_artifact, lambda address: sdw.pull(address, tmp_path / "back")):
        assert refused(work, ADDRESS).startswith(f"policy.py of '{ADDRESS}' was changed")
    assert not (tmp_path / "back").exists()


def test_what_is_no_export_or_is_not_there_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["me/cats"] = {"README.md": b"---\nlicense: mit\n---\ncats\n"}
    assert "it has no readable manifest.json" in refused(sdw.read_artifact, "hf://me/cats")
    assert "answered 404" in refused(sdw.read_artifact, "hf://me/dogs")
    assert "answered 404" in refused(sdw.read_artifact, "hf://me/cats@v2")
    assert "has no readable" in refused(sdw.pull, "hf://me/cats", tmp_path / "new")
    (tmp_path / "taken").mkdir()
    assert "never overwrites" in refused(sdw.pull, "hf://me/cats", tmp_path / "taken")
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "taken"}


@pytest.mark.parametrize(
    "address", ["hf://", "hf://me", "hf://me/rows/x", "hf://me/-a", "hf://me/a@", "me/rows", "s3:/"]
)
def test_what_is_no_address_is_refused(licensed: Path, address: str) -> None:
    sentence = refused(sdw.publish, licensed, address)
    assert sentence.startswith("A dataset in a hub is named hf://USER/NAME, or hf://USER/NAME@REV")
    assert "leave `@v1` out" in refused(sdw.publish, licensed, "hf://me/rows@v1")


def test_a_hub_that_does_not_answer_is_said_also_of_what_was_fetched_before(
    hub: Hub, licensed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdw.publish(licensed, ADDRESS)
    sdw.read_artifact(ADDRESS)
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        for work in (sdw.read_artifact, lambda address: sdw.publish(licensed, address)):
            for address in ("hf://me/others", ADDRESS):
                assert refused(work, address).startswith(f"{endpoint} does not answer (")


def test_the_commands_publish_fetch_and_read_from_a_hub(
    hub: Hub, ensembles: tuple[Artifact, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ensembles[1]
    status, said, errors = command(capsys, "publish", folder, ADDRESS)
    assert (status, said) == (2, "")
    assert errors.startswith("sdw: What is published needs a licence")
    given = ["publish", folder, ADDRESS, "--license", "cc0-1.0", "--json"]
    status, said, errors = command(capsys, *given)
    sha, page = hub.sha("me/rows"), f"{hub.address}/datasets/me/rows"
    assert (status, errors) == (0, "")
    assert json.loads(said) == {
        "dataset": "me/rows",
        "commit": sha,
        "page": f"{page}/tree/{sha}",
    }
    status, said, _ = command(capsys, "evaluate", ADDRESS, "--json")
    assert status == 0
    assert json.loads(said)["mean"] == pytest.approx(
        ensembles[0].evidence["scores"]["synthetic_ensemble"]["mean"]
    )
    status, said, _ = command(capsys, "pull", ADDRESS, "--to", tmp_path / "back", "--json")
    assert (status, json.loads(said)["folder"]) == (0, str(tmp_path / "back"))
    status, said, errors = command(capsys, "render", ADDRESS)
    assert (status, said) == (2, "")
    assert "name its file with `--to`" in errors
