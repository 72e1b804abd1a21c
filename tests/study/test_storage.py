"""Every kind of database keeps the same record, and can be made anew from the trials' folders."""

import json
import multiprocessing
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from sdw_core.errors import InputError, SDWError
from sdw_core.files import read_json, write_json
from study.attempts import WORKER_DEATHS
from study.book import TrialBook
from study.folder import StudyFolder
from study.search import StudySearch
from study.storage import cut_torn_line, on_network
from study.trial import config_hash
from tests.study import postgres
from tests.study.conftest import small_spec
from tests.study.pages import addresses, dashboard
from tests.study.pages import read as served
from tests.study.reports import dies, report

KINDS = [
    "sqlite",
    "journal",
    pytest.param("url", id="a URL"),
    pytest.param("postgres", marks=pytest.mark.skipif(not postgres.BIN, reason="needs PostgreSQL")),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=KINDS)
def study(request, tmp_path, monkeypatch) -> StudyFolder:
    """A study in each kind of database."""
    database = request.param
    name = "hopper-quickstart"
    if database == "url":
        database = f"sqlite:///{tmp_path}/shared.db"
    if database == "postgres":
        database = request.getfixturevalue("server")
        monkeypatch.setenv("SDW_TEST_PASSWORD", postgres.PASSWORD)
        name = tmp_path.name  # the tests share the server
    spec = small_spec(f"study.database={database}", f"study.name={name}")
    return StudyFolder.create(spec, tmp_path)


def content(book: TrialBook) -> list[object]:
    """All that the record says, in an order of its own."""
    return [
        (t.number, t.state, t.params, t.values, t.distributions, t.intermediate_values)
        for t in book.trials()
    ] + list[object](book.rows())


def a_varied_study(folder: StudyFolder) -> None:
    """Trials of every outcome; the last one is under way, and its driver is dead."""
    book = folder.book()
    search = StudySearch(book)
    for name in ("complete", "failed", "nan", "died", "pruned"):
        search.suggest(name)
    search.on_trial_complete("complete", report(normalized_return=41.5))
    search.on_trial_complete("failed", report("FAILED"))
    search.on_trial_complete("nan", report(normalized_return=float("nan")))
    for _ in range(WORKER_DEATHS):
        dies(search, "died")
        search.suggest("died")
    dies(search, "died")
    running = book.trials(TrialState.RUNNING)[0]
    book.study._storage.set_trial_intermediate_value(running._trial_id, 3, 12.5)
    search.on_trial_complete("pruned", report("PRUNED"))
    search.suggest("stopped")
    search.on_trial_complete("stopped", report("STOPPED"))
    search = StudySearch(folder.book())
    search.suggest("stopped, asked again")
    search.suggest("reported, not recorded")
    write_result(folder, 6, 7.0)
    folder.book().retry_failed()


def write_result(folder: StudyFolder, number: int, value: float) -> None:
    params = read_json(folder.trial(number) / "record.json")["params"]
    write_json(
        folder.trial(number) / "result.json",
        {
            "outcome": "COMPLETE",
            "metrics": {"normalized_return": value},
            "config_hash": config_hash(folder.spec().pipeline_with(params)),
        },
    )


def test_a_study_is_searched_stopped_and_gone_on_with(study):
    search = StudySearch(study.book())
    first, second = search.suggest("a"), search.suggest("b")
    search.on_trial_complete("a", report(normalized_return=4.0))
    search.on_trial_complete("b", report("STOPPED"))
    again = StudySearch(study.book())
    assert again.suggest("c") == second
    again.on_trial_complete("c", report(normalized_return=5.0))
    assert again.suggest("d")["number"] == 2
    rows = study.book().rows()
    assert [row.outcome for row in rows] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert [row.params for row in rows[:2]] == [first["params"], second["params"]]
    assert study.book().best() == [1]


def test_the_dashboard_serves_it(study):
    StudySearch(study.book()).suggest("a")
    with dashboard(study, "--port", "0") as (_, said):
        page = f"{addresses(said)[0]}api/studies"
        (number,) = [
            each["study_id"]
            for each in json.loads(served(page))["study_summaries"]
            if each["study_name"] == study.name
        ]
        assert "weighting.temperature" in served(f"{page}/{number}")


