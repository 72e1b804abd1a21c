"""Study folders: made whole or not at all, found by name or path, driven by one process."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep, time

import optuna
import pytest

from sdw_core.errors import InputError
from study.folder import PRESUMED_DEAD, StudyFolder, check_writable
from study.search import StudySearch
from tests.study.conftest import small_spec


def test_a_new_folder_holds_the_resolved_spec_and_nothing_else(folder):
    assert [path.name for path in folder.path.iterdir()] == ["study.yaml"]
    assert folder.spec() == small_spec("study.database=sqlite")
    assert folder.name == "hopper-quickstart"


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_storage_that_is_a_file_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(InputError, match=r"cannot be written .*--storage"):
        StudyFolder.create(small_spec(), file / below)
    assert list(tmp_path.iterdir()) == [file]


def test_a_storage_that_takes_no_folder_is_refused():
    with pytest.raises(InputError, match="cannot be written"):
        StudyFolder.create(small_spec(), Path("/proc/studies"))
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(Path("/proc/studies"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("study.trials=99", "with this very spec"), ("study.seed=5", "with another spec")],
)
def test_a_study_that_exists_is_refused_with_the_ways_on(folder, override, sentence):
    with pytest.raises(InputError, match=f"{sentence}.*sdw resume|{sentence}.*--name"):
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
        "with StudyFolder(Path(sys.argv[1])).driver_lock():\n"
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


def test_who_looks_for_a_driver_is_not_taken_for_one(folder, monkeypatch):
    monkeypatch.setattr("study.folder.GLANCE", 60.0)
    with ThreadPoolExecutor(4) as threads:
        seen = list(threads.map(lambda _: folder.driven(), range(400)))
    assert not any(seen)


def test_a_driver_says_who_it_is_while_it_drives_and_refuses_a_second(folder):
    with folder.driving():
        assert folder.driver() == {"host": socket.gethostname(), "pid": os.getpid()}
        with pytest.raises(InputError, match=f"is being run by process {os.getpid()} on "):
            folder.driving().__enter__()
    assert folder.driver() == {}
    assert not folder.driven()


def test_a_dead_drivers_study_is_taken_over_at_once(folder):
    folder.write_driver({"host": socket.gethostname(), "pid": 2**22 + 1})
    assert not folder.driven()
    with folder.driving():
        assert folder.driver()["pid"] == os.getpid()


def test_a_driver_on_another_host_lives_for_as_long_as_it_gives_signs_of_life(folder):
    """Its lock does not show here, as on a network file system that keeps locks to their host."""
    folder.write_driver({"host": "elsewhere", "pid": 42})
    assert folder.driven()
    with pytest.raises(InputError, match="is being run by process 42 on elsewhere"):
        folder.driving().__enter__()
    silent = time() - PRESUMED_DEAD - 1
    os.utime(folder.path / "driver.json", (silent, silent))
    assert not folder.driven()
    with folder.driving():
        assert folder.driver()["host"] == socket.gethostname()


def test_a_driver_gives_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr("study.folder.HEARTBEAT", 0.01)
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


def test_a_folder_in_which_nothing_ran_can_be_taken_back(folder):
    folder.book()
    folder.remove_if_untouched()
    assert not folder.path.exists()


def test_a_folder_with_a_trial_is_kept(folder):
    folder.trial(0).mkdir(parents=True)
    folder.remove_if_untouched()
    assert folder.path.exists()


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


@pytest.mark.parametrize("database", ["nonsense", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_opened_is_refused_before_anything_is_made(tmp_path, database):
    with pytest.raises(InputError, match=r"`study\.database` cannot be opened"):
        StudyFolder.create(small_spec(f"study.database={database}"), tmp_path)
    assert list(tmp_path.iterdir()) == []
