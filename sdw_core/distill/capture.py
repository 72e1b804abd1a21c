"""Work that is done again and again over the same tensors: on CUDA, captured once and replayed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch

Work = Callable[[], object]
GRAPHS_ON = ("cuda",)
"""Types of devices on which work is captured."""


class Captured:
    """A function without arguments that becomes one graph launch on CUDA.

    There the first call runs it, so that libraries start and optimisers allocate their moments; the
    second captures it; that call and all later ones replay the graph. Elsewhere, a call is a call.

    So the work must do the same every time, to the same tensors: what differs between calls lies in
    those tensors, a step count among them, and in the seeds of the generators. It must neither read
    a value on the host nor bind a name to a new tensor that a later call is to find.

    Args:
        work: the function. It is held: one that holds this object in turn keeps both alive.
        device: where its tensors are.
        generators: what it draws from. A replay draws what a call would draw, from the seed that
            the generator has then; see `torch.cuda.CUDAGraph.register_generator_state`.
        tf32: on CUDA, products in TF32 (10 bits of mantissa, float32 accumulation).
    """

    def __init__(
        self,
        work: Work,
        device: torch.device,
        generators: Sequence[torch.Generator] = (),
        tf32: bool = False,
    ) -> None:
        self._work, self._device = work, device
        self._generators, self._tf32 = generators, tf32
        self._has_run = False
        self._replay: Work | None = None

    def __call__(self) -> None:
        """Does the work once."""
        if self._device.type not in GRAPHS_ON:
            self._work()
            return
        if self._replay is None and self._has_run:
            with _products(self._tf32):
                self._replay = capture(self._work, self._device, self._generators)
        if self._replay is not None:
            self._replay()
            return
        with _products(self._tf32):
            self._work()
        self._has_run = True


def capture(work: Work, device: torch.device, generators: Sequence[torch.Generator]) -> Work:
    """What replays the work, which is captured as a CUDA graph and not run.

    Not in inference mode: the tensors in which a graph keeps its generators' seeds must be ones
    that any later replay may fill.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=_capture_stream(device)):
            work()
    return graph.replay


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures on a device: torch's default is of the first device that captures."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Float32 products of CUDA in TF32, or not, whatever the process has set."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
