"""`sdw analyze`: what the SDW paper says of loss, errors and coverage, measured on any dataset.

Each command writes a new folder: NAME.csv, a row a point of the figure; NAME.png; and NAME.json,
the findings, which `--json` prints as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdw_core.console import Table
from search_spaces import load_spec
from study.cli.common import AsJson, Cache, Set, Spec, Trust, shows_progress
from study.cli.help import OUTPUT, App
from study.console import log, out, print_json
from study.locations import cache_folder, storage_folder

if TYPE_CHECKING:
    from sdw_core.analysis.report import Analysis, Tell
    from sdw_core.artifact import Artifact
    from sdw_core.config import PipelineConfig

analyze_app = App(help="Analyses of a dataset: misalignment, errors, coverage.")

To = Annotated[
    Path,
    typer.Option(
        help="Folder for table, figure and findings; must not exist.",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Argument(metavar="EXPORTED", help="Exported sets: what each command says of them."),
]
Episodes = Annotated[int, typer.Option(help="Whole episodes a policy is run.", metavar="M")]
SIZES, STEPS = [16, 64, 256, 1024], [50, 200, 800]


@analyze_app.command()
@shows_progress
def misalignment(
    spec: Spec,
    to: To,
    folders: Sets = None,
    narrow: Annotated[
        str | None,
        typer.Option(
            help="A better, narrower dataset; default: the best tenth of the spec's.",
            metavar="REF",
        ),
    ] = None,
    policies: Annotated[int, typer.Option(help="Policies cloned from each set.", metavar="P")] = 6,
    steps: Annotated[int, typer.Option(help="Gradient steps of a cloning.", metavar="N")] = 2000,
    points: Annotated[int, typer.Option(help="How often a policy is judged.", metavar="S")] = 16,
    bins: Annotated[int, typer.Option(help="Bins of the training loss.", metavar="B")] = 8,
    episodes: Episodes = 3,
    trust: Trust = False,
    overrides: Set = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Return against training loss: diverse data against narrow data.

    The spec's dataset is the diverse one. Exported sets of either are shown beside its policies.

    Examples:
        sdw analyze misalignment quickstart --to misalignment
    """
    cache = cache_folder(storage_folder(), cache)
    config = _configured(spec, overrides, to, cache)
    from sdw_core.analysis import report

    artifacts = _artifacts(folders, trust)
    with _telling() as tell:
        found = report.misalignment(
            config, narrow, policies, steps, points, bins, episodes, cache, tell, artifacts
        )
    table = Table("training loss", "diverse", "narrow", "difference", "95 % interval")
    for each in found.findings["bins"]:
        means = (_number(each[key]) for key in ("diverse", "narrow", "difference"))
        table.add_row(_range(each["loss"][::-1], 3), *means, _range(each["interval"]))
    _finish(found, to, as_json, table, *_verdict(found.findings), *_rows(found.findings))


def _verdict(findings: dict[str, Any]) -> Iterator[str]:
    """What the comparison says of the paper's claim, or what it lacks to say anything."""
    crossings = findings["crossings"]
    if crossings:
        at = ", ".join(f"{loss:.3g}" for loss in crossings)
        yield f"the difference changes its sign at a loss of {at}"
    elif crossings is not None:
        yield "the difference never changes its sign"
    if findings["lacking"]:
        yield f"no verdict: {findings['lacking']}"
        return
    do = "do" if findings["reverses"] else "do not"
    yield f"the intervals {do} bear out that the diverse set is better first, the narrow later"


def _rows(findings: dict[str, Any]) -> Iterator[str]:
    """Where the policies of synthetic rows lie."""
    for each in findings["rows"]:
        yield (
            f"{each['name']}: return {_number(each['normalized_return'])} at a training loss of "
            f"{_number(each['training_loss'], 3)}, where clones of the {each['of']} set return "
            f"{_number(each['at_equal_loss'])}"
        )


