"""What a release holds: an sdist, the wheel that is built of it, and a study that runs of it."""

import json
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
import torch

from tests.integration.processes import World, ended
from tests.sdw_core.processes import ROOT

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
SOURCES = ("sdw_core", "search_spaces", "study", "pyproject.toml", "README.md", "LICENSE")


def built(kind: str, source: Path, to: Path) -> Path:
    """An sdist or a wheel, by the backend that pyproject.toml names."""
    command = [sys.executable, "-c", BUILD.format(kind), str(to)]
    said = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout
    return to / said.splitlines()[-1]


@pytest.mark.slow
def test_the_wheel_of_the_sdist_runs_a_shipped_study_in_another_folder(world: World) -> None:
    """In an environment that has the dependencies, and nothing of this checkout."""
    source, dist = world.path / "source", world.path / "dist"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    with tarfile.open(built("sdist", source, dist)) as sdist:
        sdist.extractall(world.path / "unpacked", filter="data")
    (unpacked,) = (world.path / "unpacked").iterdir()
    wheel = built("wheel", unpacked, dist)

    home = world.path / "env"
    venv.create(home, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", "--quiet", str(wheel)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(torch.__file__).parents[1]))

    said = subprocess.run(
        [home / "bin/python", "-c", "import study; print(study.__file__)"],
        cwd=world.path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(said.strip()).is_relative_to(home)
    sets = ("distill.outer_steps=2", "distill.width=8", "expert.steps=20", "density.steps=20")
    given = [word for each in sets for word in ("--set", f"pipeline.{each}")]
    given += ["--set", "study.bc_steps=20", "--set", "study.confirm=null", "--trials", "1"]
    driver = world.start("launch", "quickstart", *given, "--json", program=(home / "bin/sdw",))
    status, out, err = ended(driver)
    assert status == 0, err
    assert json.loads(out)["state"] == "finished"
    assert (world.path / "sdw-studies/hopper-quickstart/report.html").exists()
