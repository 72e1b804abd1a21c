"""The outer loop: exact to the bit, resumable, and honest about divergence."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.dataset import load
from sdw_core.distill import capture, state
from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.distill.loop import Visits, distill, unroll_of
from sdw_core.distill.selection import select_rows
from sdw_core.distill.state import Distilled
from sdw_core.distill.task import Task, initial_rows
from sdw_core.errors import DivergenceError, InputError, StopRequested
from sdw_core.expert.percent_bc import best_rows
from sdw_core.policy import MLP, clone
from sdw_core.registry import SELECTIONS
from sdw_core.seeds import torch_generator
from tests.sdw_core.oracles import DoubleBackward
from tests.sdw_core.processes import kill, run, start
from tests.sdw_core.small import LONG, OUTER, SMALL, assert_same_bits, changed, poisoned, small_task

# Exactness


class Adam:
    """As Kingma and Ba wrote it."""

    def __init__(self) -> None:
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def move(self, gradient: Tensor, step: int) -> Tensor:
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        scale = (self.second / (1 - 0.999**step)).sqrt() + 1e-8
        return self.first / (1 - 0.9**step) / scale


class Momentum:
    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.velocity: Tensor | float = 0.0

    def move(self, gradient: Tensor, step: int) -> Tensor:
        self.velocity = self.decay * self.velocity + gradient
        return self.velocity


def outer_twin(task: Task, config: DistillConfig, seed: int) -> list[Tensor]:
    """The outer loop of every seed by itself, in float64, with autograd and textbook optimisers.

    Returns observations, actions, learning rates and losses of all seeds.
    """
    policy = MLP.build(task.states.shape[1], task.targets.shape[1], config.layers, config.width)
    engine = DoubleBackward(policy)
    starts = [rows.double() for rows in initial_rows(task, config, seed)]
    equal = torch.full((1, config.synthetic_size), 1 / config.synthetic_size).double()
    results = []
    for stream in range(config.seeds):
        x, y = (start[stream] for start in starts)
        log_alpha = torch.full((policy.layers,), config.inner_lr).double().log()
        means = [x, y, log_alpha]
        adam = config.outer_optimizer == "adam"
        optimizers = [Adam() if adam else Momentum(config.outer_momentum) for _ in range(2)]
        rate_optimizer = Adam()
        usual = None
        losses = []
        for step in range(1, config.outer_steps + 1):
            generator = torch_generator(seed, "distill", stream, step)
            theta = [p.double() for p in policy.initial_parameters([generator])]
            size = config.meta_batch_size
            picks = torch.randint(len(task.states), (size,), generator=generator)
            states, targets = task.states[picks].double(), task.targets[picks].double()
            if config.state_noise:
                noise = torch.randn(size, states.shape[1], generator=generator).double()
                states[size // 4 :] += config.state_noise * noise[size // 4 :]
                targets = task.targets_at(states) if task.targets_at else targets
            result = engine.hypergradient(
                theta,
                Rows(x[None], y[None], equal),
                log_alpha.exp()[None],
                MetaBatch(states[None], targets[None], task.weights[picks].double()[None]),
                *unroll_of(config, seed, step - 1),
            )
            dx, dy = result.observations[0], result.actions[0]
            slope = result.learning_rates[0] * log_alpha.exp()
            norm = (dx.square().sum() + dy.square().sum()).sqrt()
            if config.max_gradient_ratio:
                usual = norm if usual is None else usual
                kept = min(norm, config.max_gradient_ratio * usual)
                dx, dy, slope = (g * kept / norm for g in (dx, dy, slope))
                norm, usual = kept, 0.95 * usual + 0.05 * kept
            if config.max_gradient_norm and norm > config.max_gradient_norm:
                dx, dy = (g * config.max_gradient_norm / norm for g in (dx, dy))
            decay = 1.0
            if config.outer_schedule == "cosine":
                decay = 0.515 + 0.485 * math.cos(math.pi * (step - 1) / config.outer_steps)
            x = x - decay * config.outer_lr * optimizers[0].move(dx, step)
            y = y - decay * config.outer_lr * optimizers[1].move(dy, step)
            log_alpha = log_alpha - decay * config.rate_lr * rate_optimizer.move(slope, step)
            share = max(1 - config.averaging, 1 / step)
            means = [
                (1 - share) * mean + share * last
                for mean, last in zip(means, (x, y, log_alpha), strict=True)
            ]
            losses.append(result.loss[0])
        results.append((*means[:2], means[2].exp(), torch.stack(losses)))
    return [torch.stack(parts) for parts in zip(*results, strict=True)]


def test_noise_without_an_expert_to_ask_keeps_the_datasets_actions() -> None:
    task = replace(small_task(), targets_at=None)
    config = changed(SMALL, outer_steps=4, state_noise=0.4)
    losses = distill(task, config, 3).losses
    torch.testing.assert_close(losses, outer_twin(task, config, 3)[3].float(), rtol=2e-3, atol=0)
    assert not torch.equal(losses, distill(small_task(), config, 3).losses)


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("truncation", ["last", "random"])
def test_equals_a_plain_loop_in_float64(outer: str, truncation: str) -> None:
    task = small_task()
    config = changed(SMALL, outer_steps=4, truncation=truncation, **OUTER[outer])
    fast = distill(task, config, 3)
    twin = outer_twin(task, config, 3)
    moved = (twin[0] - initial_rows(task, config, 3)[0]).abs().max().item()
    assert moved > 1e-3
    assert (twin[2] - config.inner_lr).abs().max() > 1e-3
    mine = (fast.observations, fast.actions, fast.learning_rates, fast.losses)
    for one, other in zip(mine, twin, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=2e-3, atol=2e-3 * moved)


def test_rates_that_are_not_learned_stay() -> None:
    rates = distill(small_task(), changed(SMALL, rate_lr=0), 0).learning_rates
    torch.testing.assert_close(rates, torch.full((2, 3), SMALL.inner_lr))


def test_clipping_bounds_a_step_and_does_nothing_to_small_ones() -> None:
    task = small_task()
    one_step = {"outer_steps": 1, "outer_optimizer": "sgd", "outer_lr": 1.0, "averaging": 0}

    def step_norms(limit: float | None) -> Tensor:
        config = changed(SMALL, seeds=3, max_gradient_norm=limit, **one_step)
        start, end = initial_rows(task, config, 0), distill(task, config, 0)
        moves = (end.observations - start[0]).flatten(1), (end.actions - start[1]).flatten(1)
        return torch.cat(moves, 1).norm(dim=1)

    free = step_norms(None)
    assert (free > 1e-3).all()
    limit = free.median().item()  # one problem is cut, one is not
    torch.testing.assert_close(step_norms(limit), free.clamp_max(limit), rtol=1e-3, atol=0)
    torch.testing.assert_close(step_norms(1e9), free)


def test_an_outlier_is_scaled_to_what_was_usual_and_a_silent_start_is_none() -> None:
    plain = {"outer_optimizer": "sgd", "outer_momentum": 0, "outer_lr": 1.0, "averaging": 0}
    config = changed(SMALL, outer_steps=5, max_gradient_ratio=2, **plain)
    own = state.State.start(small_task(), config, 0)
    moved = []
    for first, second in ((1, 0), (1, 1), (100, 3), (4, 1), (1, 1)):
        x, y, rates = (torch.zeros_like(v) for v in own._variables)
        x[:, 0, 0] = torch.tensor([first, second])
        before = own.observations.clone()
        own.update(Hypergradient(torch.ones(2), x, y, rates), config)
        moved.append((before - own.observations)[:, 0, 0])
    expected = [[1, 0], [1, 1], [2, 2], [2 * 1.05, 1], [1, 1]]
    torch.testing.assert_close(torch.stack(moved), torch.tensor(expected))


def test_a_seed_does_not_depend_on_how_many_run_with_it() -> None:
    task = small_task()
    many = distill(task, changed(SMALL, seeds=3), 5)
    for seeds in (1, 2):
        few = distill(task, changed(SMALL, seeds=seeds), 5)
        for mine, other in (
            (few.observations, many.observations),
            (few.actions, many.actions),
            (few.losses, many.losses),
        ):
            torch.testing.assert_close(mine, other[:seeds], rtol=1e-4, atol=1e-4)
    assert not torch.equal(many.observations[0], many.observations[1])


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    task = small_task()
    assert_same_bits(distill(task, SMALL, 0), distill(task, SMALL, 0))
    assert not torch.equal(distill(task, SMALL, 0).actions, distill(task, SMALL, 1).actions)


FRESH = """if True:
    import sys, time, torch
    from pathlib import Path
    from safetensors.torch import save_file
    from sdw_core.distill.loop import distill
    from tests.sdw_core.small import LONG, small_task
    torch.set_num_threads(1)
    checkpoint, pause = Path(sys.argv[1]), float(sys.argv[2])
    made = distill(small_task(), LONG, 0, lambda fraction: time.sleep(pause), checkpoint)
    del vars(made)["diverged"], vars(made)["visited"]
    save_file(vars(made), sys.argv[3])
