"""How fast the hypergradient engines are, beside the machine's own matrix products.

    python -m benchmarks.engine [--threads N] [--device cuda] [--json]

One hypergradient is counted as 10 F T floating-point operations, F = 2 n p for n
rows, p parameters and T inner steps, whatever an engine really does: so rates compare as times do.
`double backward` is autograd through the whole unroll, the way the published code does it. An outer
step is that of `distill`: a hypergradient, and around it the draws, the initialisation and Adam.
Errors are those of dH/d(x, y, alpha) against the generic engine in float64, relative, by the norm:
all float32 engines have them alike, since over a long unroll a rounding comes to decide on which
side of zero a unit lies. On CUDA, products in TF32 have a row of their own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import machine
from sdw_core.config import DistillConfig
from sdw_core.distill.engine import Engine, Hypergradient, MetaBatch, Rows
from sdw_core.distill.fused import FusedEngine, Shape
from sdw_core.distill.generic import GenericEngine
from sdw_core.distill.loop import distill
from sdw_core.distill.task import Task
from sdw_core.policy import MLP
from tests.sdw_core.oracles import DoubleBackward

Work = Callable[[], object]
ENGINES: dict[str, Callable[[MLP], Engine]] = {
    "fused": FusedEngine,
    "generic": GenericEngine,
    "double backward": DoubleBackward,
}


@dataclass(frozen=True)
class Size:
    """A distillation's size: O, A, width of 4 layers, n, T, B."""

    inputs: int
    outputs: int
    width: int
    rows: int
    steps: int
    states: int

    @property
    def policy(self) -> MLP:
        """Its network."""
        return MLP.build(self.inputs, self.outputs, 4, self.width)

    @property
    def gflop(self) -> float:
        """10 F T, in units of 1e9."""
        return 20 * self.rows * self.policy.size * self.steps / 1e9

    def step(
        self,
        engine: Engine,
        device: torch.device,
        pack: int = 1,
        window: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Callable[[], Hypergradient]:
        """One hypergradient of `pack` problems."""
        generator = torch.Generator().manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator).to(device, dtype)

        n, batch, o, a = self.rows, self.states, self.inputs, self.outputs
        generators = [torch.Generator().manual_seed(i) for i in range(pack)]
        return partial(
            engine.hypergradient,
            [p.to(device, dtype) for p in self.policy.initial_parameters(generators)],
            Rows(
                normal(pack, n, o),
                normal(pack, n, a).tanh(),
                torch.full((pack, n), 1 / n, device=device, dtype=dtype),
            ),
            torch.full((pack, self.policy.layers), 0.1, device=device, dtype=dtype),
            MetaBatch(
                normal(pack, batch, o), normal(pack, batch, a).tanh(), normal(pack, batch).abs()
            ),
            self.steps,
            window or self.steps,
        )