def test_a_rebuilt_database_says_what_the_old_one_said(study):
    a_varied_study(study)
    before = study.book()
    before.reconcile()
    said = content(before)
    book, kept = study.rebuild()
    assert kept is not None
    assert "damaged-" in kept
    assert content(book) == content(study.book()) == said
    assert [row.outcome for row in book.rows()] == [
        *("COMPLETE", "FAILED", "FAILED", "FAILED", "PRUNED", "WAITING", "COMPLETE"),
        *("WAITING", "WAITING", "WAITING"),
    ]
    assert [row.retry_of for row in book.rows()] == [None] * 7 + [1, 2, 3]
    waiting = {t.number: t.params for t in before.trials(TrialState.WAITING)}
    search = StudySearch(study.book())
    asked = [search.suggest(str(i)) for i in range(5)]
    assert {t["number"]: t["params"] for t in asked[:4]} == waiting
    assert asked[4]["number"] == 10


def test_what_was_there_is_kept_whole(study):
    a_varied_study(study)
    book = study.book()
    book.reconcile()
    said = [(t.number, t.state, t.params, t.values) for t in book.trials()]
    _, kept = study.rebuild()
    kept_study = opened(study, kept)
    assert [(t.number, t.state, t.params, t.values) for t in kept_study.get_trials()] == said


def opened(folder: StudyFolder, kept: str) -> optuna.Study:
    """What was set aside, where it is now."""
    database = folder.spec().study.database
    if database == "sqlite":
        return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{kept}")
    if database == "journal":
        backend = optuna.storages.journal.JournalFileBackend(kept)
        return optuna.load_study(
            study_name=folder.name, storage=optuna.storages.JournalStorage(backend)
        )
    return optuna.load_study(study_name=kept, storage=folder.book()._storage)


def test_a_rebuild_under_a_living_driver_is_refused(folder):
    StudySearch(folder.book()).suggest("a")
    code = (
        "import sys; from pathlib import Path; from study.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).driving():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, folder.path]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdout.readline() == "held\n"
        before = sorted(folder.path.iterdir())
        with pytest.raises(InputError, match=f"is being run by process {driver.pid} on "):
            folder.rebuild()
        assert sorted(folder.path.iterdir()) == before
        driver.stdin.close()


@pytest.mark.parametrize("database", ["sqlite", "journal"])
@pytest.mark.parametrize("damage", ["overwritten", "cut in half", "lost"])
def test_a_damaged_database_is_named_and_can_be_rebuilt(tmp_path, database, damage):
    folder = StudyFolder.create(small_spec(f"study.database={database}"), tmp_path)
    a_varied_study(folder)
    book = folder.book()
    book.reconcile()
    said = content(book)
    book.study._storage.remove_session()
    path = folder.path / ("study.db" if database == "sqlite" else "study.journal")
    for companion in folder.path.glob("study.db-*"):
        companion.unlink()
    if damage == "lost":
        path.unlink()
    else:
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(b"\x00no\n" * 999 if damage == "overwritten" else whole[middle:])
        with pytest.raises(SDWError, match=r"cannot be read .*sdw status .* --rebuild") as failure:
            folder.book()
        assert not isinstance(failure.value, InputError)
    rebuilt, kept = folder.rebuild()
    assert (kept is None) == (damage == "lost")
    assert content(rebuilt) == content(folder.book()) == said


@pytest.mark.parametrize("loss", ["removed", "emptied"])
def test_a_database_that_holds_nothing_of_a_study_does_not_begin_it_again(tmp_path, loss):
    folder = StudyFolder.create(small_spec(), tmp_path)
    a_varied_study(folder)
    book = folder.book()
    book.reconcile()
    said = content(book)
    book.study._storage.remove_session()
    for file in folder.path.glob("study.db*"):
        file.unlink()
    if loss == "emptied":
        (folder.path / "study.db").touch()
    records = {path: path.read_bytes() for path in folder.path.glob("trials/*/*.json")}
    with pytest.raises(SDWError, match=r"holds nothing of it.*sdw status .* --rebuild") as failure:
        folder.book()
    assert not isinstance(failure.value, InputError)
    assert {path: path.read_bytes() for path in folder.path.glob("trials/*/*.json")} == records
    rebuilt, _ = folder.rebuild()
    assert content(rebuilt) == content(folder.book()) == said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("outer_steps: 6", "outer_steps: 7"),
        ("low: 16", "low: 17"),
        ("mode: max", "mode: min"),
        ("study:", "study: ["),
        ("seed: 0", "sede: 0"),
    ],
)
def test_a_rebuild_by_an_edited_spec_is_refused_before_anything_is_touched(folder, old, new):
    StudySearch(folder.book()).suggest("a")
    spec = folder.path / "study.yaml"
    right = spec.read_text()
    assert old in right
    spec.write_text(right.replace(old, new))
    before = {path.name for path in folder.path.iterdir()}
    with pytest.raises(InputError, match=r"another spec|study\.yaml' is not valid|`study.sede`"):
        folder.rebuild()
    assert {path.name for path in folder.path.iterdir()} - {"driver.lock"} == before
    spec.write_text(right)
    assert [row.outcome for row in folder.book().rows()] == ["RUNNING"]


