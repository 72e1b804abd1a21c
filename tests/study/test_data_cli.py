"""`sdw data`: what each command prints, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sdw_core.dataset import import_dataset, load
from study.cli import main

BUNDLED = "sdw/hopper-replay-mini-v0"
pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def sdw(capsys, monkeypatch):
    """Exit status, stdout and stderr of a command."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sdw", *arguments])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def swing():
    """A local dataset of two random episodes of a pendulum, without reference scores."""
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-3, 3, 80), rng.uniform(-1, 1, 80)
    np.savez(
        "swing.npz",
        observations=np.stack([np.cos(angle), np.sin(angle), speed], axis=1),
        actions=rng.uniform(-2, 2, (80, 1)),
        rewards=-(angle**2) - 0.1 * speed**2,
        terminals=np.zeros(80, bool),
        timeouts=np.arange(80) % 10 == 9,
    )
    return import_dataset("swing.npz", "my/swing-v0", "Pendulum-v1")


def test_import_says_what_is_missing_and_set_reference_gives_it(sdw, swing):
    imported = ("data", "import", "swing.npz?env=Pendulum-v1", "--name", "my/other-v0")
    status, out, _ = sdw(*imported)
    assert status == 0
    assert "`sdw data set-reference my/other-v0 LOW HIGH`" in out
    assert "`pipeline.dataset: my/other-v0`" in out
    validate = ("validate", "quickstart", "--set", "pipeline.dataset=my/other-v0")
    small = ("--set", "search.distill.synthetic_size.high=64")
    assert sdw(*validate, *small)[0] == 2
    status, out, _ = sdw("data", "set-reference", "my/other-v0", "-1500", "-1.5e2")
    assert (status, "it had none before" in out) == (0, True)
    assert sdw(*validate, *small)[0] == 0
    status, out, _ = sdw("data", "set-reference", "my/other-v0", "-1000", "-100", "--json")
    assert json.loads(out) == {
        "dataset": "my/other-v0",
        "reference_scores": [-1000, -100],
        "before": [-1500, -150],
    }
    status, _, err = sdw("data", "set-reference", "my/other-v0", "5", "1")
    assert (status, err.count("\n")) == (2, 1)
    assert load("my/other-v0").reference_scores == (-1000, -100)


def test_import_of_what_has_scores_does_not_ask_for_them(sdw):
    status, out, _ = sdw("data", "import", BUNDLED, "--name", "my/copy-v0", "--json")
    assert json.loads(out) == {"dataset": "my/copy-v0", "reference_scores": [-20.272305, 3234.3]}
    status, _, err = sdw("data", "set-reference", BUNDLED, "0", "1")
    assert status == 2
    assert f"`{BUNDLED}` is one: import it under a name of your own, such as `my/copy-v0`" in err


def test_remove_asks_first(sdw, swing):
    status, out, err = sdw("data", "remove", swing)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"`sdw data remove {swing} --yes`" in err
    assert Path("minari/my/swing-v0/data").is_dir()
    status, out, _ = sdw("data", "remove", swing, "--yes", "--json")
    assert json.loads(out) == {"dataset": swing, "folder": str(Path("minari", swing).absolute())}
    assert list(Path("minari").iterdir()) == []
    assert sdw("data", "remove", swing, "--yes")[0] == 2


def test_check_tells_and_validate_warns(sdw, swing):
    status, out, _ = sdw("data", "check", BUNDLED)
    assert (status, f"{BUNDLED} agrees with Hopper-v5" in out) == (0, True)
    other = f"{BUNDLED}?env=Hopper-v5&frame_skip=2"
    status, out, _ = sdw("data", "check", other, "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["method"]) == (0, "disagrees", "stepped")
    status, out, err = sdw("validate", "quickstart", "--set", f"pipeline.dataset={other}", "--json")
    assert (status, json.loads(out)["warnings"]) == (0, [document["sentence"]])
    assert err == f"warning: {document['sentence']}\n"
    status, out, _ = sdw("validate", "quickstart", "--json")
    assert json.loads(out)["warnings"] == []
    status, out, _ = sdw("data", "check", swing, "--seed", "3", "--json")
    assert json.loads(out)["method"] == "random episodes"


def test_describe_takes_what_a_spec_may_say(sdw, swing):
    _, out, _ = sdw("data", "describe", swing, "--reference", "-9", "3", "--json")
    assert json.loads(out)["reference_scores"] == [-9, 3]
    _, out, _ = sdw("data", "describe", swing, "--clip-actions", "--json")
    assert json.loads(out)["content_hash"] == load(swing).content_hash


def test_describe_and_check_speak_in_words_and_rounded_numbers(sdw, swing):
    for command in ("describe", "check"):
        for dataset in (BUNDLED, swing):
            status, out, _ = sdw("data", command, dataset)
            assert status == 0
            assert not re.search(r"[{}\[\]\"]|\d{17}|\d\.\d{5}|_", out.replace("random_", "")), out
    _, out, _ = sdw("data", "describe", BUNDLED)
    lines = [re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines()]
    said = dict(lines)
    assert said["data"] == "285 episodes, 49,756 transitions"
    assert said["normalised return"] == "mean 15.8, from 0.8 to 101.5"
    assert said["reference scores"].startswith("random -20.2723, expert 3,234.3 (")
    _, out, _ = sdw("data", "describe", swing)
    assert "none, so that no return is normalised" in out