SIZES = {
    "paper": Size(inputs=17, outputs=6, width=256, rows=256, steps=100, states=2560),
    "quickstart": Size(inputs=11, outputs=3, width=128, rows=64, steps=50, states=1024),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.peak:
        print(_peak(arguments.peak, device))
        return
    report = measure(arguments.threads, device)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def measure(threads: int, device: torch.device) -> dict[str, Any]:
    """Every figure, as one JSON document."""
    report: dict[str, Any] = {"machine": machine.describe(device), "sizes": {}}
    paper, quick = SIZES["paper"], SIZES["quickstart"]
    _say("paper's size")
    report["sizes"][f"paper, {threads} threads"] = _compare(paper, device)
    torch.set_num_threads(1)
    _say("quickstart's size")
    report["sizes"]["quickstart, 1 thread"] = _compare(quick, device)
    _say("packs")
    report["packs (quickstart, 1 thread)"] = _packs(quick, device)
    if device.type == "cuda":
        report["packs (paper)"] = _packs(paper, device)
    if device.type == "cpu":
        report["a pack's parts (8 at the quickstart's size, 1 thread)"] = _parts(quick, pack=8)
    _say("outer steps")
    report["outer step"] = {"quickstart, 1 thread": _outer_step(quick, device)}
    torch.set_num_threads(threads)
    report["outer step"][f"paper, {threads} threads"] = _outer_step(paper, device)
    if device.type == "cuda":
        report["outer step"]["paper, 8 at once"] = _outer_step(paper, device, pack=8)
    _say("windows")
    windows = {
        str(w): paper.step(FusedEngine(paper.policy), device, window=w)
        for w in (paper.steps, paper.steps // 2, paper.steps // 5)
    }
    report[f"windows (paper, {threads} threads)"] = {
        w: {
            "milliseconds": 1e3 * t["fastest"],
            "megabytes": FusedEngine(paper.policy).memory_bytes(
                Shape(1, paper.rows, paper.states, int(w))
            )
            / 1e6,
        }
        for w, t in machine.side_by_side(windows, device, rounds=3, budget=20).items()
    }
    _say("peak memory")
    report["peak megabytes (paper)"] = {
        name: _peak_in_a_fresh_process(name, threads, device) for name in ENGINES
    }
    return report


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


def _packs(size: Size, device: torch.device) -> dict[str, dict[str, float]]:
    """Hypergradients of 1, 2, 4 and 8 problems at once, in turn."""
    works = {str(p): size.step(FusedEngine(size.policy), device, p) for p in (1, 2, 4, 8)}
    times = machine.side_by_side(works, device, rounds=7, budget=10)
    alone = times["1"]["fastest"]
    return {
        p: {"milliseconds": 1e3 * t["fastest"], "throughput": int(p) * alone / t["fastest"]}
        for p, t in times.items()
    }


class _Stopwatch(TorchDispatchMode):
    """Seconds and floating-point operations of what is dispatched, by kind."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        self.narrow = narrow
        self.seconds: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begun = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begun
        kind = "elementwise"
        if func.name().startswith(("aten::bmm", "aten::baddbmm")):
            a, b = args[-2:]
            sizes = (a.shape[1], a.shape[2], b.shape[2])
            kind = "square products" if min(sizes) > self.narrow else "narrow products"
            self.flops[kind] += 2 * a.shape[0] * sizes[0] * sizes[1] * sizes[2]
        self.seconds[kind] += seconds
        return result


def _parts(size: Size, pack: int) -> dict[str, dict[str, float]]:
    """What each kind of operation takes of a pack's hypergradient, a problem.

    Narrow products have a side of the states, the actions or the biases. Timing adds about two
    microseconds to each of some four thousand operations.
    """
    work = size.step(FusedEngine(size.policy), torch.device("cpu"), pack)
    work()
    watches = []
    for _ in range(5):
        with _Stopwatch(max(size.inputs, size.outputs)) as watch:
            work()
        watches.append(watch)
    best = min(watches, key=lambda w: w.seconds.total())
    return {
        kind: {"milliseconds": 1e3 * s / pack, "gflops": best.flops[kind] / 1e9 / s}
        for kind, s in best.seconds.most_common()
    }


def _compare(size: Size, device: torch.device) -> dict[str, Any]:
    """Engines and products in turn; gflops by the fastest run, ratios of the fastest runs."""
    own = (size.rows, size.width, size.width)
    shapes = {"1024^3": (1024, 1024, 1024), "own": own}
    engines = {name: size.step(kind(size.policy), device) for name, kind in ENGINES.items()}
    if device.type == "cuda":
        engines["fused, TF32"] = size.step(FusedEngine(size.policy, tf32=True), device)
    works: dict[str, Work] = {name: machine.product(*s, device) for name, s in shapes.items()}
    times = machine.side_by_side(works | engines, device, rounds=5, budget=20)
    rates = {
        name: machine.product_flops(*shape) / 1e9 / times[name]["fastest"]
        for name, shape in shapes.items()
    }
    half = machine.product(*own, device, torch.bfloat16)
    half_seconds = min(machine.seconds(half, device) for _ in range(2))
    rates["own, bfloat16"] = machine.product_flops(*own) / 1e9 / half_seconds
    exact = size.step(GenericEngine(size.policy), device, dtype=torch.float64)()
    fused = times["fused"]["fastest"]
    return {
        "product_gflops": rates,
        "engines": {
            name: {
                "milliseconds": 1e3 * times[name]["fastest"],
                "median_milliseconds": 1e3 * times[name]["median"],
                "gflops": size.gflop / times[name]["fastest"],
                "share_of_product_rate": size.gflop / times[name]["fastest"] / rates["1024^3"],
                "fused_takes": fused / times[name]["fastest"],
                "error": _error(step(), exact),
            }
            for name, step in engines.items()
        },
    }


def _error(got: Hypergradient, exact: Hypergradient) -> float:
    """The largest relative error of a gradient, in the Euclidean norm."""
    pairs = [
        (getattr(got, name), getattr(exact, name))
        for name in ("observations", "actions", "learning_rates")
    ]
    return max(float((one - true).norm() / true.norm()) for one, true in pairs)


def _outer_step(
    size: Size, device: torch.device, pack: int = 1, steps: int = 20
) -> dict[str, float]:
    """Steps of `distill`, each followed by one hypergradient alone, full unrolls both."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    generator = torch.Generator().manual_seed(0)
    count = 4 * size.states
    actions = normal(count, size.outputs).tanh()
    task = Task(normal(count, size.inputs), actions, actions, torch.ones(count, device=device))
    config = DistillConfig(
        synthetic_size=size.rows,
        seeds=pack,
        width=size.width,
        inner_steps=size.steps,
        window=None,
        truncation="last",
        meta_batch_size=size.states,
        outer_steps=steps + 1,
    )
    hypergradient = size.step(FusedEngine(size.policy), device, pack)
    hypergradient()
    whole: list[float] = []
    alone: list[float] = []
    begun = time.perf_counter()

    def progress(_: float) -> None:
        nonlocal begun
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        whole.append(time.perf_counter() - begun)
        alone.append(machine.seconds(hypergradient, device))
        begun = time.perf_counter()

    distill(task, config, 0, progress)
    step, engine = min(whole[1:]), min(alone[1:])  # the first steps set up
    return {
        "milliseconds": 1e3 * step,
        "hypergradient_milliseconds": 1e3 * engine,
        "share_outside_the_engine": 1 - engine / step,
    }


def _peak(name: str, device: torch.device) -> float:
    """Peak memory of two outer steps above what was in use before, megabytes."""
    size = SIZES["paper"]
    work = size.step(ENGINES[name](size.policy), device)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the libraries' own, before counting
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        work()
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    resident = machine.peak_bytes()
    work()
    work()
    return (machine.peak_bytes() - resident) / 1e6


def _peak_in_a_fresh_process(name: str, threads: int, device: torch.device) -> float:
    command = [sys.executable, "-m", "benchmarks.engine", "--peak", name]
    command += ["--threads", str(threads), "--device", str(device)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def show(report: dict[str, Any]) -> None:
    """Tables for people."""
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for label, result in report["sizes"].items():
        rates = result["product_gflops"]
        table = _table(
            f"{label}: products {rates['1024^3']:.0f} GFLOP/s at 1024^3, "
            f"{rates['own']:.0f} at the engine's shape ({rates['own, bfloat16']:.0f} in bfloat16)",
            ["engine", "ms", "median ms", "GFLOP/s", "of product rate", "fused takes", "error"],
        )
        for name, row in result["engines"].items():
            table.add_row(
                name,
                f"{row['milliseconds']:.1f}",
                f"{row['median_milliseconds']:.1f}",
                f"{row['gflops']:.0f}",
                f"{row['share_of_product_rate']:.0%}",
                f"{row['fused_takes']:.2f}",
                f"{row['error']:.1e}",
            )
        console.print(table)
    for label, rows in report.items():
        if label.startswith("packs"):
            table = _table(f"fused, {label}", ["problems", "ms", "throughput against one"])
            for pack, row in rows.items():
                table.add_row(pack, f"{row['milliseconds']:.1f}", f"{row['throughput']:.2f}")
            console.print(table)
        elif label.startswith("a pack's parts"):
            table = _table(label, ["operations", "ms a problem", "GFLOP/s"])
            for kind, row in rows.items():
                table.add_row(kind, f"{row['milliseconds']:.1f}", f"{row['gflops']:.0f}")
            console.print(table)
        elif label == "outer step":
            columns = ["size", "ms", "of which the hypergradient", "outside the engine"]
            table = _table("an outer step of `distill`", columns)
            for size, row in rows.items():
                table.add_row(
                    size,
                    f"{row['milliseconds']:.1f}",
                    f"{row['hypergradient_milliseconds']:.1f}",
                    f"{row['share_outside_the_engine']:.1%}",
                )
            console.print(table)
        elif label.startswith("windows"):
            table = _table(f"fused, {label}", ["window", "ms", "MB of buffers"])
            for window, row in rows.items():
                table.add_row(window, f"{row['milliseconds']:.0f}", f"{row['megabytes']:.0f}")
            console.print(table)
        elif label.startswith("peak"):
            table = _table(label, ["engine", "MB above the interpreter's"])
            for name, megabytes in rows.items():
                table.add_row(name, f"{megabytes:.0f}")
            console.print(table)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


if __name__ == "__main__":
    main()
