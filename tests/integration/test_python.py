"""Studies and comparisons from scripts, as `docs/python.md` has them: real Ray, no command."""

import re
import signal
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.processes import LONG, SPEC, TINY, World, ended, tiny_study, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
CALLS = {
    "sdw.PipelineConfig(dataset=data)": "sdw.PipelineConfig(dataset=data, **TINY)",
    'Study.launch("quickstart"': 'Study.launch("tiny.yaml"',
    'Study.validate("quickstart"': 'Study.validate("tiny.yaml"',
    'Study.plan("quickstart"': 'Study.plan("tiny.yaml"',
    '{"distill.synthetic_size": 64}': '{"distill.synthetic_size": 12}',
    'Comparison.run("compare-quick"': 'Comparison.run("tiny-comparison.yaml", name="compare-quick"',
}
"""What the page calls, and the same in seconds."""
AS_IN_A_NOTEBOOK = """
import asyncio, sys

async def cells():
    exec(sys.argv[1], space)

space = {}
asyncio.run(cells())
"""
"""Within an event loop, as a notebook's cells are run, and without a guard of `__main__`."""
IN_A_THREAD = """
import threading

thread = threading.Thread(target=lambda: study.extend(1))
thread.start()
thread.join()
print(study.status()["state"], len(study.trials()), len(study.exports))
print(comparison.finished, sorted(set(comparison.frame()["method"])))
"""
INTERRUPTED = """
from study import Study

study = Study.launch("long.yaml")
print(study.status()["state"])
"""


PYTHON = sys.executable, "-c"


@pytest.mark.slow
def test_the_page_runs_within_an_event_loop_and_a_study_in_a_thread(
    world: World, spec: str
) -> None:
    (world.path / "tiny-comparison.yaml").write_text(SPEC)
    page = PAGE.read_text(encoding="utf-8")
    tiny_run = yaml.safe_load(TINY)["pipeline"]
    del tiny_run["dataset"]
    code = f"TINY = {tiny_run}\n" + "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    for call, tiny in CALLS.items():
        assert call in code
        code = code.replace(call, tiny)
    status, out, err = ended(world.start(AS_IN_A_NOTEBOOK, code + IN_A_THREAD, program=PYTHON))
    assert status == 0, err
    assert "Traceback" not in err
    methods = ["Av-PBC", "SDW", "expert", "random"]
    assert out.splitlines() == ["finished 5 1", f"True {methods}"]
    assert len(list(world.path.glob("best/trial-*/manifest.json"))) == 2
    for made in ("rows/manifest.json", "policy.pt2", "coverage/coverage.png"):
        assert (world.path / made).is_file()


@pytest.mark.slow
def test_an_interrupt_stops_a_study_in_order_and_the_call_returns(world: World) -> None:
    (world.path / "long.yaml").write_text(tiny_study("name: long, trials: 2", LONG))
    script = world.start(INTERRUPTED, program=PYTHON)
    folder = world.path / "sdw-studies" / "long"
    wait_until(lambda: list(folder.glob("trials/*/progress.json")), script)
    script.send_signal(signal.SIGINT)
    status, out, err = ended(script)
    assert (status, out, err) == (0, "stopped\n", "")
