"""Measurements that stand alone: in as many processes as asked for, and none made twice."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from sdw_core.errors import SDWError

Cell = dict[str, Any]


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that all such benchmarks take."""
    options = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    options.add_argument(
        "--datasets", nargs="+", default=["sdw/hopper-replay-mini-v0"], metavar="ID"
    )
    options.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options.add_argument("--to", type=Path, metavar="FILE.jsonl")
    options.add_argument("--json", action="store_true")
    return options


def measure_all(
    asked: Sequence[Cell], measure: Callable[[Cell], Cell], jobs: int, to: Path | None
) -> list[Cell]:
    """What each cell asks for, with what was measured; a cell that fails is told of and left out.

    Args:
        asked: JSON objects.
        measure: of one of them; it runs on one thread of a process of its own.
        jobs: processes at a time.
        to: a file of a line a cell, which found cells are taken from and new ones appended to.
    """
    known = _cells_of(to) if to and to.exists() else []
    found = [next((k for k in known if k.items() >= each.items()), None) for each in asked]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        missing = {
            pool.submit(_on_one_thread, measure, asked[i]): i
            for i, cell in enumerate(found)
            if cell is None
        }
        for done, future in enumerate(as_completed(missing), 1):
            i = missing[future]
            try:
                cell = found[i] = asked[i] | future.result()
            except SDWError as error:
                print(f"{asked[i]}: {error}", file=sys.stderr)
                continue
            print(f"{done} of {len(missing)} cells", file=sys.stderr, flush=True)
            if to:
                with to.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
    return [cell for cell in found if cell is not None]


def told(report: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print what was found, and on which machine, as a document or as a benchmark shows it."""
    report = {"machine": describe(torch.device("cpu")), **report}
    print(json.dumps(report, indent=2)) if as_json else show(report)


def _cells_of(file: Path) -> list[Cell]:
    """What is in a file; its last line, torn where a writer was killed, is taken out of it."""
    lines = file.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines := lines[:-1]))
    return [json.loads(line) for line in lines]


def _on_one_thread(measure: Callable[[Cell], Cell], asked: Cell) -> Cell:
    torch.set_num_threads(1)
    return measure(asked)
