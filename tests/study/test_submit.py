"""What `sdw submit` sends and refuses, as far as it can be seen without a Ray."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sdw_core import __version__
from sdw_core.errors import InputError
from search_spaces import load_spec
from study.folder import BROUGHT, StudyFolder
from study.submit import FILES, MOST, ORDER, SCRIPT, SPEC, bring, connected
from study.submitted import run
from tests.study.commands import sdw, write_d4rl
from tests.study.conftest import small_spec

pytestmark = pytest.mark.usefixtures("own_folder")


class Answers(BaseHTTPRequestHandler):
    """A server that answers what it was told to; `token` is let in."""

    said = (200, "{}")

    def do_GET(self) -> None:
        status, text = self.said
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ((200, "{}"), "none of Ray's"),
        ((200, "<html>"), "none of Ray's"),
        ((404, ""), "answers 404"),
        ((401, ""), "asks for a token, and there is none here"),
    ],
)
def test_what_is_no_job_server_or_lets_nobody_in_is_refused(
    server, said, sentence, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(Answers, "said", said)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(InputError, match=sentence):
        connected(server)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--address", "ray://head:10001"), "http://HEAD:8265, not to 'ray://head:10001'"),
        (("--address", "auto"), "not to 'auto'"),
        (("--address", "http://127.0.0.1:1"), "Connection refused"),
        (("--address", "http://h", "--storage", "here"), "by its whole path, not 'here'"),
        (("--address", "http://h", "--resume", "--trials", "3"), "`--trials` is for a new study"),
        (("--address", "http://h", "--set", "study.trials=x"), "study.trials"),
        ((), "Missing option '--address'"),
    ],
)
def test_bad_input_is_one_sentence(capsys, given, sentence) -> None:
    status, out, err = sdw(capsys, "submit", "quickstart", *given)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_what_a_spec_names_here_goes_along_and_what_is_on_the_cluster_stays(tmp_path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    data, policy = write_d4rl(own / "my.hdf5"), own / "policy.pt"
    policy.write_bytes(b"p")
    (own / "beside_my_weights.py").write_text("SCALE = 1\n")
    (own / "my_submitted_weights.py").write_text(
        "import beside_my_weights\n\ndef scheme(log_density):\n    return log_density\n"
    )
    given = [
        "pipeline.expert={method: checkpoint, path: own/policy.pt}",
        "search={dataset: {type: categorical, choices: ["
        "'own/my.hdf5?env=Hopper-v5', sdw/hopper-replay-mini-v0, /cluster/d.npz]}}",
    ]
    (own / "spec.yaml").write_text(
        "study: {name: mine}\npipeline:\n  dataset: sdw/hopper-replay-mini-v0\n"
        "  weighting: {scheme: my_submitted_weights:scheme}\nsearch: {}\n"
    )
    bring(load_spec(own / "spec.yaml", given), tmp_path / "sent")
    sent = load_spec(tmp_path / "sent" / SPEC)
    assert sent.search["dataset"].choices == (
        "files/0/my.hdf5?env=Hopper-v5",
        "sdw/hopper-replay-mini-v0",
        "/cluster/d.npz",
    )
    files = {p.name: p.read_bytes() for p in (tmp_path / "sent").rglob("*") if p.is_file()}
    assert files.keys() == {
        *(SPEC, "my.hdf5", "policy.pt", "beside_my_weights.py", "my_submitted_weights.py")
    }
    assert files["my.hdf5"] == data.read_bytes()
    assert files["policy.pt"] == b"p"


def test_too_much_is_refused(tmp_path) -> None:
    with (tmp_path / "large.pt").open("wb") as file:
        file.truncate(MOST + 1)
    spec = load_spec("quickstart", ["pipeline.expert={method: checkpoint, path: large.pt}"])
    with pytest.raises(InputError, match=r"may bring 90 MB, .* is 90 MB \(such as .*large.pt"):
        bring(spec, tmp_path / "sent")
    assert not (tmp_path / "sent").exists()


def test_a_head_without_the_package_says_so(tmp_path) -> None:
    for python in ("python", "python3"):
        (tmp_path / python).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / python).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", SCRIPT, "job.sh", "sdw-x-1"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    begun, said = done.stdout.splitlines()
    assert begun.startswith("sdw: job sdw-x-1 on ")
    assert f"has no sdw-obd {__version__} for the `python`" in said


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ({"version": "0.0.1"}, "and 0.0.1 submitted the study"),
        ({"storage": None}, "does not say where: give that folder as `storage`"),
        ({"study": "there"}, "exists on the cluster"),
        ({"study": "lost", "resume": True}, "There is no study 'lost'"),
        ({"storage": "/proc/nowhere"}, "cannot be written on the head"),
    ],
)
def test_the_head_refuses_before_anything_is_written(
    tmp_path, monkeypatch, order, sentence
) -> None:
    monkeypatch.delenv("SDW_STORAGE", raising=False)
    storage = tmp_path / "shared"
    StudyFolder.create(small_spec("study.name=there"), storage)
    job = tmp_path / "job"
    (job / FILES).mkdir(parents=True)
    (job / FILES / SPEC).write_text("")
    asked = {"study": "new", "storage": str(storage), "resume": False, "version": __version__}
    (job / ORDER).write_text(json.dumps(asked | order))
    monkeypatch.chdir(job)
    with pytest.raises(InputError, match=sentence):
        run()
    assert not (storage / BROUGHT).exists()
    assert Path.cwd() == job


def test_a_submitted_study_goes_on_where_it_was_submitted_to(tmp_path) -> None:
    folder = StudyFolder.create(small_spec("study.name=sent"), tmp_path)
    assert folder.go_on == f"sdw resume {folder.path}"
    (tmp_path / BROUGHT / "sent").mkdir(parents=True)
    assert folder.go_on == f"sdw submit {folder.path} --resume"