"""


@pytest.fixture(scope="module")
def uninterrupted() -> Distilled:
    return distill(small_task(), LONG, 0)


def test_a_fresh_process_gives_the_same_bits(uninterrupted: Distilled, tmp_path: Path) -> None:
    run(FRESH, tmp_path / "checkpoint", 0, tmp_path / "rows")
    assert_same_bits(Distilled(**load_file(tmp_path / "rows")), uninterrupted)


def test_a_killed_run_goes_on_from_its_checkpoint(uninterrupted: Distilled, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    process = start(FRESH, checkpoint, 0.02, tmp_path / "rows")
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    kill(process)
    assert not (tmp_path / "rows").exists()
    fractions: list[float] = []
    resumed = distill(small_task(), LONG, 0, fractions.append, checkpoint)
    assert len(fractions) < LONG.outer_steps  # what was done is not done again
    assert_same_bits(resumed, uninterrupted)


@pytest.mark.parametrize("outer", OUTER)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(outer: str, tmp_path: Path) -> None:
    task, config, checkpoint = small_task(), changed(SMALL, **OUTER[outer]), tmp_path / "checkpoint"
    for last, done in ((1, 1), (6, 7), (5, 12)):  # the last one stops when all is done
        answers = iter([False] * (last - 1) + [True])
        with pytest.raises(StopRequested, match=f"^Stopped after {done} of 12 outer steps.$"):
            distill(task, config, 0, checkpoint=checkpoint, should_stop=lambda: next(answers))  # noqa: B023
    resumed = distill(task, config, 0, checkpoint=checkpoint)
    assert_same_bits(resumed, distill(task, config, 0))


def test_progress_is_told_after_every_step() -> None:
    fractions: list[float] = []
    distill(small_task(), SMALL, 0, fractions.append)
    assert fractions == [step / 12 for step in range(1, 13)]


def test_rows_are_visited_as_a_shorter_run_would_return_them() -> None:
    seen: dict[int, Tensor] = {}

    def find(step: int, rows: Distilled) -> Tensor:
        seen[step] = rows.observations.clone()
        return torch.tensor([float(step)])

    distilled = distill(small_task(), SMALL, 0, visits=Visits(frozenset({5, 9}), find))
    assert {step: float(found) for step, found in distilled.visited.items()} == {5: 5.0, 9: 9.0}
    for step, observations in seen.items():
        shorter = distill(small_task(), changed(SMALL, outer_steps=step), 0)
        assert torch.equal(observations, shorter.observations)
    assert_same_bits(distilled, distill(small_task(), SMALL, 0))


def test_a_resumed_run_keeps_what_its_visits_found(tmp_path: Path) -> None:
    visited: list[int] = []

    def find(step: int, rows: Distilled) -> Tensor:
        visited.append(step)
        return rows.observations.mean().reshape(1)

    visits = Visits(frozenset({2, 9}), find)
    answers = iter([False, False, False, True])
    with pytest.raises(StopRequested):
        distill(small_task(), SMALL, 0, None, tmp_path / "c", lambda: next(answers), visits)
    resumed = distill(small_task(), SMALL, 0, checkpoint=tmp_path / "c", visits=visits)
    assert visited == [2, 9]
    once = distill(small_task(), SMALL, 0, visits=visits)
    assert {step: float(found) for step, found in resumed.visited.items()} == {
        step: float(found) for step, found in once.visited.items()
    }


@pytest.mark.parametrize(("steps", "key"), [({2, 9}, "Adam"), ({1, 2, 9}, "SGD")])
def test_a_checkpoint_whose_visits_were_others_is_not_gone_on_from(
    tmp_path: Path, steps: set[int], key: str
) -> None:
    """It holds what was found at other steps, or in another way: stale points, or too few."""

    def visits(steps: set[int], key: str, found: float) -> Visits:
        return Visits(frozenset(steps), lambda step, rows: torch.tensor([found]), key)

    before = visits({2, 9}, "SGD", 1.0)
    answers = iter([False, False, False, True])
    with pytest.raises(StopRequested):
        distill(small_task(), SMALL, 0, None, tmp_path / "c", lambda: next(answers), before)
    now = visits(steps, key, 2.0)
    distilled = distill(small_task(), SMALL, 0, checkpoint=tmp_path / "c", visits=now)
    found = {step: float(found) for step, found in distilled.visited.items()}
    assert found == dict.fromkeys(steps, 2.0)


# Divergence


def test_a_diverging_problem_ends_alone() -> None:
    config = changed(SMALL, seeds=3, initial_actions="dataset")
    sound, mixed = distill(small_task(), config, 0), distill(poisoned(1, config), config, 0)
    assert list(mixed.diverged) == [1]
    assert "became non-finite at outer step 1" in mixed.diverged[1]
    for kept in (0, 2):
        assert torch.equal(mixed.observations[kept], sound.observations[kept])
        assert torch.equal(mixed.actions[kept], sound.actions[kept])
    assert mixed.observations.isfinite().all()


def test_divergence_survives_a_checkpoint(tmp_path: Path) -> None:
    config = changed(SMALL, seeds=3, initial_actions="dataset")
    task, checkpoint = poisoned(1, config), tmp_path / "checkpoint"
    with pytest.raises(StopRequested):
        distill(task, config, 0, checkpoint=checkpoint, should_stop=lambda: True)
    resumed = distill(task, config, 0, checkpoint=checkpoint)
    assert list(resumed.diverged) == [1]
    assert json.dumps(resumed.diverged) == json.dumps(distill(task, config, 0).diverged)


def test_if_every_problem_diverges_the_step_and_the_way_out_are_named() -> None:
    config = changed(SMALL, inner_lr=1e30)
    with pytest.raises(DivergenceError) as caught:
        distill(small_task(), config, 0)
    assert "non-finite at outer step 1; lower `pipeline.distill.inner_lr` (now 1e+30)" in str(
        caught.value
    )


# On a GPU; test_capture.py has what can be shown without one


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def cuda_task() -> Task:
    return Task(
        *(tensor.cuda() for tensor in vars(small_task()).values() if torch.is_tensor(tensor))
    )


@needs_cuda
def test_on_cuda_no_outer_step_waits_for_the_host() -> None:
    """From the third, when all is captured, to the last, after which the host looks."""
    config = changed(SMALL, truncation="last")

    def progress(fraction: float) -> None:
        done = round(fraction * config.outer_steps)
        waits = done < 2 or done >= config.outer_steps - 1
        torch.cuda.set_sync_debug_mode("default" if waits else "error")

    try:
        result = distill(cuda_task(), config, 0, progress)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.losses.isfinite().all()
    assert not result.diverged


@needs_cuda
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize(("seeds", "width"), [(2, 8), (1, 128), (9, 128)])
def test_on_cuda_replayed_steps_equal_called_ones(
    outer: str, seeds: int, width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Draws among them, and after a stop at any step; widths with another triangular solve."""
    config = changed(SMALL, seeds=seeds, width=width, **OUTER[outer])
    replayed = distill(cuda_task(), config, 0)
    for last in (1, 2, 5):
        answers, checkpoint = iter([False] * (last - 1) + [True]), tmp_path / f"{last}"
        with pytest.raises(StopRequested):
            distill(cuda_task(), config, 0, None, checkpoint, lambda: next(answers))  # noqa: B023
        assert_same_bits(distill(cuda_task(), config, 0, checkpoint=checkpoint), replayed)
    monkeypatch.setattr(capture, "GRAPHS_ON", ())
    assert_same_bits(distill(cuda_task(), config, 0), replayed)


