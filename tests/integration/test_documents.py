"""Every command of the README and of the guide runs, in the order in which it stands there."""

import re
import subprocess

import pytest

from tests import hub as hubs
from tests.integration.processes import SDW, World
from tests.sdw_core.processes import ROOT

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
ELSEWHERE = ("make ", "sdw watch ")
"""Beginnings of blocks that other tests run: the whole project, and a study that is under way."""
SMALL = """#!{python}
# `sdw`, with settings under which each command takes seconds.
import os, sys

less = ["distill.outer_steps=4", "distill.width=16", "expert.steps=20", "expert.value_steps=20",
        "density.steps=20", "evaluation.policies=2", "evaluation.episodes=1"]
less = [f"pipeline.{{each}}" for each in less]
small = {{
    "launch": ["study.trials=4", "study.bc_steps=20", "study.confirm.budget=32", *less],
    "distill": less,
    "plan": less,
    "analyze": less,
    "compare": [*less, "pipeline.distill.seeds=1", "methods.DBC.pipeline.distill.outer_steps=4",
                "methods.Av-PBC.pipeline.distill.outer_steps=4",
                "methods.BC on all data.pipeline.expert.steps=20"],
}}
options = {{"analyze": ["--steps", "50", "--policies", "2", "--episodes", "1"],
           "slurm": ["--print"]}}
command, *given = sys.argv[1:]
sets = small.get(command, [])
if "teachers" in given:  # which searches the steps of the expert
    sets = [each for each in sets if not each.startswith("pipeline.expert.steps")]
    sets.append("search.expert.steps.choices=[20]")
given += [word for each in sets for word in ("--set", each)]
os.execv("{sdw}", ["sdw", command, *given, *options.get(command, [])])
"""


def blocks(name: str) -> list[str]:
    """What a page gives to a shell, block by block."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [each for each in BLOCK.findall(text) if not each.startswith(ELSEWHERE)]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_what_a_page_says_runs(page: str, world: World) -> None:
    """In a fresh folder and home; the first command that fails ends the test."""
    here = world.path / page.replace("/", "-")
    programs = here / "bin"
    programs.mkdir(parents=True)
    shim = programs / "sdw"
    shim.write_text(SMALL.format(python=SDW.with_name("python"), sdw=SDW))
    shim.chmod(0o755)
    data = str(here / "minari")
    env = world.env | {"PATH": f"{programs}:{SDW.parent}:{world.env['PATH']}"}
    env["MINARI_DATASETS_PATH"] = data
    its_own = blocks(page)
    if page == "README.md":
        its_own.insert(0, blocks("docs/guide.md")[0])  # makes the file of "your own data"
    with hubs.serving() as hub:
        env |= hub.environment
        for block in its_own:
            command = ["bash", "-e", "-x", "-c", block]
            ran = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
