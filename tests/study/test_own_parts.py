"""Users' own parts in studies and comparisons; Ray's workers are those of tests/integration."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdw_core import registry
from sdw_core.errors import InputError
from sdw_core.files import read_json
from sdw_core.identity import Inventory
from search_spaces import StudySpec, load_comparison, load_spec
from search_spaces.spec import SHIPPED
from study.comparison import ComparisonFolder, check_comparison
from study.folder import StudyFolder
from study.preflight import check_study
from study.stage_cache import contents
from tests.sdw_core.extensions import fresh_imports, write_parts
from tests.study.commands import sdw
from tests.study.conftest import SMALL
from tests.study.reports import run_trials

KERNELS = (
    "pipeline.density.model=my_density:Kernels",
    "search.density.options.bandwidth={type: float, low: 0.3, high: 1.0, log: true}",
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds the parts of docs/extending.md, and is not the working directory."""
    write_parts(tmp_path)
    shutil.copy(SHIPPED / "quickstart.yaml", tmp_path / "my.yaml")
    with fresh_imports():
        yield tmp_path


def spec_of(home: Path, *overrides: str) -> StudySpec:
    return load_spec(str(home / "my.yaml"), [*SMALL, *KERNELS, "study.trials=2", *overrides])


def edited(home: Path) -> None:
    """The density has another text, and a process that is started now would import it."""
    path = home / "my_density.py"
    path.write_text(path.read_text() + "# edited\n")
    importlib.reload(sys.modules["my_density"])


def launched(home: Path) -> StudyFolder:
    spec = spec_of(home)
    return StudyFolder.create(spec, home, Inventory.of(spec.reaching(), check_study(spec)))


def test_a_module_beside_the_spec_is_found_and_its_options_are_searched(home: Path) -> None:
    folder = launched(home)
    run_trials(folder, 2)
    rows = folder.book().rows()
    assert [row.outcome for row in rows] == ["COMPLETE"] * 2, rows
    assert len({row.params["density.options.bandwidth"] for row in rows}) == 2
    code = read_json(folder.path / "sources.json")["code"]
    assert list(code) == ["my_density:Kernels"]
    assert read_json(folder.trial(0) / "result.json")["sources"]["code"] == code
    served = {entry.stage: entry.trials for entry in contents(folder)}
    assert served["expert"] == [0, 1]
    assert len([entry for entry in contents(folder) if entry.stage == "density"]) == 2


def test_after_an_edit_of_its_file_nothing_is_mixed_in(capsys, home: Path) -> None:
    folder = launched(home)
    run_trials(folder)
    edited(home)
    search = run_trials(folder)
    assert search.changed is not None
    assert search.changed.startswith("The file that defines `my_density:Kernels` changed since")
    assert [row.outcome for row in folder.book().rows()] == ["COMPLETE", "WAITING"]
    status, out, err = sdw(capsys, "resume", str(folder.path))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "The file that defines `my_density:Kernels` changed" in err


def test_a_comparison_computes_a_cell_anew(home: Path) -> None:
    (home / "compare.yaml").write_text(
        "comparison: {name: own, ours: mine, over: plain}\n"
        "datasets: {sdw/hopper-replay-mini-v0: }\n"
        "pipeline: {}\n"
        "methods: {plain: {}, mine: {pipeline: {density: {model: my_density:Kernels}}}}\n"
    )
    spec = load_comparison(str(home / "compare.yaml"))
    plain, mine = spec.all_cells()
    folder = ComparisonFolder(home / "own")

    def homes() -> tuple[Path, Path]:
        inventory, _ = check_comparison(spec)
        one, other = (folder.cell(cell, inventory.sources(cell.config)) for cell in (plain, mine))
        return one, other

    before = homes()
    edited(home)
    assert homes()[0] == before[0]
    assert homes()[1] != before[1]


MODEL, BANDWIDTH = KERNELS


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("pipeline.density.model=my_lost:Kernels",), "its module cannot be imported"),
        ((MODEL, BANDWIDTH.replace("width", "with")), "has no option `bandwith`"),
        (
            (MODEL, "search.density.options={type: categorical, choices: [1]}"),
            "`pipeline.density.options` must be a mapping of keys to values, not 1.",
        ),
        (
            (
                "search.density.model={type: categorical, choices: [my_density:Kernels, gaussian]}",
                BANDWIDTH,
            ),
            "`gaussian` has no option `bandwidth`",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    capsys, home: Path, overrides: tuple[str, ...], sentence: str
) -> None:
    given = [argument for override in overrides for argument in ("--set", override)]
    studies = home / "studies"
    status, out, err = sdw(
        capsys, "launch", str(home / "my.yaml"), "--storage", str(studies), *given
    )
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert sentence in err
    assert not studies.exists()


def test_a_study_is_looked_at_without_an_import(capsys, home: Path) -> None:
    folder = launched(home)
    run_trials(folder)
    (home / "my_density.py").write_text("raise SystemExit('imported')")
    del sys.modules["my_density"]
    for command in (["status"], ["cache", "list"]):
        assert sdw(capsys, *command, str(folder.path), "--json")[0] == 0
    assert "my_density" not in sys.modules


def test_a_part_of_a_notebook_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(home)
    density = spec.pipeline.density.model_copy(update={"model": "__main__:Kernels"})
    config = spec.pipeline.model_copy(update={"density": density})
    kernels = registry.DENSITIES.resolve("my_density:Kernels")
    monkeypatch.setattr(sys.modules["__main__"], "Kernels", kernels, raising=False)
    with pytest.raises(InputError, match="lies in a notebook or a script"):
        Inventory.of([config], {})
