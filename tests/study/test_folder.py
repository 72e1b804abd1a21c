"""Study folders: made whole or not at all, found by name or path, driven by one process."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import sleep, time

import optuna
import pytest

from sdw_core.errors import InputError
from sdw_core.files import write_json
from study.driver import PRESUMED_DEAD
from study.folder import StudyFolder
from study.preflight import check_writable
from study.search import StudySearch
from tests.study.conftest import small_spec


def test_a_comparison_is_not_taken_for_a_study(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparison.yaml").touch()
    said = f"'mine' is a comparison, .* what came of it with `sdw report {tmp_path / 'mine'}`"
    with pytest.raises(InputError, match=said):
        StudyFolder.find("mine", tmp_path)


def test_a_new_folder_holds_the_resolved_spec_and_a_link_to_the_cache(folder):
    assert sorted(path.name for path in folder.path.iterdir()) == ["cache", "study.yaml"]
    assert folder.spec() == small_spec("study.database=sqlite")
    assert folder.name == "hopper-quickstart"


def test_a_way_on_can_be_given_in_any_folder(tmp_path, monkeypatch):
    """Whatever the storage is, and whatever a shell makes of its path."""
    monkeypatch.chdir(tmp_path)
    StudyFolder.create(small_spec(), Path("our studies %x"))
    with pytest.raises(InputError) as refused:
        StudyFolder.create(small_spec(), Path("our studies %x"))
    command = re.search("`sdw resume ([^`]*)`", str(refused.value))
    monkeypatch.chdir("/")
    (reference,) = shlex.split(command[1])
    assert StudyFolder.find(reference, Path("sdw-studies")).path.parent.name == "our studies %x"


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_storage_that_is_a_file_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(InputError, match=r"cannot be written .*`storage`"):
        StudyFolder.create(small_spec(), file / below)
    assert list(tmp_path.iterdir()) == [file]


def test_a_storage_that_takes_no_folder_is_refused():
    with pytest.raises(InputError, match="cannot be written"):
        StudyFolder.create(small_spec(), Path("/proc/studies"))
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(Path("/proc/studies"), "to")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("study.trials=99", "with this very spec"), ("study.seed=5", "with another spec")],
)
def test_a_study_that_exists_is_refused_with_the_ways_on(folder, override, sentence):
    with pytest.raises(InputError, match=f"{sentence}.*sdw resume|{sentence}.*`name`"):
        StudyFolder.create(small_spec(override), folder.path.parent)
    assert folder.spec() == small_spec("study.database=sqlite")


def test_a_study_that_another_launch_makes_meanwhile_is_refused_as_any_other(tmp_path, monkeypatch):
    def made_meanwhile(*arguments: object) -> None:
        monkeypatch.undo()
        StudyFolder.create(small_spec(), tmp_path)

    monkeypatch.setattr("study.folder.require_unused", made_meanwhile)
    with pytest.raises(InputError, match="exists with this very spec; go on with `sdw resume"):
        StudyFolder.create(small_spec(), tmp_path)


def test_a_study_whose_spec_is_broken_is_refused_and_not_called_no_study(folder):
    (folder.path / "study.yaml").write_text("study: [")
    with pytest.raises(InputError, match=r"study\.yaml' is not valid YAML at line 1"):
        StudyFolder.create(small_spec(), folder.path.parent)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "hopper-quickstart").mkdir()
    with pytest.raises(InputError, match="is no study"):
        StudyFolder.create(small_spec(), tmp_path)


def test_a_study_is_found_by_its_name_and_by_its_path(folder, tmp_path):
    assert StudyFolder.find("hopper-quickstart", tmp_path) == folder
    assert StudyFolder.find(str(folder.path), tmp_path / "elsewhere") == folder


def test_a_study_that_is_not_there_names_the_nearest(folder, tmp_path):
    with pytest.raises(InputError, match="did you mean `hopper-quickstart`"):
        StudyFolder.find("hoper-quickstart", tmp_path)
    with pytest.raises(InputError, match="holds no study yet"):
        StudyFolder.find("any", tmp_path / "empty")


def test_a_process_that_drives_a_study_is_seen_until_it_dies(folder):
    assert not folder.driven()
    code = (
        "import sys; from pathlib import Path; from study.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).seat.lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, folder.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout.readline() == "held\n"
        assert folder.driven()
        driver.kill()
    assert not folder.driven()


def test_who_looks_for_a_driver_is_not_taken_for_one(folder):
    with folder.driving():
        pass
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda _: folder.driven(), range(400)))
    assert not any(seen)


def test_a_driver_says_who_it_is_while_it_drives_and_refuses_a_second(folder):
    with folder.driving():
        driver = folder.driver()
        assert driver == {"host": socket.gethostname(), "pid": os.getpid()}
        with pytest.raises(InputError, match=f"is being run by process {os.getpid()} on "):
            folder.driving().__enter__()
    assert folder.driver() == {}
    assert not folder.driven()


def test_a_dead_drivers_study_is_taken_over_at_once(folder):
    write_json(folder.seat.note, {"host": socket.gethostname(), "pid": 2**22 + 1})
    assert not folder.driven()
    with folder.driving():
        assert folder.driver()["pid"] == os.getpid()


def test_a_driver_on_another_host_lives_for_as_long_as_it_gives_signs_of_life(folder):
    """Its lock does not show here, as on a network file system that keeps locks to their host."""
    write_json(folder.seat.note, {"host": "elsewhere", "pid": 42})
    assert folder.driven()
    with pytest.raises(InputError, match="is being run by process 42 on elsewhere"):
        folder.driving().__enter__()
    silent = time() - PRESUMED_DEAD - 1
    os.utime(folder.path / "driver.json", (silent, silent))
    assert not folder.driven()
    with folder.driving():
        assert folder.driver()["host"] == socket.gethostname()


def test_a_driver_gives_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr("study.driver.HEARTBEAT", 0.01)
    file = folder.path / "driver.json"
    with folder.driving():
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            sleep(0.01)
    assert not file.exists()


def test_more_trials_change_nothing_else(folder):
    before = folder.spec()
    assert folder.extend(3) == before.study.trials + 3
    after = folder.spec()
    assert after.study.trials == before.study.trials + 3
    assert after.identity == before.identity
    assert after.model_copy(update={"study": before.study}) == before


# What a refused launch leaves


def refused(storage: Path, *overrides: str, meanwhile: Callable[[StudyFolder], object]) -> None:
    """A launch that bad input ends after its folder was made, and after something else happened."""

    def launch() -> None:
        with StudyFolder.launched(small_spec(*overrides), storage) as folder:
            meanwhile(folder)
            raise InputError("refused")

    with pytest.raises(InputError, match="refused"):
        launch()


@pytest.mark.parametrize("database", ["sqlite", "journal"])
def test_a_launch_that_is_refused_leaves_nothing(tmp_path, database):
    def begin(folder: StudyFolder) -> None:
        folder.book()
        folder.stop_flag.touch()
        with folder.edit_lock(), folder.driving():
            pass

    storage = tmp_path / "new" / "studies"
    refused(storage, f"study.database={database}", meanwhile=begin)
    assert list(tmp_path.iterdir()) == []


def test_a_storage_folder_that_was_there_stays(tmp_path):
    (tmp_path / "studies").mkdir()
    refused(tmp_path / "studies", meanwhile=StudyFolder.book)
    assert list(tmp_path.iterdir()) == [tmp_path / "studies"]
    assert list((tmp_path / "studies").iterdir()) == []


def test_a_trial_that_was_begun_is_never_taken_back(tmp_path):
    refused(tmp_path, meanwhile=lambda folder: folder.trial(0).mkdir(parents=True))
    (folder,) = (file.parent for file in tmp_path.glob("*/study.yaml"))
    assert StudyFolder(folder).spec() == small_spec("study.database=sqlite")


def test_what_another_put_into_the_folder_is_never_removed(tmp_path):
    refused(tmp_path, meanwhile=lambda folder: (folder.path / "notes.txt").write_text("precious"))
    assert [path.read_text() for path in tmp_path.rglob("*.*")] == ["precious"]


DRIVER = (
    "import sys; from pathlib import Path; from study.folder import StudyFolder\n"
    "with StudyFolder(Path(sys.argv[1])).driving():\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def test_a_study_that_another_took_meanwhile_is_not_taken_back(tmp_path):
    """Whoever comes between a launch's folder and its driver drives the study that it found."""
    with ExitStack() as running:

        def taken(folder: StudyFolder) -> None:
            command = [sys.executable, "-c", DRIVER, folder.path]
            pipe = subprocess.PIPE
            driver = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            running.enter_context(driver)
            assert driver.stdout.readline() == "held\n"

        refused(tmp_path, meanwhile=taken)
        (path,) = (file.parent for file in tmp_path.glob("*/study.yaml"))
        assert StudyFolder(path).driven()
        assert StudyFolder(path).spec() == small_spec("study.database=sqlite")


