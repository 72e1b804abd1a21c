"""Jobs of SLURM, as far as they can be seen without one: refusals, and the script."""

import math
import subprocess

import pytest

from sdw_core.errors import InputError
from study.folder import StudyFolder
from study.job import SCRIPT, WARNING, Allocation, seconds
from study.runner import _interrupted
from tests.study.commands import sdw
from tests.study.conftest import small_spec

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("5:30", 330),
        ("1:30:00", 5400),
        ("2-12", 216000),
        ("1-00:30", 88200),
        ("1-00:30:01", 88201),
        ("infinite", math.inf),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(time: str, expected: float) -> None:
    assert seconds(time) == expected


@pytest.mark.parametrize("time", ["", "soon", "1:2:3:4", "-1", "1-", "1-2:3:4:5", "1.5", "4h"])
def test_what_is_no_time_is_refused(time: str) -> None:
    with pytest.raises(InputError, match=r"as SLURM reads a time, not .*; give one such as"):
        seconds(time)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nodes": 0}, "`nodes` must be 1 or more, not 0"),
        ({"time": "4"}, "`time` must be 5 minutes or more, .* and '4' is less"),
        ({"gpus_per_node": "many"}, "not 'many'"),
        ({"gpus_per_node": "0"}, "not '0'"),
        ({"options": ("account",)}, "begin with `-`, and 'account' does not"),
        ({"options": ("--qos", "high", "-t=9")}, "'-t' is .*; give `--time` before the `--`"),
    ],
)
def test_what_slurm_does_not_take_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Allocation(**given)  # type: ignore[arg-type]


def test_without_sbatch_nothing_is_written(capsys, no_slurm, tmp_path) -> None:
    status, out, err = sdw(capsys, "slurm", "quickstart", "--storage", tmp_path / "here")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "`sbatch`, which this machine does not have" in err
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--set", "study.resources.gpu=0.5"), "A trial takes 0.5 GPU (`study.resources.gpu`)"),
        (("--gpus-per-node", "2"), "The job asks for 2 GPUs a node, and its trials take none"),
        (("--nodes", "0"), "'--nodes'"),
        (("--resume",), "`--print` is for a new study, and `--resume` goes on with one"),
        (("--name", "there"), "The study 'there' exists with this very spec"),
    ],
)
def test_bad_input_is_one_sentence(capsys, no_slurm, tmp_path, given, sentence) -> None:
    from search_spaces import load_spec

    StudyFolder.create(load_spec("quickstart", ["study.name=there"]), tmp_path / "here")
    words = ("slurm", "quickstart", "--print", "--storage", tmp_path / "here", *given)
    status, out, err = sdw(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_the_script_says_what_is_asked_for_and_is_bash(capsys, no_slurm, tmp_path) -> None:
    settings = ("study.concurrency=5", "study.resources.cpu=3", "study.resources.gpu=0.5")
    sets = [word for each in settings for word in ("--set", each)]
    asked = ("--nodes", "2", "--time", "1:00:00", "--partition", "long", "--gpus-per-node=a100:1")
    more = ("--", "--account=my group", "--qos", "high")
    folder = tmp_path / "my studies"
    status, out, err = sdw(
        capsys, "slurm", "quickstart", "--print", "--storage", folder, *sets, *asked, *more
    )
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("#SBATCH")]
    for line in (
        "--job-name=hopper-quickstart",
        "--nodes=2",
        "--cpus-per-task=6",  # two trials at a time share the GPU of a node
        "--time=1:00:00",
        "--partition=long",
        "--gpus-per-node=a100:1",
        f"--signal=B:USR1@{WARNING}",
        "--requeue",
        "'--account=my group' --qos high",
    ):
        assert f"#SBATCH {line}" in lines
    assert f"STUDY='{folder}/hopper-quickstart'" in out
    assert "symmetric-run" not in out
    assert "ray stop" not in out
    subprocess.run(["/bin/bash", "-n"], input=out, text=True, check=True)
    assert not folder.exists()


def test_a_study_of_slurm_goes_on_by_slurm(tmp_path) -> None:
    spec = small_spec("study.name=there")
    folder = StudyFolder.create(spec, tmp_path)
    (folder.path / SCRIPT).touch()
    way = f"go on with `sdw slurm {folder.path} --resume`"
    with pytest.raises(InputError) as refused:
        StudyFolder.create(spec, tmp_path)
    assert way in str(refused.value)
    assert way in str(_interrupted(folder, "No space left on device"))