@needs_cuda
def test_on_cuda_rows_are_as_good_as_on_the_cpu() -> None:
    """Other draws of the same distributions: the losses fall alike."""
    config = changed(SMALL, seeds=8, outer_steps=100)
    losses = [distill(task, config, 0).losses.cpu() for task in (small_task(), cuda_task())]
    ends = [each[:, -30:].mean() / each[:, :10].mean() for each in losses]
    assert ends[0] < 0.9
    torch.testing.assert_close(ends[1], ends[0], rtol=0.2, atol=0)


def test_rows_that_all_diverged_are_not_visited() -> None:
    def find(step: int, rows: Distilled) -> torch.Tensor:
        raise AssertionError("visited")

    with pytest.raises(DivergenceError):
        distill(small_task(), changed(SMALL, inner_lr=1e30), 0, visits=Visits(frozenset({5}), find))


def test_what_cannot_fit_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "initial_rows", lambda *_: pytest.fail("rows were chosen"))
    with pytest.raises(InputError, match=r"needs \d+\.\d GB on cpu"):
        distill(small_task(), changed(SMALL, meta_batch_size=10**7, width=16_384), 0)


def test_the_mode_of_the_caller_does_not_matter() -> None:
    expected = distill(small_task(), SMALL, 0)
    with torch.inference_mode():
        assert_same_bits(distill(small_task(), SMALL, 0), expected)