def test_a_study_that_another_host_drives_is_not_taken_back(tmp_path):
    away = {"host": "elsewhere", "pid": 42}
    refused(tmp_path, meanwhile=lambda folder: write_json(folder.seat.note, away))
    assert StudyFolder(tmp_path / "hopper-quickstart").spec()


# A folder that was copied or renamed


@pytest.mark.parametrize("database", ["sqlite", "journal"])
@pytest.mark.parametrize("move", [Path.rename, shutil.copytree])
def test_a_study_goes_on_under_another_name(tmp_path, database, move):
    """Its trials stay its own: a copy's are not the original's."""
    folder = StudyFolder.create(small_spec(f"study.database={database}"), tmp_path)
    search = StudySearch(folder.book())
    search.suggest("a")
    folder.book().study._storage.remove_session()
    move(folder.path, tmp_path / "another")
    other = StudyFolder(tmp_path / "another")
    assert [row.outcome for row in other.book().rows()] == ["RUNNING"]
    again = other.book(to_write=True)
    again.reconcile()
    assert StudySearch(again).suggest("b")["number"] == 0
    StudySearch(again).suggest("c")
    assert len(other.book().rows()) == 2
    if folder.path.exists():
        assert len(folder.book().rows()) == 1
    rebuilt, _ = other.rebuild()
    assert len(rebuilt.rows()) == len(other.book().rows()) == 2


