"""The rows of a trial among the states that they were distilled from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from sdw_core.cache import entry_name
from sdw_core.config import DensityConfig, PipelineConfig
from sdw_core.dataset import OfflineDataset, load_dataset
from sdw_core.density import FittedDensity, fit_density
from sdw_core.errors import InputError
from sdw_core.identity import code_of
from sdw_core.seeds import numpy_generator
from sdw_core.stage_keys import density_key
from sdw_core.statistics import principal_components
from study.confirm import found_by
from study.folder import StudyFolder
from study.html.page import BEST, SCALE, Figure, Table, axes, short

SHOWN = 600
"""States of the source in the figure."""
COMPONENTS = 12
"""Values of a state that are read when it is pointed at."""


def states_figure(folder: StudyFolder, number: int) -> Figure:
    """Source and synthetic states on the source's first two principal components.

    Args:
        folder: the study.
        number: a COMPLETE trial.

    Raises:
        InputError: the trial's rows or its dataset are not there any more, or the dataset changed.
    """
    config, result, kept = found_by(folder, number)
    dataset = load_dataset(config)
    if result.made_of.dataset not in (None, dataset.content_hash):
        raise InputError(
            f"The dataset of trial {number} changed since; put back what was there to see its "
            "states."
        )
    count = min(SHOWN, len(dataset))
    generator = numpy_generator(config.seed, "card")
    picks = np.sort(generator.choice(len(dataset), count, replace=False))
    source = dataset.units.normalized_states(dataset.observations[picks])
    rows = kept["observations"][result.best].numpy()
    density, model = _density(folder, config, dataset)
    of_source, of_rows = density.log_prob(source), density.log_prob(rows)
    centre, components = principal_components(source)
    rank = np.sort(of_source)

    def points(
        name: str,
        states: NDArray[Any],
        densities: NDArray[Any],
        texts: list[str],
        marker: dict[str, Any],
    ) -> dict[str, Any]:
        x, y = ((states - centre) @ components).T
        rarer = 100 * np.searchsorted(rank, densities) / len(rank)
        return {
            "mode": "markers",
            "name": name,
            "x": [short(value, 3) for value in x],
            "y": [short(value, 3) for value in y],
            "text": texts,
            "hoverinfo": "text",
            "marker": marker | {"color": [round(each) for each in rarer], "coloraxis": "coloraxis"},
        }

    seen = [
        f"state {i} of the source<br>log density {d:.2f}<br>{_in_words(s)}"
        for i, d, s in zip(picks, of_source, dataset.observations[picks], strict=True)
    ]
    made = [
        f"synthetic row {i}<br>log density {d:.2f}<br>state {_in_words(s)}<br>action {_in_words(a)}"
        for i, (d, s, a) in enumerate(
            zip(
                of_rows,
                dataset.units.environment_states(rows),
                dataset.units.environment_actions(kept["actions"][result.best].numpy()),
                strict=True,
            )
        )
    ]
    diamond = {"size": 11, "symbol": "diamond", "line": {"width": 2, "color": BEST}}
    data = [
        points("source", source, of_source, seen, {"size": 5}),
        points("synthetic rows", rows, of_rows, made, diamond),
    ]
    layout = axes("first principal component", "second")
    layout["showlegend"] = False
    bar = {"title": {"text": "rarer, %"}}
    layout["coloraxis"] = {"colorscale": SCALE, "cmin": 0, "cmax": 100, "colorbar": bar}
    cells = [
        [what, str(len(d)), *(f"{value:.2f}" for value in _tenths(d))]
        for what, d in (("source", of_source), ("synthetic rows", of_rows))
    ]
    head = ["states", "number", "a tenth is below", "median", "a tenth is above"]
    rarer = float((of_rows < np.median(of_source)).mean())
    said = (
        f"The {len(rows)} rows of trial {number} (diamonds) among {count} of the source's "
        f"{len(dataset):,} states, on the source's first two principal components, coloured by the "
        f"share of these that lie at a lower density: {model}. {rarer:.0%} of the rows lie where "
        "the density is below its median over the source. Point at a state to read it."
    )
    table = Table("Log density of the states, nats", head, cells)
    return Figure("Source and synthetic states", said, data, layout, table, 440)


def _density(
    folder: StudyFolder, config: PipelineConfig, dataset: OfflineDataset
) -> tuple[FittedDensity, str]:
    """The study's own density if one of its trials fitted it, or a Gaussian; and what it is."""
    key = density_key(config, dataset.content_hash, code_of(config))
    try:
        tensors = load_file(folder.cache / entry_name("density", key))
    except FileNotFoundError:  # no weights were asked for, or the cache was pruned
        gaussian = DensityConfig(model="gaussian")
        return fit_density(dataset.states, gaussian, config.seed), "a Gaussian's"
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    fitted = FittedDensity.from_state(config.density, state)
    return fitted, f"that of the study's own model ({config.density.model})"


def _tenths(log_density: NDArray[Any]) -> list[float]:
    """What a tenth is below, the median, what a tenth is above: values that occur, since between
    -inf, as of rows that diverged, there is no other."""
    return [float(np.quantile(log_density, q, method="inverted_cdf")) for q in (0.1, 0.5, 0.9)]


def _in_words(values: NDArray[Any]) -> str:
    text = ", ".join(f"{value:.3g}" for value in values[:COMPONENTS])
    return f"({text}{', ...' if len(values) > COMPONENTS else ''})"
