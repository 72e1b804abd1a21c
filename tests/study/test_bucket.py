"""What a study found, in a bucket of S3: that of moto's server, which runs beside the tests.

The server has an environment of its own, for its packages want others than ours.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from study.folder import StudyFolder
from tests.integration.slurm import free_ports, wait_for
from tests.study.commands import sdw
from tests.study.conftest import small_spec
from tests.study.reports import run_trials

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder")]
SERVER = os.environ.get("MOTO_SERVER")
"""As `.ci/run` installs it."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server that holds a bucket, `results`."""
    if not SERVER:
        pytest.skip("a bucket of one's own needs the path of a `moto_server` in MOTO_SERVER")
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "moto.log").open("w") as log:
        command = [SERVER, "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def made() -> bool:
        with suppress(OSError):
            asked = urllib.request.Request(f"{address}/results", method="PUT")
            return bool(urllib.request.urlopen(asked).status == 200)
        return False

    try:
        wait_for(made)
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield address
    finally:
        process.kill()
        process.wait()


def test_exports_and_reports_go_to_a_bucket_and_are_read_there(s3, capsys, tmp_path) -> None:
    folder = StudyFolder.create(small_spec("study.trials=1"), tmp_path / "studies")
    run_trials(folder)
    there = "s3://results/mine"
    status, out, err = sdw(capsys, "export", folder.path, "--to", there, "--json")
    assert status == 0, err
    assert json.loads(out)["folders"] == [f"{there}/trial-0"]
    status, _, err = sdw(capsys, "export", folder.path, "--to", there)
    assert (status, err.splitlines()[-1]) == (
        2,
        f"sdw: {there}/trial-0 exists, and nothing is written over it; choose another.",
    )
    status, out, err = sdw(capsys, "evaluate", f"{there}/trial-0", "--policies", 1, "--episodes", 1)
    assert status == 0, err
    status, out, err = sdw(capsys, "pull", f"{there}/trial-0", "--to", tmp_path / "back")
    assert status == 0, err
    assert (tmp_path / "back" / "manifest.json").is_file()
    status, out, err = sdw(capsys, "report", folder.path, "--to", "s3://results/mine.html")
    assert (status, out) == (0, "report in s3://results/mine.html\n"), err

    for to, sentence in [
        ("s3://nowhere/mine", "there is no such bucket"),
        ("s3://results", "is named s3://BUCKET/PATH"),
        ("s3://me:secret@results/mine", "without a user, a password"),
    ]:
        status, out, err = sdw(capsys, "export", folder.path, "--to", to)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert sentence in err
    status, out, err = sdw(capsys, "evaluate", "s3://results/other")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "There is no export at s3://results/other" in err
    status, out, err = sdw(capsys, "launch", "quickstart", "--storage", "s3://results/studies")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "name a folder" in err