# What it starts from and where it gets to


def test_it_starts_from_distinct_rows_of_the_dataset() -> None:
    task = small_task()
    config = changed(SMALL, synthetic_size=len(task.states), seeds=2)
    observations, actions = initial_rows(task, config, 0)
    for stream in range(2):
        found = torch.cdist(observations[stream], task.states).argmin(1)
        assert sorted(found.tolist()) == list(range(len(task.states)))
        assert torch.equal(actions[stream], task.targets[found])
    of_dataset = initial_rows(task, changed(config, initial_actions="dataset"), 0)
    assert torch.equal(of_dataset[0], observations)
    found = torch.cdist(observations[0], task.states).argmin(1)
    assert torch.equal(of_dataset[1][0], task.actions[found])


@pytest.mark.parametrize("way", SELECTIONS.builtin)
@pytest.mark.parametrize("actions", ["dataset", "expert"])
def test_without_steps_it_returns_the_rows_that_it_starts_from(
    way: str, actions: str, tmp_path: Path
) -> None:
    """Whatever the engine would need, which is not asked for."""
    generator = torch.Generator().manual_seed(1)
    of_episodes = torch.rand(20, generator=generator).repeat_interleave(10)
    density = torch.randn(200, generator=generator)
    known = {"log_density": density, "episode_returns": of_episodes}
    known |= {"expert_values": -density, "timesteps": torch.arange(200) % 10}
    task = replace(small_task(), **known)
    none = changed(
        SMALL,
        outer_steps=0,
        initial_states=way,
        initial_actions=actions,
        meta_batch_size=10**7,
        width=16_384,
    )
    checkpoint = tmp_path / "checkpoint"
    rows = distill(task, none, 0, checkpoint=checkpoint)
    found = torch.cdist(rows.observations, task.states).argmin(2)
    assert torch.equal(rows.observations, task.states[found])
    of = task.targets if actions == "expert" else task.actions
    assert torch.equal(rows.actions, of[found])
    torch.testing.assert_close(rows.learning_rates, torch.full((2, 3), SMALL.inner_lr))
    assert rows.losses.shape == (2, 0)
    assert not rows.diverged
    assert not checkpoint.exists()
    picks = select_rows(  # and a distillation starts from the same
        way, 6, [torch_generator(0, "distill", s) for s in (0, 1)], task.states, *known.values()
    )  # fmt: skip
    assert torch.equal(found, picks)
    start = initial_rows(task, changed(SMALL, initial_states=way, initial_actions=actions), 0)
    assert torch.equal(start[0], rows.observations)
    assert torch.equal(start[1], rows.actions)


