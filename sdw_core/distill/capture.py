"""Work that is done again and again over the same tensors: on CUDA, captured once and replayed."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
        work: the function. This object refers to the work, so the work must not refer to this
            object: otherwise the two, and the graph with them, wait for the garbage collector.
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
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Does the work once."""
        if self._device.type not in GRAPHS_ON:
            self._work()
            return
        if not self._has_run:
            with _products(self._tf32), warnings.catch_warnings():
                # torch.optim says that a capturable optimiser runs uncaptured, which it does once.
                warnings.filterwarnings("ignore", "(?s).*capturable", UserWarning)
                self._work()
            self._has_run = True
            return
        if self._graph is None:
            with _products(self._tf32):
                self._graph = capture(self._work, self._device, self._generators)
        self._graph.replay()

    def close(self) -> None:
        """Gives the graph and its memory back now, not when the garbage collector runs.

        torch 2.12 and 2.13 free the cuBLAS workspace of a graph's stream together with the graph,
        under whatever is captured on that stream by then.
        """
        self._graph = None


def capture(
    work: Work, device: torch.device, generators: Sequence[torch.Generator]
) -> torch.cuda.CUDAGraph:
    """The work as a CUDA graph; it is not run.

    Not in inference mode: the tensors in which a graph keeps its generators' seeds must be ones
    that any later replay may fill. On a stream of its own: see `Captured.close`.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, stream=stream):
            work()
    return graph


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Float32 products of CUDA in TF32, or not, whatever the process has set."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
