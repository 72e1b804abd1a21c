"""One conformance suite for every expert, and what is particular to each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdw_core.config import ExpertConfig, PipelineConfig
from sdw_core.dataset import load
from sdw_core.expert import Expert
from sdw_core.expert.percent_bc import PercentBC, best_rows, fit_percent_bc
from sdw_core.normalizer import Normalizer
from sdw_core.pipeline import Pipeline

SMALL = ExpertConfig(layers=3, width=32, steps=300, value_steps=300, learning_rate=2e-3)
STATES, ACTIONS = 5, 2


class Transitions:
    """A made-up dataset in which the value and the best action of a state are known."""

    def __init__(self, count: int = 600) -> None:
        generator = torch.Generator().manual_seed(0)
        self.states = torch.randn(count, STATES, generator=generator)
        self.optimal = torch.tanh(self.states[:, :ACTIONS] - self.states[:, ACTIONS : 2 * ACTIONS])
        noise = torch.randn(count, ACTIONS, generator=generator)
        self.selected = torch.arange(0, count, 2)  # the rows of good episodes act optimally
        self.actions = (self.optimal + 0.5 * noise).clamp(-1, 1)
        self.actions[self.selected] = self.optimal[self.selected]
        miss = (self.actions - self.optimal).square().sum(1)
        self.returns_to_go = 100 * (self.states[:, 4] - miss)


TRANSITIONS = Transitions()
Fit = Callable[..., Expert]


def percent_bc(seed: int = 0, progress: Callable[[float], None] | None = None) -> PercentBC:
    t = TRANSITIONS
    return fit_percent_bc(t.states, t.actions, t.selected, t.returns_to_go, SMALL, seed, progress)


EXPERTS: dict[str, tuple[Fit, type]] = {"percent_bc": (percent_bc, PercentBC)}


@pytest.fixture(params=list(EXPERTS), scope="module")
def fit(request: pytest.FixtureRequest) -> Fit:
    return EXPERTS[request.param][0]


@pytest.fixture(params=list(EXPERTS), scope="module")
def fitted(request: pytest.FixtureRequest) -> tuple[Expert, type]:
    make, kind = EXPERTS[request.param]
    return make(), kind


def fresh_states(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, STATES, generator=torch.Generator().manual_seed(9))


# What every expert must do


@pytest.mark.parametrize("count", [0, 1, 37])
@pytest.mark.parametrize("scale", [1.0, 1e6], ids=["usual", "far"])
def test_actions_and_values_have_their_shapes_and_ranges(
    fitted: tuple[Expert, type], count: int, scale: float
) -> None:
    expert, states = fitted[0], fresh_states(count, scale)
    actions = expert.actions(states)
    assert actions.shape == (count, ACTIONS)
    assert actions.dtype == torch.float32
    assert (actions.abs() <= 1).all()
    values = expert.values(states, actions)
    assert values.shape == (count,)
    assert values.isfinite().all()
    assert not actions.requires_grad
    assert not values.requires_grad


def test_a_state_is_judged_by_itself(fitted: tuple[Expert, type]) -> None:
    expert, states = fitted[0], fresh_states(70_000)  # more than one chunk
    actions = expert.actions(states)
    values = expert.values(states, actions)
    for row in (0, 65_535, 65_536, 69_999):
        at = slice(row, row + 1)
        torch.testing.assert_close(expert.actions(states[at]), actions[at], rtol=1e-4, atol=1e-5)
        one = expert.values(states[at], actions[at])
        torch.testing.assert_close(one, values[at], rtol=1e-4, atol=1e-3)


def test_the_same_seed_gives_the_same_expert(fit: Fit, fitted: tuple[Expert, type]) -> None:
    again, other = fit(0).state(), fit(1).state()
    for name, tensor in fitted[0].state().items():
        assert torch.equal(tensor, again[name]), name
    assert not torch.equal(fresh_actions(fit(0)), fresh_actions(fit(1)))
    assert other.keys() == again.keys()


def fresh_actions(expert: Expert) -> Tensor:
    return expert.actions(fresh_states(20))


def test_its_state_survives_a_file(fitted: tuple[Expert, type], tmp_path: Path) -> None:
    expert, kind = fitted
    save_file(expert.state(), tmp_path / "expert.safetensors")
    restored = kind.from_state(load_file(tmp_path / "expert.safetensors"), SMALL)
    states = fresh_states(20)
    actions = expert.actions(states)
    assert torch.equal(restored.actions(states), actions)
    assert torch.equal(restored.values(states, actions), expert.values(states, actions))


def test_it_acts_as_the_good_episodes_do(fitted: tuple[Expert, type]) -> None:
    held_out = torch.arange(1, 600, 2)  # states of bad episodes: it never saw their optimum
    actions = fitted[0].actions(TRANSITIONS.states[held_out])
    error = (actions - TRANSITIONS.optimal[held_out]).square().mean()
    behaviour = (TRANSITIONS.actions - TRANSITIONS.optimal)[held_out].square().mean()
    assert error < 0.3 * behaviour


def test_its_value_is_in_units_of_reward(fitted: tuple[Expert, type]) -> None:
    values = fitted[0].values(TRANSITIONS.states, TRANSITIONS.actions)
    residual = (values - TRANSITIONS.returns_to_go).square().mean()
    assert residual < 0.1 * TRANSITIONS.returns_to_go.var()


def test_progress_rises_to_one(fit: Fit) -> None:
    fractions: list[float] = []
    fit(0, fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


# percent_bc: which rows are cloned


def best_rows_twin(returns: list[float], lengths: list[int], fraction: float) -> list[int]:
    """Episodes from the best down, while they fit into the fraction; the best one in any case."""
    ends = np.cumsum(lengths).tolist()
    order = sorted(range(len(returns)), key=lambda episode: (-returns[episode], episode))
    chosen = order[:1]
    for episode in order[1:]:
        if sum(lengths[e] for e in [*chosen, episode]) > fraction * sum(lengths):
            break
        chosen.append(episode)
    return [row for e in chosen for row in range(ends[e] - lengths[e], ends[e])]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 20)), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 1.0]),
)
def test_the_best_episodes_fill_the_fraction(
    episodes: list[tuple[int, int]], fraction: float
) -> None:
    returns, lengths = [float(r) for r, _ in episodes], [length for _, length in episodes]
    rows = best_rows(np.array(returns), np.cumsum(lengths), fraction)
    assert rows.tolist() == best_rows_twin(returns, lengths, fraction)


def test_transitions_count_and_not_episodes() -> None:
    """Nine short failures and one long success: a tenth of the rows is within the success."""
    ends = np.cumsum([10] * 9 + [910])
    rows = best_rows(np.array([1.0] * 9 + [100.0]), ends, 0.1)
    assert rows.tolist() == list(range(90, 1000))


def test_constant_zero_returns_do_not_break_the_value() -> None:
    t = TRANSITIONS
    config = SMALL.model_copy(update={"steps": 3, "value_steps": 3})
    expert = fit_percent_bc(
        t.states, t.actions, t.selected, torch.zeros_like(t.returns_to_go), config, 0
    )
    assert expert.values(t.states, t.actions).abs().max() < 1e-3


# percent_bc on real data


def test_the_bundled_dataset_yields_a_good_expert() -> None:
    config = PipelineConfig(dataset="sdw/hopper-replay-mini-v0", weighting={"temperature": 0})
    prepared = Pipeline(config).prepare()
    assert prepared.expert_returns.shape == (10, 1)
    assert prepared.expert_returns.mean() >= 80
    dataset = load(config.dataset)
    states = torch.from_numpy(Normalizer.fit(dataset.observations)(dataset.observations))
    assert torch.equal(states, prepared.task.states)
    weights = prepared.task.weights.numpy()  # of `av_pbc` without density: q* over its mean
    returns_to_go = dataset.returns_to_go(config.expert.discount)
    assert np.corrcoef(weights, returns_to_go)[0, 1] > 0.7
