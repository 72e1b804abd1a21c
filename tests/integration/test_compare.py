"""Comparisons from end to end: real Ray, interrupted, and taken up again."""

import json
import re
import signal
from pathlib import Path

import pandas as pd
import pytest

from sdw_core.config import PipelineConfig
from sdw_core.files import read_json
from sdw_core.pipeline import Pipeline
from sdw_core.validation import parse
from search_spaces import load_comparison
from study.comparison import ComparisonFolder, check_comparison, ready, run_cell
from tests.integration.processes import (
    LONG,
    SPEC,
    Sdw,
    World,
    ended,
    wait_until,
)


@pytest.fixture(scope="module")
def spec(world: World) -> str:
    path = world.path / "tiny-comparison.yaml"
    path.write_text(SPEC)
    return str(path)


def finished(folder: Path) -> dict[Path, int]:
    """Results that lie there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}


def test_a_comparison_that_is_killed_goes_on_where_it_was(
    world: World, sdw: Sdw, spec: str
) -> None:
    folder = world.path / "sdw-studies" / "tiny"
    driver = world.start("compare", spec)
    wait_until(lambda: finished(folder), driver)
    world.kill()
    ended(driver)
    before = finished(folder)
    status, out, err = world.run("compare", spec, "--json")
    assert status == 0, err
    after = finished(folder)
    assert before.items() <= after.items()  # what was done was not done again
    counts = re.findall(r"^(\d+) of (\d+) ", err, re.MULTILINE)
    assert counts[-1] == ("7", "7")  # five methods, two candidates; equal cells count for each
    assert [int(done) for done, _ in counts] == sorted(int(done) for done, _ in counts)

    document = json.loads(out)
    cells = {cell["method"]: cell for cell in document["cells"]}
    assert "non-finite" in cells["too far"]["failed"]
    assert all(cells[name]["failed"] is None for name in ("random", "Av-PBC", "SDW", "expert"))
    assert [len(cells[name]["last"]) for name in ("random", "SDW", "expert")] == [2, 2, 1]
    assert cells["SDW"]["chosen"] is not None
    assert document["improvement"]["probability"]["value"] >= 0
    table = (folder / "table.md").read_text()
    assert "| too far | failed |" in table

    # each row of the results can be had again from its config and seed
    frame, configs = pd.read_csv(folder / "results.csv"), read_json(folder / "configs.json")
    rows = frame[(frame.method == "SDW") & (frame.outer_steps == 6)]
    config = parse(PipelineConfig, configs[rows.config_hash.iloc[0]], "pipeline")
    again = Pipeline(config).run().returns.mean(axis=1)
    assert again.tolist() == pytest.approx(rows.normalized_return.tolist())

    status, out, err = sdw("compare", spec)  # all is done: no Ray, the table again
    assert status == 0, err
    assert finished(folder) == after
    assert re.search(r"^ *random  ", out, re.MULTILINE)


@pytest.mark.slow
def test_one_process_at_a_time_runs_a_comparison(world: World, sdw: Sdw, spec: str) -> None:
    outer_steps = f"pipeline.distill.outer_steps={100 * LONG}"
    long = ("compare", spec, "--name", "long", "--set", outer_steps)
    folder = world.path / "sdw-studies" / "long"
    driver = world.start(*long)
    wait_until(lambda: list(folder.glob("cells/*/checkpoint.safetensors")), driver)
    status, out, err = sdw(*long)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert f"is being run by process {driver.pid} on" in err
    driver.send_signal(signal.SIGINT)
    status, out, err = ended(driver)
    assert (status, out) == (0, "")
    assert "give the same command again" in err


def test_a_dataset_that_is_not_there_is_refused_before_any_work(
    world: World, sdw: Sdw, spec: str
) -> None:
    given = ("--name", "nowhere", "--set", "datasets={sdw/hopper-nowhere-v0: null}")
    status, out, err = sdw("compare", spec, *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert not (world.path / "sdw-studies" / "nowhere").exists()


def test_a_cluster_that_is_not_there_leaves_nothing_behind(
    world: World, sdw: Sdw, spec: str
) -> None:
    given = ("--name", "far", "--address", "127.0.0.1:1")
    status, out, err = sdw("compare", spec, *given)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert not (world.path / "sdw-studies" / "far").exists()


def test_a_comparison_in_which_nothing_completes_is_a_failure(
    world: World, sdw: Sdw, spec: str
) -> None:
    """Its cells are run here, as a worker runs them, so that none is left for Ray."""
    settings = (
        "comparison.name=failed",
        "pipeline.distill.inner_lr=1.0e+30",
        "methods={SDW: {}, Av-PBC: {pipeline: {distill: {objective: pbc}}}}",
    )
    loaded = load_comparison(spec, settings)
    inventory, _ = check_comparison(loaded)
    with ComparisonFolder.opened(loaded, world.path / "sdw-studies") as folder:
        for cell in ready(loaded, {}):
            run_cell(folder, cell, inventory.sources(cell.config), 1, 0)
    given = [part for setting in settings for part in ("--set", setting)]
    status, out, err = sdw("compare", spec, *given, "--json")
    assert status == 1, err
    assert "No cell completed: divergence" in err
    assert all(cell["failed"] for cell in json.loads(out)["cells"])
