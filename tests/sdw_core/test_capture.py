"""What CUDA captures, without a GPU: that it can be replayed, and that it stays on its device.

`Recording` stands where CUDA's capture does. It keeps the operations that work dispatches, with the
very tensors, and a replay issues them again into the same results. Like a graph it knows nothing of
Python: a name bound anew, or a step count that was a Python number, is what it was when recorded.
Tests on a GPU are in test_engines.py and test_loop.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdw_core import policy as policy_module
from sdw_core.distill import capture, loop, state
from sdw_core.distill.capture import Captured, Work
from sdw_core.distill.loop import distill
from sdw_core.distill.state import State
from sdw_core.distill.task import Task, initial_rows
from sdw_core.policy import MLP
from tests.sdw_core.small import OUTER, SMALL, assert_same_bits, changed, poisoned, small_task

CPU = torch.device("cpu")


class Recording(TorchDispatchMode):
    """Runs what is dispatched, and keeps it."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replayed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value is read on the host"
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Generator):
                seeds = [generator.initial_seed() for generator in self.generators]
                assert value.initial_seed() in seeds, "a generator that the graph does not know"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Everything again; what an operation allocated is overwritten, as a graph does it.

        But for the first time: recording has run it, which a capture does not.
        """
        if not self.replayed:
            self.replayed = True
            return
        for func, args, kwargs, result in self.operations:
            given = {
                t.untyped_storage().data_ptr()
                for t in tree_leaves((args, kwargs))
                if isinstance(t, Tensor)
            }
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recording]]:
    """From now on, work on the CPU is recorded at its second call, where CUDA would capture it."""
    made: list[Recording] = []

    def record(
        work: Work, device: torch.device, generators: Sequence[torch.Generator]
    ) -> Recording:
        with torch.inference_mode(False), torch.no_grad(), Recording(generators) as recording:
            work()
        made.append(recording)
        return recording

    monkeypatch.setattr(capture, "GRAPHS_ON", ("cpu",))
    monkeypatch.setattr(capture, "capture", record)
    # The Adam of the CPU reads its step count on the host, but for the fused one.
    monkeypatch.setattr(state, "_adam", lambda v, lr: torch.optim.Adam(v, lr, fused=True))
    yield made
    for recording in made:
        recording.operations.clear()


def test_it_runs_once_is_captured_once_and_is_replayed(recordings: list[Recording]) -> None:
    calls: list[int] = []
    count = torch.zeros(1)

    def work() -> None:
        calls.append(1)
        count.add_(1)

    captured = Captured(work, CPU)
    for done in range(1, 6):
        captured()
        assert count == done
    assert len(calls) == 2
    assert len(recordings) == 1


def test_the_recording_notices_what_a_graph_would_not_follow(recordings: list[Recording]) -> None:
    """A name that is bound anew stays what it was: the stand-in is as strict as a graph."""
    held = {"rebound": torch.zeros(1), "in place": torch.zeros(1)}

    def work() -> None:
        held["rebound"] = held["rebound"] + 1
        held["in place"].add_(1)

    captured = Captured(work, CPU)
    for _ in range(5):
        captured()
    assert held["in place"] == 5
    assert held["rebound"] == 2


def test_elsewhere_a_call_is_a_call() -> None:
    calls: list[int] = []
    captured = Captured(lambda: calls.append(1), CPU)
    for _ in range(3):
        captured()
    assert len(calls) == 3


CASES: dict[str, dict[str, Any]] = {
    **OUTER,
    "last": {"truncation": "last"},
    "full": {"window": None},
    "fixed rates": {"rate_lr": 0.0},
    "no average": {"averaging": 0.0},
    "one problem": {"seeds": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_replayed_outer_steps_equal_called_ones(case: str, recordings: list[Recording]) -> None:
    """Bit for bit: draws, unrolls of changing length, optimisers, averages, losses."""
    config = changed(SMALL, **CASES[case])
    replayed = distill(small_task(), config, 3)
    assert len(recordings) == (3 if case == "full" else 4)  # draw, before, window, follow
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "GRAPHS_ON", ())
        called = distill(small_task(), config, 3)
    assert_same_bits(replayed, called)
    assert (called.losses[:, 1:] != called.losses[:, :-1]).all()


def test_replayed_steps_go_on_from_a_checkpoint_and_past_divergence(
    recordings: list[Recording], tmp_path: Any
) -> None:
    config = changed(SMALL, seeds=3, initial_actions="dataset")
    task, checkpoint = poisoned(1, config), tmp_path / "checkpoint"
    answers = iter([False] * 5 + [True])
    with pytest.raises(loop.StopRequested):
        distill(task, config, 0, checkpoint=checkpoint, should_stop=lambda: next(answers))
    resumed = distill(task, config, 0, checkpoint=checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "GRAPHS_ON", ())
        called = distill(task, config, 0)
    assert torch.equal(resumed.observations, called.observations)
    assert torch.equal(resumed.losses[::2], called.losses[::2])
    assert resumed.diverged == called.diverged
    assert list(resumed.diverged) == [1]


class OnMeta(TorchFunctionMode):
    """Draws on the meta device, which has no generators."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in (torch.randn, torch.randint) and kwargs.pop("generator", None):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class OnlyMeta(TorchDispatchMode):
    """Nothing is read, written or made on another device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, func
        return result


@pytest.mark.parametrize("outer", ["momentum", "clipped"])
@pytest.mark.parametrize("window", [None, 4])
def test_an_outer_step_stays_on_its_device(
    outer: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, where there are no values to read; Adam's part is torch's to keep."""
    generator = torch.Generator
    monkeypatch.setattr(state, "_adam", lambda variables, lr: torch.optim.SGD(variables, lr))
    monkeypatch.setattr(policy_module, "by_qr", policy_module.by_reflections)  # as on CUDA
    config = changed(SMALL, window=window, truncation="last", **OUTER[outer])
    policy = MLP.build(5, 3, config.layers, config.width)
    task = Task(*(t.to("meta") for t in vars(small_task()).values() if torch.is_tensor(t)))
    chosen = [rows.to("meta") for rows in initial_rows(small_task(), config, 0)]  # on the CPU
    monkeypatch.setattr(state, "initial_rows", lambda *_: chosen)
    with OnMeta(), torch.no_grad():
        before = State.start(task, config, 0)
        monkeypatch.setattr(torch, "Generator", lambda device: generator())
        step = loop._OuterStep(task, config, 0, policy, before)
        with OnlyMeta():
            step(0)
            step(1)
        with pytest.raises(AssertionError), OnlyMeta():  # so it would have been noticed
            torch.zeros(1)
