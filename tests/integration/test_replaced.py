"""A driver that another host took for dead: it stops, and leaves the study to the other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdw_core.files import read_json, write_json
from tests.integration.processes import LONG, SPEC, World, ended, tiny_study, wait_until

OTHER = {"host": "elsewhere", "pid": 42}


def study(world: World) -> tuple[str, Path]:
    spec = world.path / "replaced.yaml"
    spec.write_text(tiny_study("name: replaced, trials: 3", 100 * LONG))
    return "launch", spec


def comparison(world: World) -> tuple[str, Path]:
    spec = world.path / "replaced-comparison.yaml"
    text = SPEC.replace("outer_steps: 6", f"outer_steps: {100 * LONG}")
    spec.write_text(text.replace("name: tiny", "name: replaced"))
    return "compare", spec


@pytest.mark.slow
@pytest.mark.parametrize("begun", [study, comparison])
def test_a_replaced_driver_stops_and_touches_nothing_of_the_others(
    begun: Callable[[World], tuple[str, Path]],
) -> None:
    world = World()
    try:
        folder = world.path / "sdw-studies" / "replaced"
        driver = world.start(*begun(world))
        wait_until(lambda: list(folder.rglob("checkpoint.safetensors")), driver)
        write_json(folder / "driver.json", OTHER)
        status, _, err = ended(driver)
        assert (status, err.count("was taken over by process 42 on elsewhere")) == (1, 1), err
        assert "Traceback" not in err
        assert read_json(folder / "driver.json") == OTHER
        assert not (folder / "stop").exists()
        assert list(folder.rglob("checkpoint.safetensors"))
    finally:
        world.end()