def test_a_copy_of_a_study_on_a_server_can_be_looked_at_and_not_gone_on_with(tmp_path, url):
    folder = StudyFolder.create(small_spec(f"study.database={url}"), tmp_path)
    StudySearch(folder.book(to_write=True)).suggest("a")
    copy = StudyFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    assert [row.outcome for row in copy.book().rows()] == ["RUNNING"]
    for write in (lambda: copy.book(to_write=True), copy.rebuild):
        with pytest.raises(InputError, match=f"is a copy of .*sdw resume {folder.path}`.*`name`"):
            write()
    assert [row.outcome for row in folder.book(to_write=True).rows()] == ["RUNNING"]
    shutil.rmtree(folder.path)  # then the copy is what is left of it
    assert [row.outcome for row in copy.book(to_write=True).rows()] == ["RUNNING"]
    rebuilt, kept = copy.rebuild()
    assert kept.startswith(f"{folder.name}.damaged-")
    assert [row.outcome for row in rebuilt.rows()] == ["WAITING"]
    assert optuna.study.get_all_study_names(url) == [kept, "copy"]


def test_two_rebuilds_keep_two_databases(folder):
    StudySearch(folder.book()).suggest("a")
    kept = {folder.rebuild()[1] for _ in range(3)}
    assert len(kept) == 3
    assert all(Path(path).exists() for path in kept)


# A database that studies share


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shared.db"


def test_a_database_may_be_a_url(tmp_path, url):
    folder = StudyFolder.create(small_spec(f"study.database={url}"), tmp_path)
    StudySearch(folder.book()).suggest("a")
    assert not (folder.path / "study.db").exists()
    assert optuna.study.get_all_study_names(url) == [folder.name]
    assert [row.outcome for row in folder.book().rows()] == ["RUNNING"]


def test_two_studies_of_one_name_never_share_their_trials(tmp_path, url):
    spec = small_spec(f"study.database={url}")
    StudyFolder.create(spec, tmp_path / "mine").book()
    with pytest.raises(InputError, match="holds a study named 'hopper-quickstart' already"):
        StudyFolder.create(spec, tmp_path / "yours")
    assert not (tmp_path / "yours").exists()


def test_what_a_refused_launch_made_in_a_database_on_a_server_goes_again(tmp_path, url):
    database = f"study.database={url}"
    refused(tmp_path / "mine", database, meanwhile=StudyFolder.book)
    assert optuna.study.get_all_study_names(url) == []
    kept = StudyFolder.create(small_spec(database), tmp_path / "yours")
    with (
        pytest.raises(InputError, match="holds a study named"),
        StudyFolder.launched(small_spec(database), tmp_path / "mine"),
    ):
        pass
    assert optuna.study.get_all_study_names(url) == [kept.name]
    assert not (tmp_path / "mine").exists()


def test_two_launches_at_once_never_share_a_place_in_a_database(tmp_path, url, monkeypatch):
    def taken_meanwhile(*arguments: object) -> None:
        monkeypatch.undo()
        StudyFolder.create(small_spec(f"study.database={url}"), tmp_path / "yours")

    monkeypatch.setattr("study.folder.require_unused", taken_meanwhile)
    with pytest.raises(InputError, match="holds a study named 'hopper-quickstart' already"):
        StudyFolder.create(small_spec(f"study.database={url}"), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("database", ["nonsense", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_opened_is_refused_before_anything_is_made(tmp_path, database):
    with pytest.raises(InputError, match=r"`study\.database` cannot be opened"):
        StudyFolder.create(small_spec(f"study.database={database}"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["sqlite:///shared.db", "sqlite://", "sqlite:///:memory:", "sqlite+pysqlite:///a/b.db"]
)
def test_a_url_that_names_another_database_from_elsewhere_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"one database wherever it is read.*`sqlite`"):
        StudyFolder.create(small_spec(f"study.database='{url}'"), tmp_path / "studies")
    assert list(tmp_path.iterdir()) == []