@pytest.mark.parametrize("field", ["log_density", "episode_returns"])
def test_a_checkpoint_of_other_densities_or_returns_is_not_used(field: str, tmp_path: Path) -> None:
    way = "density" if field == "log_density" else "best"
    config = changed(SMALL, initial_states=way)
    one, other = (replace(small_task(), **{field: s * torch.arange(200.0)}) for s in (1, -1))
    with pytest.raises(StopRequested):
        distill(one, config, 0, checkpoint=tmp_path / "c", should_stop=lambda: True)
    assert_same_bits(
        distill(other, config, 0, checkpoint=tmp_path / "c"), distill(other, config, 0)
    )


@pytest.mark.parametrize(
    ("window", "truncation", "expected"),
    [
        (None, "last", {(7, 7)}),
        (None, "random", {(7, 7)}),
        (20, "random", {(7, 7)}),
        (4, "last", {(7, 4)}),
        (4, "random", {(4, 4), (5, 4), (6, 4), (7, 4)}),
    ],
)
def test_the_window_lies_within_the_unroll(
    window: int | None, truncation: str, expected: set[tuple[int, int]]
) -> None:
    config = changed(SMALL, window=window, truncation=truncation)
    assert {unroll_of(config, 0, step) for step in range(60)} == expected


@pytest.mark.parametrize(
    "outer", [{"outer_lr": 0.02}, {"outer_optimizer": "sgd", "outer_lr": 0.3}], ids=["adam", "sgd"]
)
def test_distilled_rows_train_better_policies_than_the_rows_they_were(
    outer: dict[str, object],
) -> None:
    """On the bundled dataset, by fresh policies and over all of the states."""
    dataset = load("sdw/hopper-replay-mini-v0")
    best = best_rows(dataset.episode_returns(), dataset.episode_ends, 0.1)
    states = torch.from_numpy(dataset.states[best])
    actions = torch.from_numpy(dataset.unit_actions[best])
    task = Task(states, actions, actions, torch.ones(len(states)))
    config = changed(
        SMALL, synthetic_size=32, width=32, inner_steps=20, window=10, inner_lr=0.3,
        outer_steps=150, meta_batch_size=256, **outer,
    )  # fmt: skip
    policy = MLP.build(states.shape[1], actions.shape[1], config.layers, config.width)
    fresh = policy.initial_parameters([torch_generator(0, "fresh", k) for k in range(8)])

    def losses(x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
        rows, equal = (x.expand(8, -1, -1), y.expand(8, -1, -1)), torch.full((8, 32), 1 / 32)
        trained = clone(policy, fresh, *rows, equal, rates.expand(8, -1), 20)
        return (policy(trained, states.expand(8, -1, -1)) - actions).square().mean((1, 2))

    start, end = initial_rows(task, config, 0), distill(task, config, 0)
    for stream in range(config.seeds):
        same = torch.full((policy.layers,), config.inner_lr)
        before = losses(start[0][stream], start[1][stream], same)
        rates = end.learning_rates[stream]
        after = losses(end.observations[stream], end.actions[stream], rates)
        assert (after < 0.9 * before).all()


@pytest.mark.parametrize("damage", ["truncated", "other settings"])
def test_a_checkpoint_that_cannot_be_gone_on_from_is_not_used(tmp_path, damage):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StopRequested):
        distill(small_task(), SMALL, 0, checkpoint=checkpoint, should_stop=lambda: True)
    seed = 0
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    else:
        seed = 1
    resumed = distill(small_task(), SMALL, seed, checkpoint=checkpoint)
    assert_same_bits(resumed, distill(small_task(), SMALL, seed))
