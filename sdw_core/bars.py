"""What a person sees of a run: a bar a stage, in a terminal or in a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sdw_core.config import STAGES
from sdw_core.console import A_LINE, Console
from sdw_core.progress import StageProgress

COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    TaskProgressColumn(),
    TimeRemainingColumn(elapsed_when_finished=True),
)


@contextmanager
def watched(
    console: Console | None = None,
) -> Iterator[tuple[StageProgress, Callable[[str], None]]]:
    """Yield how to tell where a pipeline is, and how to print a line meanwhile.

    Args:
        console: where; None: stderr, or the notebook. Where no person looks on, the bars are a line
            a minute.
    """
    console = console or Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    said = monotonic()
    with Progress(*COLUMNS, console=console, transient=True, disable=not seen) as bars:
        tasks = {stage: bars.add_task(stage, total=1.0, visible=False) for stage in STAGES}

        def tell(stage: str, fraction: float) -> None:
            nonlocal said
            for before in STAGES[: STAGES.index(stage)]:
                bars.update(tasks[before], completed=1.0)
            bars.update(tasks[stage], completed=fraction, visible=True)
            if not seen and monotonic() - said >= A_LINE:
                said = monotonic()
                console.print(f"{stage}: {fraction:.0%}")

        yield tell, console.print