def test_rungs_that_unfinished_trials_came_by_are_restored(tmp_path):
    stopping = "study.early_stopping={grace: 0.34, reduction_factor: 2}"
    folder = StudyFolder.create(small_spec(stopping), tmp_path)
    search = StudySearch(folder.book(), folder_of=folder.trial)
    for number, name in enumerate("ab"):
        search.suggest(name)
        document = {"rung": 2, "return": 5.0 + number}
        search.on_trial_result(name, {"document": json.dumps(document)})
    said = [trial.intermediate_values for trial in folder.book().trials()]
    assert said == [{2: 5.0}, {2: 6.0}]
    book, _ = folder.rebuild()
    assert [trial.intermediate_values for trial in book.trials()] == said


def test_a_rebuild_that_was_interrupted_is_not_taken_for_a_study(folder):
    a_varied_study(folder)
    book = folder.book()
    book.reconcile()
    said = content(book)
    write_json(folder.path / "rebuilding", None)
    (folder.path / "study.db").unlink()
    with pytest.raises(SDWError, match="begin again with `sdw status"):
        folder.book()
    rebuilt, _ = folder.rebuild()
    assert content(rebuilt) == content(folder.book()) == said


def test_a_number_whose_record_is_lost_is_asked_anew_under_that_number(folder):
    a_varied_study(folder)
    book = folder.book()
    book.reconcile()
    said = {t.number: t.params for t in book.trials()}
    (folder.trial(0) / "record.json").unlink()
    (folder.trial(2) / "record.json").write_text('{"number": 2, "par')
    book, _ = folder.rebuild()
    assert {t.number: t.params for t in book.trials()} == said | {0: {}, 2: {}}
    search = StudySearch(folder.book())
    asked = [search.suggest(str(i)) for i in range(2)]
    assert [t["number"] for t in asked] == [0, 2]
    assert all(set(t["params"]) == set(said[0]) for t in asked)


# Passwords


