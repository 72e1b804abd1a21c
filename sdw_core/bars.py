"""What a person sees of a run: a bar a stage, in a terminal or in a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sdw_core.config import STAGES
from sdw_core.console import Console
from sdw_core.progress import StageProgress

COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    TaskProgressColumn(),
    TimeRemainingColumn(),
)


@contextmanager
def watched(
    console: Console | None = None,
) -> Iterator[tuple[StageProgress, Callable[[str], None]]]:
    """Yield how to tell where a pipeline is, and how to print a line meanwhile.

    Args:
        console: where; None: stderr, or the notebook. Bars are shown where a person looks on.
    """
    console = console or Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    with Progress(*COLUMNS, console=console, transient=True, disable=not seen) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, visible=False) for stage in STAGES}

        def tell(stage: str, fraction: float) -> None:
            bars.update(tasks[stage], completed=fraction, visible=True)

        yield tell, console.print
