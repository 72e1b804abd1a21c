"""Drawing with matplotlib, in the one style of all figures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from sdw_core.statistics import principal_components
from sdw_core.style import INK, PALE, SOURCE, SYNTHETIC, apart

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def drawn(to: Path | IO[bytes], width: float, height: float) -> Iterator[Figure]:
    """A figure of this size, inches, which is written as a PNG when the block ends."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(to, dpi=130, format="png")


def logarithmic(axes: Axes, which: str = "x") -> None:
    """A logarithmic axis, `x` or `y`, that says 0.02 and not 2 x 10^-2."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(lambda value, place: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def label_ends(axes: Axes, ends: Mapping[str, tuple[float | None, float, str]], gap: float) -> None:
    """Names to the right of the axes, each at the height where its line ends, and none on another.

    Args:
        axes: their limits are final.
        ends: name -> x and y of the line's end, and its colour; x None: the axes' right edge.
        gap: between two names, a fraction of the axes' height.
    """
    leader = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.5, "relpos": (0, 0.5)}
    low, high = axes.get_ylim()
    places = apart([(y - low) / (high - low) for _, y, _ in ends.values()], gap, (0, 1))
    for (name, (x, y, colour)), place in zip(ends.items(), places, strict=True):
        axes.annotate(
            name,
            (axes.get_xlim()[1] if x is None else x, y),
            (1.04, place),
            textcoords="axes fraction",
            fontsize=7,
            color=colour,
            va="center",
            arrowprops=leader | {"color": colour},
            annotation_clip=False,
        )


def draw_states(axes: Axes, states: NDArray[Any], source_states: NDArray[Any] | None) -> None:
    """Synthetic states on two principal components.

    Args:
        axes: to draw on.
        states: [n, O], normalised.
        source_states: [*, O] some of the source's, normalised, whose components are taken; None:
            those of the synthetic states.
    """
    centre, components = principal_components(states if source_states is None else source_states)
    if source_states is not None:
        points = (source_states - centre) @ components
        axes.scatter(points[:, 0], points[:, 1], s=2, color=SOURCE, linewidths=0)
    points = (states - centre) @ components
    axes.scatter(points[:, 0], points[:, 1], s=14, color=SYNTHETIC)
    among = "" if source_states is None else " among the source's (grey)"
    axes.set(xlabel="first principal component, normalised units", ylabel="second")
    axes.set_title(f"Synthetic states{among}")