@pytest.mark.skipif(not postgres.BIN, reason="needs PostgreSQL")
def test_a_password_comes_from_the_environment_and_is_written_nowhere(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("SDW_TEST_PASSWORD", postgres.PASSWORD)
    spec = small_spec(f"study.database={server}", f"study.name={tmp_path.name}")
    folder = StudyFolder.create(spec, tmp_path)
    folder.book()
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert files
    assert not any(postgres.PASSWORD in path.read_text() for path in files)
    monkeypatch.setenv("SDW_TEST_PASSWORD", "wrong")
    with pytest.raises(InputError, match="cannot be opened: it does not take the user or the pass"):
        folder.book()
    monkeypatch.delenv("SDW_TEST_PASSWORD")
    with pytest.raises(InputError, match="SDW_TEST_PASSWORD, which is not set"):
        folder.book()


@pytest.mark.skipif(not postgres.BIN, reason="needs PostgreSQL")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("${SDW_TEST_PASSWORD}", "${WRONG}"), "or the password; correct"),
        (lambda url: url.replace("sdw:", "nobody:"), "does not take the user"),
        (lambda url: url.replace(":${SDW_TEST_PASSWORD}", ""), "wants a password.*PGPASSWORD"),
        (lambda url: f"{url.rpartition('/')[0]}/nowhere", "no database of that name.*createdb"),
        (lambda url: re.sub(r":\d+/", ":1/", url), "no server listens there"),
        (lambda url: url.replace("127.0.0.1", "nowhere.invalid"), "its host is not known"),
        (lambda url: "postgresql://sdw@/x?host=/nowhere", "no server listens there"),
        (lambda url: url.replace("postgresql:", "postgresql+nothing:"), "is no URL of a database"),
        (lambda url: url.replace("postgresql:", "postgresql+pg8000:"), "driver is not installed"),
        (lambda url: re.sub(r":\d+/", ":port/", url), "is no URL of a database"),
        (lambda url: f"{url}?nonsense=1", 'invalid connection option "nonsense"; give'),
        (lambda url: f"{url}{{nonsense}}", "is no URL of a database"),
    ],
)
def test_what_is_wrong_with_a_server_is_told_apart(server, tmp_path, monkeypatch, change, said):
    monkeypatch.setenv("SDW_TEST_PASSWORD", postgres.PASSWORD)
    monkeypatch.setenv("WRONG", "hunter2")
    spec = small_spec(f"study.database={change(server)}", f"study.name={tmp_path.name}")
    with pytest.raises(
        InputError, match=rf"`study\.database` cannot be opened: .*{said}"
    ) as refusal:
        StudyFolder.require_free(spec, tmp_path)
    told = str(refusal.value)
    assert "\n" not in told
    assert not any(secret in told for secret in ("hunter2", postgres.PASSWORD, "p%40ss"))


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@127.0.0.1:1/x", "postgresql://127.0.0.1:1/x?password=hunter2"]
)
def test_a_password_in_a_spec_is_refused_and_not_repeated(tmp_path, url):
    with pytest.raises(InputError, match=r"holds a password.*PGPASSWORD") as refusal:
        StudyFolder.create(small_spec(f"study.database={url}"), tmp_path)
    assert "hunter2" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["sqlite:///x?y", "sqlite:///x", "sqlite://", "sqlite:////x?mode=ro"]
)
def test_a_file_that_is_another_one_from_another_folder_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"an SQLite file by its whole path.*or give `sqlite`"):
        StudyFolder.require_free(small_spec(f"study.database={url}"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_looking_whether_a_name_is_free_makes_no_file(tmp_path):
    spec = small_spec(f"study.database=sqlite:///{tmp_path}/shared.db")
    StudyFolder.require_free(spec, tmp_path)
    assert list(tmp_path.iterdir()) == []
    missing = small_spec(f"study.database=sqlite:///{tmp_path}/gone/shared.db")
    with pytest.raises(InputError, match="cannot be opened"):
        StudyFolder.require_free(missing, tmp_path)


# Where a study lies


@pytest.mark.parametrize(
    ("kind", "database"),
    [
        *[
            (k, "journal")
            for k in ("nfs", "nfs4", "cifs", "lustre", "gpfs", "beegfs", "fuse.sshfs")
        ],
        *[(k, "sqlite") for k in ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs")],
    ],
)
def test_auto_is_a_journal_on_a_network_file_system(tmp_path, monkeypatch, kind, database):
    """Mounting one takes a server: only the table of mounts is made up."""
    mounts = [("/", "ext4"), (str(tmp_path / "shared"), kind), (str(tmp_path / "sha"), "nfs")]
    table = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: table)
    folder = StudyFolder.create(small_spec(), tmp_path / "shared" / "studies")
    assert folder.spec().study.database == database
    assert StudyFolder.create(small_spec(), tmp_path / "own").spec().study.database == "sqlite"
    monkeypatch.undo()
    folder.book()
    files = {"journal": "study.journal", "sqlite": "study.db"}
    assert (folder.path / files[database]).exists()
    assert not any((folder.path / f).exists() for f in set(files.values()) - {files[database]})


def test_this_machine_has_mounts():
    assert not on_network(Path("/proc/self"))


ODD = ["really?", "runs #3", "50% data [old]", "Müller, Jürgen", "{a}", "a\nb", "'q\"", "x&y=z;~"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("database", ["sqlite", "journal"])
def test_a_study_lies_in_its_folder_whatever_that_is_called(tmp_path, name, database):
    """A `?` began a URL's query once, so that two studies shared a database outside of both."""
    studies = [
        StudyFolder.create(small_spec(f"study.database={database}"), tmp_path / name / each)
        for each in ("one", "two")
    ]
    for count, folder in enumerate(studies):
        search = StudySearch(folder.book())
        for i in range(count):
            search.suggest(str(i))
    assert [len(folder.book().rows()) for folder in studies] == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert all(
        (f.path / {"sqlite": "study.db", "journal": "study.journal"}[database]).exists()
        for f in studies
    )
    rebuilt, kept = studies[1].rebuild()
    assert Path(kept).parent == studies[1].path
    assert len(rebuilt.rows()) == 1


# A journal whose writer died


LINES = st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"") + b"\n"), max_size=4)