@analyze_app.command()
@shows_progress
def errors(
    spec: Spec,
    to: To,
    size: Annotated[
        list[int],
        typer.Option(help="Rows that policies are cloned from; repeatable.", metavar="N"),
    ] = SIZES,
    steps: Annotated[
        list[int], typer.Option(help="Steps of a cloning; repeatable.", metavar="N")
    ] = STEPS,
    repeats: Annotated[int, typer.Option(help="Policies of each kind.", metavar="R")] = 2,
    episodes: Episodes = 3,
    expert_episodes: Annotated[
        int,
        typer.Option(help="Episodes of the expert; half of them fit its density.", metavar="E"),
    ] = 20,
    quantile: Annotated[
        float,
        typer.Option(
            help="Part of the expert's own states that counts as off its support.", metavar="Q"
        ),
    ] = 0.05,
    overrides: Set = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Errors on the expert's states and off its support, and the return.

    Examples:
        sdw analyze errors quickstart --to errors
    """
    cache = cache_folder(storage_folder(), cache)
    config = _configured(spec, overrides, to, cache)
    from sdw_core.analysis import report

    with _telling() as tell:
        found = report.errors(
            config, size, steps, repeats, episodes, expert_episodes, quantile, cache, tell
        )
    table = Table("rank correlation with return", "policies", "rho", "95 % interval")
    for group, measures in found.findings["correlations"].items():
        for measure, each in measures.items():
            interval = each["lacking"] or _range((each["low"], each["high"]), 2)
            name = f"{measure.replace('_', ' ')}, {group}"
            table.add_row(name, str(each["policies"]), _number(each["value"], 2), interval)
    _finish(found, to, as_json, table)


@analyze_app.command()
@shows_progress
def coverage(
    spec: Spec,
    to: To,
    folders: Sets = None,
    bins: Annotated[int, typer.Option(help="Bins of the histograms.", metavar="B")] = 20,
    trust: Trust = False,
    overrides: Set = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Density and diversity of synthetic states, beside their source's.

    The spec's dataset is the source. Without exported sets, sets are distilled now.

    Examples:
        sdw analyze coverage quickstart best/trial-7 --to coverage
    """
    cache = cache_folder(storage_folder(), cache)
    config = _configured(spec, overrides, to, cache)
    from sdw_core.analysis import report

    artifacts = _artifacts(folders, trust)
    with _telling() as tell:
        found = report.coverage(config, artifacts, bins, cache, tell)
    headings = ("distance", "source's distance", "entropy", "source's entropy")
    table = Table("set", "states", "return", "rare %", *headings)
    for each in found.findings["sets"]:
        table.add_row(
            each["name"],
            str(each["states"]),
            _number(each["normalized_return"]),
            _number(100 * each["rare_share"]),
            _number(each["distance"], 2),
            _number(each["source_distance"][0], 2),
            _number(each["entropy"], 2),
            _number(each["source_entropy"][0], 2),
        )
    _finish(found, to, as_json, table)


def _artifacts(folders: list[str] | None, trust: bool) -> "dict[str, Artifact]":
    from sdw_core.artifact import read_artifact

    return {folder: read_artifact(folder, trust) for folder in folders or ()}


def _configured(spec: str, overrides: list[str] | None, to: Path, cache: Path) -> "PipelineConfig":
    """The settings; refuses, before any work, what could not be done or written."""
    import torch

    from sdw_core.artifact import refuse_existing
    from study.preflight import check_writable

    refuse_existing(to)
    config = load_spec(spec, overrides or (), searched_is_fixed=True).pipeline
    check_writable(cache, "cache")
    check_writable(to.resolve().parent, "to")
    torch.set_num_threads(1)
    return config


@contextmanager
def _telling() -> Iterator["Tell"]:
    with log.working() as say:
        yield say


def _finish(found: "Analysis", to: Path, as_json: bool, table: Table, *lines: str) -> None:
    found.write(to)
    for sentence in found.findings["warnings"]:
        log.print(f"warning: {sentence}")
    if as_json:
        print_json(found.findings | {"folder": str(to)})
        return
    out.print(table)
    for line in (*lines, f"table, figure and findings are in {to}"):
        out.print(line)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _range(bounds: Any, digits: int = 1) -> str:
    return " to ".join(_number(bound, digits) for bound in bounds)
