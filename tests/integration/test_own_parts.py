"""A user's own part in Ray's workers."""

import json

import pytest

from tests.integration.processes import TINY, World, by_number
from tests.sdw_core.extensions import parts


@pytest.mark.slow
def test_workers_import_what_lies_beside_the_spec(world: World) -> None:
    specs = world.path / "specs"
    specs.mkdir()
    for module in ("my_density", "my_objective"):
        (specs / f"{module}.py").write_text(parts()[module][0])
    spec = specs / "own.yaml"
    own = TINY.replace("density: {", "density: {model: my_density:Kernels, ")
    own = own.replace("distill:\n    {", "distill:\n    {objective: my_objective:near_data, ")
    own += "  density.options.bandwidth: {type: float, low: 0.3, high: 1.0}\n"
    spec.write_text(own)
    status, out, err = world.run("launch", spec, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert {trial["outcome"] for trial in by_number(document).values()} == {"COMPLETE"}
    (export,) = document["exports"]
    for module in ("my_density", "my_objective"):
        (specs / f"{module}.py").unlink()
    status, out, err = world.run("evaluate", export, "--json")
    assert status == 0, err
    status, out, err = world.run("extend", "one", "--trials", 1)
    assert (status, out) == (2, ""), err
    assert "put it beside the spec, into the working directory or on PYTHONPATH" in err