@given(lines=LINES, torn=st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")))
@settings(max_examples=100)
def test_only_what_follows_the_last_newline_is_cut(tmp_path_factory, lines, torn):
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    whole = b"".join(lines)
    path.write_bytes(whole + torn)
    cut_torn_line(path)
    assert path.read_bytes() == whole


def test_a_torn_last_line_costs_that_operation_only(tmp_path):
    folder = StudyFolder.create(small_spec("study.database=journal"), tmp_path)
    search = StudySearch(folder.book())
    search.suggest("a")
    search.on_trial_complete("a", report(normalized_return=3.0))
    journal = folder.path / "study.journal"
    whole = journal.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    journal.write_bytes(whole[: -len(last) // 2])
    assert [row.outcome for row in folder.book().rows()] == ["RUNNING"]
    book = folder.book()
    book.reconcile()
    search = StudySearch(book)
    assert search.suggest("b")["number"] == 0
    search.on_trial_complete("b", report(normalized_return=3.0))
    assert [row.values for row in folder.book().rows()] == [[3.0]]


LOCKED = """if True:
    import os, sys
    from pathlib import Path
    from study.folder import StudyFolder
    storage = StudyFolder(Path(sys.argv[1])).book().study._storage
    storage._backend._lock.acquire()
    os.kill(os.getpid(), 9)
"""


def test_a_journal_is_opened_where_it_was_moved_to_after_a_kill(tmp_path, monkeypatch):
    """The lock of the process that died is there, and what it was made beside is not."""
    folder = StudyFolder.create(small_spec("study.database=journal"), tmp_path)
    StudySearch(folder.book()).suggest("a")
    subprocess.run([sys.executable, "-c", LOCKED, folder.path], check=False)
    assert (folder.path / "study.journal.lock").is_symlink() is False
    assert (folder.path / "study.journal.lock").exists()
    (tmp_path / "elsewhere").mkdir()
    moved = StudyFolder(folder.path.rename(tmp_path / "elsewhere" / folder.name))
    monkeypatch.setattr("study.storage.STALE_LOCK", 3)
    assert [row.outcome for row in moved.book().rows()] == ["RUNNING"]


# Many at once

EXTENSIONS, READS = 5, 5


def extend(path: Path) -> None:
    for _ in range(EXTENSIONS):
        StudyFolder(path).extend(1)


def enqueue(path: Path) -> None:
    folder = StudyFolder(path)
    with folder.edit_lock():
        folder.book().retry_failed()


def read(path: Path, least: int) -> None:
    folder = StudyFolder(path)
    for _ in range(READS):
        assert folder.spec().study.trials >= least
        numbers = [row.number for row in folder.book().rows()]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("database", ["sqlite", "journal"])
def test_clients_that_extend_retry_and_read_at_once_corrupt_nothing(tmp_path, database):
    folder = StudyFolder.create(small_spec(f"study.database={database}"), tmp_path)
    search = StudySearch(folder.book())
    for name in "abc":
        search.suggest(name)
        search.on_trial_complete(name, report("FAILED"))
    before = folder.spec()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # imported once, not by each of them
    clients = [
        *[processes.Process(target=extend, args=[folder.path]) for _ in range(2)],
        *[processes.Process(target=enqueue, args=[folder.path]) for _ in range(2)],
        processes.Process(target=read, args=[folder.path, before.study.trials]),
    ]
    for client in clients:
        client.start()
    for name in "def":  # a driver goes on meanwhile
        search.suggest(name)
        search.on_trial_complete(name, report(normalized_return=1.0))
    for client in clients:
        client.join()
    assert [client.exitcode for client in clients] == [0] * len(clients)
    after = folder.spec()
    assert after.study.trials == before.study.trials + 2 * EXTENSIONS
    assert after.identity == before.identity
    rows = folder.book().rows()
    retries = [row for row in rows if row.retry_of is not None]
    assert sorted(row.retry_of for row in retries) == [0, 1, 2]
    assert all(row.params == rows[row.retry_of].params for row in retries)


def test_a_database_is_read_while_it_is_written(folder):
    """SQLite's log lets a reader in while a writer holds the database."""
    StudySearch(folder.book()).suggest("a")
    with sqlite3.connect(folder.path / "study.db") as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert [row.outcome for row in folder.book().rows()] == ["RUNNING"]
        writer.rollback()
    writer.close()


def test_a_record_is_json_of_what_the_database_says(folder):
    search = StudySearch(folder.book())
    asked = search.suggest("a")
    path = folder.trial(0) / "record.json"
    identity = folder.spec().identity
    assert json.loads(path.read_text()) == asked | {"outcome": None, "identity": identity}
    search.on_trial_complete("a", report(normalized_return=3.0))
    record = json.loads(path.read_text())
    (row,) = folder.book().rows()
    assert (record["outcome"], record["values"]) == (row.outcome, row.values)
    assert (record["params"], record["seconds"]) == (row.params, row.seconds)
