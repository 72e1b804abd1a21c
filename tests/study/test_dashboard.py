"""`sdw dashboard`: two servers in one process, on loopback, gone when it is told to go."""

import signal
import socket
import subprocess
import threading

import psutil
import pytest

from sdw_core.files import write_json
from study.folder import StudyFolder
from study.search import StudySearch
from tests.study.conftest import small_spec
from tests.study.pages import SDW, addresses, dashboard, read


def test_it_serves_the_trials_and_tensorboard_on_loopback_only(folder):
    StudySearch(folder.book()).suggest("a")
    with dashboard(folder, "--port", "0") as (process, said):
        trials, curves = addresses(said)
        assert [line.split("  ")[0] for line in said.splitlines()] == [
            "trials (optuna-dashboard)",
            "curves (TensorBoard)",
            "processes (Ray dashboard)",
            "Ctrl-C ends it.",
        ]
        assert "only while the study runs" in said
        assert folder.name in read(f"{trials}api/studies")
        assert "tb-relative-root" in read(curves)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        listening = [
            connection.laddr
            for member in family
            for connection in member.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {address.ip for address in listening} == {"127.0.0.1"}
        assert {address.port for address in listening} == {
            int(address.rstrip("/").rpartition(":")[2]) for address in (trials, curves)
        }


def test_while_the_study_runs_the_ray_dashboard_is_named(folder):
    write_json(folder.seat.note, {"ray_dashboard": "127.0.0.1:4321"})
    with folder.seat.lock(), dashboard(folder, "--port", "0") as (_, said):
        assert addresses(said)[2] == "http://127.0.0.1:4321/"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it_and_all_that_it_started(folder, number):
    with dashboard(folder, "--port", "0") as (process, said):
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait() == 0
        assert not any(child.is_running() for child in children)
        for address in addresses(said):
            with pytest.raises(OSError, match="refused"):
                read(address)


def test_a_browser_that_connects_and_says_nothing_holds_nobody_up(folder):
    with dashboard(folder, "--port", "0") as (_, said):
        (trials, _) = addresses(said)
        port = int(trials.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            assert read(f"{trials}api/studies")


def test_the_port_after_its_own_may_be_taken(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - 1
        with dashboard(folder, "--port", str(port)) as (_, said):
            assert all(read(address) for address in addresses(said))


def test_a_port_that_is_taken_is_one_sentence(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [SDW, "dashboard", folder.path, "--port", str(port)], capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"sdw: Port {port} on 127.0.0.1 cannot be used")
    assert done.stderr.count("\n") == 1


def test_a_study_in_a_database_of_its_own_is_served(tmp_path):
    url = f"study.database=sqlite:///{tmp_path}/shared.db"
    folder = StudyFolder.create(small_spec(url), tmp_path)
    StudySearch(folder.book()).suggest("a")
    with dashboard(folder, "--port", "0") as (_, said):
        assert folder.name in read(f"{addresses(said)[0]}api/studies")


def test_a_study_in_a_folder_of_an_odd_name_is_served(tmp_path):
    folder = StudyFolder.create(small_spec(), tmp_path / "re?al#ly 50% [old]")
    StudySearch(folder.book()).suggest("a")
    with dashboard(folder, "--port", "0") as (_, said):
        assert "weighting.temperature" in read(f"{addresses(said)[0]}api/studies/0")


def test_requests_are_answered_side_by_side(folder):
    StudySearch(folder.book()).suggest("a")
    with dashboard(folder, "--port", "0") as (_, said):
        answers: list[str] = []
        address = f"{addresses(said)[0]}api/studies/0"
        threads = [threading.Thread(target=lambda: answers.append(read(address))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 8
        assert all("weighting.temperature" in answer for answer in answers)
