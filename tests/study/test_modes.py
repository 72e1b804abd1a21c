"""Who may read and write what a study leaves, and what can be done with one that is read-only."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

from search_spaces import load_comparison
from study.comparison import ComparisonFolder
from study.export import export
from study.folder import StudyFolder
from study.search import StudySearch
from study.trial import run_trial
from tests.study.commands import sdw, write_d4rl
from tests.study.conftest import small_spec
from tests.study.pages import addresses, read


def finished(storage: Path, *overrides: str) -> StudyFolder:
    """A study of one real trial, without Ray."""
    folder = StudyFolder.create(small_spec("study.trials=1", *overrides), storage)
    with folder.driving():
        search = StudySearch(folder.book(to_write=True))
        config = folder.spec().pipeline_with(search.suggest("a")["params"])
        result = run_trial(0, config, folder.trial(0), folder.cache, folder.stop_flag, threads=1)
        search.on_trial_complete("a", {"document": json.dumps(result.to_json())})
    return folder


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    ("umask", "database"),
    [(0o022, "sqlite"), (0o002, "sqlite"), (0o002, "journal"), (0o077, "sqlite")],
    indirect=["umask"],
)
def test_the_umask_decides_over_all_that_is_written(tmp_path, monkeypatch, capsys, umask, database):
    """While a study is driven, too: SQLite's log, the locks and the driver's note."""
    home = tmp_path / "new"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
    data = write_d4rl(tmp_path / "data.hdf5")
    command = ["data", "import", str(data), "--env", "Hopper-v5", "--name", "my/hopper-v0"]
    assert sdw(capsys, *command)[0] == 0
    folder = finished(home / "studies", f"study.database={database}")
    (rows,) = export(folder, [0])
    with ComparisonFolder.opened(load_comparison("compare-quick"), home / "studies") as comparison:
        book = folder.book()
        with folder.driving():
            book.study.set_user_attr("note", "so that there is a log")
            modes = {path: path.stat().st_mode & 0o777 for path in home.rglob("*")}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}
    assert modes == expected
    assert {"comparison.yaml", "study.yaml", "driver.lock", "driver.json", "edit.lock"} < {
        path.name for path in modes
    }
    assert {rows / "synthetic.safetensors", comparison.path, folder.trial(0) / "lock"} < set(modes)
    assert database == "journal" or folder.path / "study.db-wal" in modes


@pytest.fixture(scope="module", params=["sqlite", "journal"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return finished(tmp_path_factory.mktemp("studies"), f"study.database={request.param}")


@pytest.fixture
def read_only(study: StudyFolder, tmp_path: Path) -> Iterator[StudyFolder]:
    """A copy of which nothing can be written."""
    copy = StudyFolder(Path(shutil.copytree(study.path, tmp_path / "copy")))
    everything = [copy.path, *copy.path.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & 0o555)
    yield copy
    for path in everything:
        with suppress(FileNotFoundError):
            path.chmod(path.stat().st_mode | 0o200)


AS_ANY_USER = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"]
"""Root writes what it likes only by this capability."""
if os.getuid() != 0:
    AS_ANY_USER = []


RUN = """if True:
    import contextlib, io, json, sys
    from study.cli import main
    for command in json.loads(sys.argv[1]):
        sys.argv[1:] = command
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try: main()
            except SystemExit as leaving: status = leaving.code
        print(json.dumps([status or 0, out.getvalue(), err.getvalue()]))
"""


def run(*commands: list[object]) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each, one after the other in one process."""
    given = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [*AS_ANY_USER, sys.executable, "-c", RUN, given], capture_output=True, text=True, check=True
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def times(folder: StudyFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


def test_a_study_that_cannot_be_written_is_looked_at_and_exported_from(read_only, tmp_path):
    before = times(read_only)
    looked, listed, exported = run(
        ["status", read_only.path, "--json"],
        ["cache", "list", read_only.path, "--json"],
        ["export", read_only.path, "--to", tmp_path / "best", "--json"],
    )
    assert (looked[0], listed[0], exported[0]) == (0, 0, 0), (looked, listed, exported)
    document = json.loads(looked[1])
    assert (document["state"], document["best"]) == ("finished", [0])
    assert {entry["stage"] for entry in json.loads(listed[1])["entries"]} >= {"density", "expert"}
    assert json.loads(exported[1])["folders"] == [str(tmp_path / "best" / "trial-0")]
    assert times(read_only) == before


@pytest.mark.slow
def test_the_dashboard_serves_a_study_that_cannot_be_written(read_only):
    before = times(read_only)
    serve = [*AS_ANY_USER, sys.executable, "-m", "study.cli", "dashboard", str(read_only.path)]
    with subprocess.Popen([*serve, "--port", "0"], stderr=subprocess.PIPE, text=True) as dashboard:
        try:
            said = "".join(dashboard.stderr.readline() for _ in range(4))
            assert read_only.name in read(f"{addresses(said)[0]}api/studies")
        finally:
            dashboard.kill()
    assert times(read_only) == before


def test_what_would_write_into_it_is_refused_and_does_not_call_it_damaged(read_only):
    path = read_only.path
    said = run(
        ["resume", path],
        ["extend", path, "--trials", 1],
        ["retry-failed", path],
        ["stop", path],
        ["status", path, "--rebuild"],
        ["cache", "prune", path, "--all"],
        ["export", path],
    )
    assert len(said) == 7
    for status, out, err in said:
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert "cannot be written (Permission denied)" in err


def test_a_driver_is_seen_in_a_folder_that_cannot_be_written(read_only):
    code = "import sys; from study.folder import *; print(StudyFolder(Path(sys.argv[1])).driven())"
    looking = [*AS_ANY_USER, sys.executable, "-c", code, read_only.path]
    (read_only.path / "driver.lock").chmod(0o644)
    with FileLock(read_only.path / "driver.lock"):
        held = subprocess.run(looking, capture_output=True, text=True, check=True).stdout
    left = subprocess.run(looking, capture_output=True, text=True, check=True).stdout
    assert (held, left) == ("True\n", "False\n")


def test_a_study_that_runs_is_looked_at_by_who_may_only_read(study, tmp_path):
    """SQLite's log is there then, and says more than the database."""
    copy = StudyFolder(Path(shutil.copytree(study.path, tmp_path / "copy")))
    copy.extend(1)
    book = copy.book()
    StudySearch(book).suggest("b")
    copy.path.chmod(0o555)
    try:
        ((status, out, err),) = run(["status", copy.path, "--json"])
    finally:
        copy.path.chmod(0o755)
    assert (status, err) == (0, "")
    assert len(json.loads(out)["trials"]) == 2


def test_a_study_that_was_never_begun_says_so(folder):
    folder.path.chmod(0o555)
    try:
        ((status, out, err),) = run(["status", folder.path])
    finally:
        folder.path.chmod(0o755)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "never begun, or the database was lost" in err
