"""One conformance suite for every expert, and what is particular to each."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from sdw_core.config import CalQLConfig, PercentBCConfig, PipelineConfig
from sdw_core.dataset import load
from sdw_core.errors import DivergenceError, InputError, StopRequested
from sdw_core.evaluate import Arena, rollout
from sdw_core.expert import Expert, networks
from sdw_core.expert.cal_ql import Networks, Noise, Transitions, fit_cal_ql
from sdw_core.expert.checkpoint import read_checkpoint
from sdw_core.expert.networks import ActorCritic, outputs
from sdw_core.expert.percent_bc import PercentBC, best_rows, cosine_rates, fit_percent_bc
from sdw_core.expert.training import UNTENDED, Training
from sdw_core.feasibility import check_fit
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.pipeline import Pipeline
from sdw_core.policy import MLP
from sdw_core.registry import EXPERTS
from sdw_core.units import Units
from tests.sdw_core.checkpoints import ACTIONS, MEAN, STATES, STD, networks_of, tensors_of
from tests.sdw_core.processes import ROOT, kill, run, start
from tests.sdw_core.told import Told

SHARED = ROOT.parent / "shared" / "data"
BUNDLED = "sdw/hopper-replay-mini-v0"


class Problem:
    """Episodes of one step, in which the value and the best action of a state are known."""

    def __init__(self, count: int = 600) -> None:
        generator = torch.Generator().manual_seed(0)
        self.states = torch.randn(count, STATES, generator=generator)
        self.optimal = torch.tanh(self.states[:, :ACTIONS] - self.states[:, ACTIONS : 2 * ACTIONS])
        noise = torch.randn(count, ACTIONS, generator=generator)
        self.selected = torch.arange(0, count, 2)  # the rows of good episodes act optimally
        self.actions = (self.optimal + 0.5 * noise).clamp(-1, 1)
        self.actions[self.selected] = self.optimal[self.selected]
        self.rewards = self.reward(self.actions)

    def reward(self, actions: Tensor) -> Tensor:
        return 20 * (self.states[:, 4] - (actions - self.optimal).square().sum(1))

    @property
    def transitions(self) -> Transitions:
        ended = torch.ones_like(self.rewards)
        return Transitions(
            self.states, self.actions, self.rewards, 9 * self.states, ended, self.rewards
        )


PROBLEM = Problem()
Fit = Callable[..., Expert]


def percent_bc(seed: int = 0, training: Training = UNTENDED, **changes: Any) -> PercentBC:
    sizes = {"layers": 3, "width": 32, "steps": 300, "value_steps": 300, "learning_rate": 2e-3}
    config = PercentBCConfig(**(sizes | changes))
    p = PROBLEM
    return fit_percent_bc(p.states, p.actions, p.selected, p.rewards, config, seed, training)


def cal_ql(seed: int = 0, training: Training = UNTENDED, **changes: Any) -> ActorCritic:
    sizes = {
        "method": "cal_ql",
        "steps": 800,
        "actor_layers": 3,
        "width": 32,
        "batch_size": 64,
        "actor_learning_rate": 2e-3,
        "critic_learning_rate": 4e-3,
        "conservatism": 0.3,
        "sampled_actions": 3,
    }
    return fit_cal_ql(PROBLEM.transitions, CalQLConfig(**(sizes | changes)), seed, training)


def units(mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Units:
    """Of states only: an expert's actions are in [-1, 1] already."""
    no_actions = np.empty(0, np.float32)
    return Units(mean, scale, no_actions, no_actions)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Expert]:
    """Each of them, fitted; the checkpoint holds the networks of cal_ql for raw observations."""
    path = tmp_path_factory.mktemp("experts") / "expert.safetensors"
    conservative = cal_ql()
    save_file(tensors_of(conservative), path)
    own = units(MEAN.numpy(), STD.numpy())
    return {
        "percent_bc": percent_bc(),
        "percent_bc, ensemble": percent_bc(ensemble=3),
        "cal_ql": conservative,
        "checkpoint": read_checkpoint(str(path)).expert(own, "cpu"),
    }


@pytest.fixture(params=[*EXPERTS.builtin, "percent_bc, ensemble"], scope="module")
def expert(request: pytest.FixtureRequest, experts: dict[str, Expert]) -> Expert:
    return experts[request.param]


def fresh_states(count: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, STATES, generator=torch.Generator().manual_seed(9))


# What every expert must do


@pytest.mark.parametrize("count", [0, 1, 37])
@pytest.mark.parametrize("scale", [1.0, 1e6], ids=["usual", "far"])
def test_actions_and_values_have_their_shapes_and_ranges(
    expert: Expert, count: int, scale: float
) -> None:
    states = fresh_states(count, scale)
    actions = expert.actions(states)
    assert actions.shape == (count, ACTIONS)
    assert actions.dtype == torch.float32
    assert (actions.abs() <= 1).all()
    assert torch.equal(actions, expert.actions(states))  # nothing is drawn
    values = expert.values(states, actions)
    assert values.shape == (count,)
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert not actions.requires_grad
    assert not values.requires_grad


def test_a_state_is_judged_by_itself(expert: Expert) -> None:
    states = fresh_states(70_000)  # more than one chunk
    actions = expert.actions(states)
    values = expert.values(states, actions)
    for row in (0, 65_535, 65_536, 69_999):
        at = slice(row, row + 1)
        torch.testing.assert_close(expert.actions(states[at]), actions[at], rtol=1e-4, atol=1e-5)
        one = expert.values(states[at], actions[at])
        torch.testing.assert_close(one, values[at], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))],
)
def test_its_state_survives_a_file_and_another_device(
    expert: Expert, device: str, tmp_path: Path
) -> None:
    save_file(expert.state(), tmp_path / "expert.safetensors")
    state = load_file(tmp_path / "expert.safetensors", device)
    restored = type(expert).from_state(state)
    states = fresh_states(20)
    actions = expert.actions(states)
    again = restored.actions(states.to(device))
    values = restored.values(states.to(device), actions.to(device))
    assert again.device.type == values.device.type == device
    for name, tensor in restored.state().items():
        assert torch.equal(tensor.cpu(), expert.state()[name]), name
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(again.cpu(), actions, **tolerance)
    torch.testing.assert_close(values.cpu(), expert.values(states, actions), **tolerance)


def test_it_acts_as_the_good_episodes_do(expert: Expert) -> None:
    bad = torch.arange(1, 600, 2)  # episodes that did not show their optimum
    actions = expert.actions(PROBLEM.states[bad])
    error = (actions - PROBLEM.optimal[bad]).square().mean()
    behaviour = (PROBLEM.actions - PROBLEM.optimal)[bad].square().mean()
    assert error < 0.3 * behaviour


def test_an_ensemble_acts_by_the_mean_of_networks_that_are_cloned_alone() -> None:
    short = {"steps": 70, "value_steps": 1}
    alone, ensemble = percent_bc(**short), percent_bc(ensemble=3, **short)
    for of_one, of_three in zip(alone.policy, ensemble.policy, strict=True):
        assert of_three.shape == (3, *of_one.shape[1:])
        torch.testing.assert_close(of_three[:1], of_one, rtol=1e-4, atol=1e-5)
    states = fresh_states(20)
    members = [
        PercentBC([p[i : i + 1] for p in ensemble.policy], ensemble.value, ensemble.value_scale)
        for i in range(3)
    ]
    actions = torch.stack([member.actions(states) for member in members])
    assert actions.std(0).min() > 0  # they differ
    torch.testing.assert_close(ensemble.actions(states), actions.mean(0))


def test_its_value_is_in_units_of_reward(expert: Expert) -> None:
    values = expert.values(PROBLEM.states, PROBLEM.actions)
    residual = (values - PROBLEM.rewards).square().mean()
    assert residual < 0.15 * PROBLEM.rewards.var()


# What every training must do


@pytest.fixture(params=["percent_bc", "percent_bc, ensemble", "cal_ql"])
def fit(request: pytest.FixtureRequest) -> Fit:
    """Short: 120 steps in all, so that a test may train often."""
    if request.param == "cal_ql":
        return lambda *a, **k: cal_ql(*a, **({"steps": 120} | k))
    ensemble = 3 if "ensemble" in request.param else 1
    short = {"steps": 70, "value_steps": 50, "ensemble": ensemble}
    return lambda *a, **k: percent_bc(*a, **(short | k))


def assert_same(one: Expert, other: Expert) -> None:
    state, again = one.state(), other.state()
    assert state.keys() == again.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, again[name]), name


def test_the_same_seed_gives_the_same_expert(fit: Fit) -> None:
    first, other = fit(0), fit(1)
    assert_same(first, fit(0))
    states = fresh_states(20)
    assert not torch.equal(first.actions(states), other.actions(states))
    assert not torch.equal(first.values(states, states[:, :2]), other.values(states, states[:, :2]))


def test_progress_rises_to_one(fit: Fit) -> None:
    fractions: list[float] = []
    fit(0, Training(fractions.append))
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("steps", [1, 69, 70, 90, 120])
def test_a_stopped_training_goes_on_where_it_was(fit: Fit, steps: int, tmp_path: Path) -> None:
    path = tmp_path / "expert.checkpoint"
    with pytest.raises(StopRequested, match=f"Stopped after {steps} of 120 steps"):
        fit(0, Training(checkpoint=path, key="k", should_stop=StopAfter(steps)))
    taken = StopAfter(10**6)
    assert_same(fit(0, Training(checkpoint=path, key="k", should_stop=taken)), fit(0))
    assert 10**6 - taken.left == 120 - steps


@pytest.mark.parametrize("damage", ["another key", "torn", "no file of this kind"])
def test_a_checkpoint_that_is_not_its_own_is_not_used(
    fit: Fit, damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "expert.checkpoint"
    key = "other" if damage == "another key" else "k"
    with pytest.raises(StopRequested):
        fit(1, Training(checkpoint=path, key=key, should_stop=StopAfter(10)))
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage != "another key":
        path.write_text("nonsense")
    assert_same(fit(0, Training(checkpoint=path, key="k")), fit(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["percent_bc", "cal_ql"])
def test_a_killed_training_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    """SIGKILL at any moment after the first checkpoint; the rest is done by another process."""
    path, made = tmp_path / "expert.checkpoint", tmp_path / "made.safetensors"
    code = """if True:
        import sys
        from pathlib import Path
        from time import sleep
        from safetensors.torch import save_file
        from sdw_core.expert.training import Training
        from tests.sdw_core import test_experts
        name, path, made, slow = sys.argv[1:]
        sizes = dict(width=8, batch_size=8)
        sizes |= dict(steps=700, value_steps=100) if name == "percent_bc" else dict(
            steps=700, sampled_actions=1)
        def tend():
            if slow == "slow" and Path(path).exists():
                sleep(0.05)
            return False
        training = Training(checkpoint=Path(path), key="k", should_stop=tend)
        save_file(getattr(test_experts, name)(0, training, **sizes).state(), made)
    """
    run(code, name, tmp_path / "whole.checkpoint", tmp_path / "whole.safetensors", "fast")
    process = start(code, name, path, made, "slow")
    while not path.exists():
        assert process.poll() is None, process.communicate()
        sleep(0.02)
    kill(process)
    assert not made.exists()
    run(code, name, path, made, "fast")
    whole, resumed = load_file(tmp_path / "whole.safetensors"), load_file(made)
    assert whole.keys() == resumed.keys()
    for tensor in whole:
        assert torch.equal(whole[tensor], resumed[tensor]), tensor


def test_a_training_that_diverges_ends_with_a_sentence(fit: Fit) -> None:
    name = "learning_rate" if isinstance(fit(0), PercentBC) else "critic_learning_rate"
    with pytest.raises(DivergenceError, match=r"is not finite; lower the learning rates of"):
        fit(0, **{name: 1e30})


# percent_bc: which rows are cloned


def best_rows_twin(
    returns: list[float], lengths: list[int], fraction: float, skipped: float = 0
) -> list[int]:
    """Episodes from the best down, while they fit into the fraction, one in any case.

    First those are left out that fit into the skipped fraction, except the very last episode.
    """
    ends = np.cumsum(lengths).tolist()
    order = sorted(range(len(returns)), key=lambda episode: (-returns[episode], episode))
    passed = 0
    while len(order) > 1 and passed + lengths[order[0]] <= skipped * sum(lengths):
        passed += lengths[order.pop(0)]
    chosen = order[:1]
    passed += lengths[order[0]]
    for episode in order[1:]:
        passed += lengths[episode]
        if passed > fraction * sum(lengths):
            break
        chosen.append(episode)
    return [row for e in chosen for row in range(ends[e] - lengths[e], ends[e])]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 20)), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 1.0]),
    st.sampled_from([0, 0, 0.25, 0.5, 0.75, 1.0]),
)
def test_the_best_episodes_fill_the_fraction(
    episodes: list[tuple[int, int]], fraction: float, skipped: float
) -> None:
    returns, lengths = [float(r) for r, _ in episodes], [length for _, length in episodes]
    rows = best_rows(np.array(returns), np.cumsum(lengths), fraction, skipped)
    assert rows.tolist() == best_rows_twin(returns, lengths, fraction, skipped)


def test_networks_share_the_rows_of_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    parameters = MLP.build(5, 2, 3, 16).initial_parameters(generators)
    inputs = torch.randn(50, 5, generator=generators[0])
    whole = outputs(parameters, inputs)
    passes: list[int] = []
    call = MLP.__call__

    def counted(self: MLP, parameters: list[Tensor], inputs: Tensor) -> Tensor:
        passes.append(len(parameters[0]) * inputs.shape[1])
        return call(self, parameters, inputs)

    monkeypatch.setattr(MLP, "__call__", counted)
    for rows in (24, 2):
        monkeypatch.setattr(networks, "CHUNK", rows)
        passes.clear()
        torch.testing.assert_close(outputs(parameters, inputs), whole)
        assert sum(passes) == 3 * 50
        assert max(passes) <= max(rows, 3)


def test_networks_that_do_not_fit_are_refused() -> None:
    states, actions = torch.zeros(4, 3), torch.zeros(4, 2)
    config = PercentBCConfig(ensemble=1000, width=16_384)
    with pytest.raises(InputError, match=r"^The expert's 1000 networks need .*expert\.ensemble`"):
        fit_percent_bc(states, actions, torch.arange(4), torch.zeros(4), config, 0)


def test_a_range_of_quantiles_is_counted_from_the_worst() -> None:
    assert PercentBCConfig().cloned == (0, 0.1)
    assert PercentBCConfig(episodes=(0, 0.5)).cloned == (0.5, 1)
    assert PercentBCConfig(episodes=(0.75, 1)).cloned == (0, 0.25)
    returns, ends = np.arange(10.0), np.arange(10, 101, 10)
    assert set(best_rows(returns, ends, 1.0, 0.5)) == set(range(50))
    assert set(best_rows(returns, ends, 0.5, 0.25)) == set(range(50, 80))


@pytest.mark.parametrize("episodes", [10, 100, 200])
def test_each_tenth_of_equal_episodes_is_a_tenth(episodes: int) -> None:
    returns, ends = np.arange(float(episodes)), 7 * np.arange(1, episodes + 1)
    tenths = [k / 10 for k in range(11)]
    for low, high in combinations(tenths, 2):
        skipped, fraction = PercentBCConfig(episodes=(low, high)).cloned
        first, last = round(low * episodes), round(high * episodes)
        rows = best_rows(returns, ends, fraction, skipped)
        assert sorted(rows) == list(range(7 * first, 7 * last)), (low, high)
    best = PercentBCConfig(episodes=(0.9, 1)).cloned, PercentBCConfig(fraction=0.1).cloned
    by_range, by_fraction = (best_rows(returns, ends, f, skipped) for skipped, f in best)
    assert by_range.tolist() == by_fraction.tolist()


def test_transitions_count_and_not_episodes() -> None:
    """Nine short failures and one long success: a tenth of the rows is within the success."""
    ends = np.cumsum([10] * 9 + [910])
    rows = best_rows(np.array([1.0] * 9 + [100.0]), ends, 0.1)
    assert rows.tolist() == list(range(90, 1000))


def test_constant_zero_returns_do_not_break_the_value() -> None:
    p, config = PROBLEM, PercentBCConfig(steps=3, value_steps=3)
    zero = torch.zeros_like(p.rewards)
    expert = fit_percent_bc(p.states, p.actions, p.selected, zero, config, 0)
    assert expert.values(p.states, p.actions).abs().max() < 1e-3


def test_learning_rates_are_those_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 57)
    for rate in cosine_rates(0.3, 57):
        assert optimizer.param_groups[0]["lr"] == rate
        optimizer.step()
        schedule.step()


# percent_bc on real data


@pytest.mark.slow
def test_the_bundled_dataset_yields_a_good_expert() -> None:
    config = PipelineConfig(dataset=BUNDLED, distill={"objective": "av_pbc"})
    prepared = Pipeline(config).prepare()
    assert prepared.expert_returns.shape == (10, 1)
    assert prepared.expert_returns.mean() >= 80
    dataset = load(config.dataset)
    states = torch.from_numpy(dataset.states)
    assert torch.equal(states, prepared.task.states)
    weights = prepared.task.weights.numpy()  # of `av_pbc` without density: q* over its mean
    returns_to_go = dataset.returns_to_go(config.expert.discount)
    assert np.corrcoef(weights, returns_to_go)[0, 1] > 0.7


# cal_ql: the losses, and what they lead to


def twin_losses(
    networks: Networks, batch: Transitions, noise: Noise, config: CalQLConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """State by state, critic by critic, with torch's own distributions; in float64."""

    def network(parameters: list[Tensor], which: int, inputs: Tensor) -> Tensor:
        for layer in range(0, len(parameters), 2):
            inputs = inputs @ parameters[layer][which] + parameters[layer + 1][which, 0]
            inputs = inputs.relu() if layer < len(parameters) - 2 else inputs
        return inputs

    def pi(state: Tensor) -> TransformedDistribution:
        output = network(networks.actor, 0, state)
        mean, log_std = output[:ACTIONS], (output[ACTIONS:] - 1).clamp(-20, 2)
        return TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))

    def drawn(policy: TransformedDistribution, noise: Tensor) -> tuple[Tensor, Tensor]:
        action = torch.tanh(policy.base_dist.loc + policy.base_dist.scale * noise)
        return action, policy.log_prob(action).sum()

    def q(critics: list[Tensor], which: int, state: Tensor, action: Tensor) -> Tensor:
        return network(critics, which, torch.cat([state, action]))[0]

    count, alpha = len(batch.states), networks.log_alpha.exp().detach()
    actor_loss = critic_loss = alpha_loss = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        s, a, r, s_next, d, g = (getattr(batch.at(torch.tensor(i)), n) for n in FIELDS)
        action, log_density = drawn(pi(s), noise.sample[i, 0])
        smaller = min(q(networks.critics, j, s, action) for j in (0, 1))
        actor_loss = actor_loss + (alpha * log_density - smaller) / count
        entropy_excess = (log_density - ACTIONS).detach()
        alpha_loss = alpha_loss - networks.log_alpha * entropy_excess / count
        after, _ = drawn(pi(s_next), noise.backup[i, 0])
        future = min(q(networks.targets, j, s_next, after) for j in (0, 1))
        target = (r + (1 - d) * config.discount * future).detach()
        for j in (0, 1):
            exponents = []
            for k in range(config.sampled_actions):
                uniform = q(networks.critics, j, s, noise.uniform[i, k])
                exponents.append(uniform - ACTIONS * np.log(0.5))
                for policy, draws in ((pi(s), noise.current), (pi(s_next), noise.following)):
                    proposal, log_p = (t.detach() for t in drawn(policy, draws[i, k]))
                    value = q(networks.critics, j, s, proposal)
                    exponents.append((value if value > g else g) - log_p)
            shown = q(networks.critics, j, s, a)
            cql = torch.stack(exponents).exp().sum().log() - shown
            td = (shown - target) ** 2
            critic_loss = critic_loss + (td + config.conservatism * cql) / count
    return actor_loss, critic_loss, alpha_loss


FIELDS = Transitions.__dataclass_fields__


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_are_the_twins(seed: int, dtype: torch.dtype) -> None:
    config = CalQLConfig(
        method="cal_ql", width=7, actor_layers=3, critic_layers=2, sampled_actions=3, discount=0.9
    )
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    batch = Transitions(
        *(normal(6, STATES), normal(6, ACTIONS).tanh(), normal(6), normal(6, STATES)),
        *(torch.tensor([0.0, 1, 0, 0, 1, 0]), normal(6)),
    )
    noise = Noise.draw(6, ACTIONS, 3, generator)
    drawn = Networks.initial(STATES, ACTIONS, config, seed, torch.device("cpu"))
    target_critics = [p + 0.1 * normal(*p.shape) for p in drawn.targets]

    def converted(dtype: torch.dtype) -> tuple[Networks, Transitions, Noise]:
        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype).requires_grad_()

        networks = Networks(
            [leaf(p) for p in drawn.actor],
            [leaf(p) for p in drawn.critics],
            [p.to(dtype) for p in target_critics],
            leaf(torch.tensor(-0.7)),
        )
        return (
            networks,
            Transitions(*(getattr(batch, name).to(dtype) for name in FIELDS)),
            Noise(*(getattr(noise, name).to(dtype) for name in Noise.__dataclass_fields__)),
        )

    given, exact = converted(dtype), converted(torch.float64)
    losses = given[0].losses(given[1], given[2], config)
    expected = twin_losses(*exact, config)
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )
    for which, owned in enumerate(("actor", "critics", "log_alpha")):
        torch.testing.assert_close(losses[which].double(), expected[which].detach(), **tolerance)
        variables = [getattr(n, owned) for n in (given[0], exact[0])]
        mine, twins = (
            torch.autograd.grad(loss, v, retain_graph=True)
            for loss, v in zip((losses[which], expected[which]), variables, strict=True)
        )
        for one, other in zip(mine, twins, strict=True):
            torch.testing.assert_close(one.double(), other, **tolerance)


def test_calibration_keeps_values_up_to_what_the_dataset_achieved() -> None:
    """Without it (no return to go is high enough), the same conservatism pushes them below."""
    p = PROBLEM
    config = CalQLConfig(
        method="cal_ql", steps=400, width=32, actor_layers=2, batch_size=64, conservatism=20,
        actor_learning_rate=2e-3, critic_learning_rate=4e-3, sampled_actions=3,
    )  # fmt: skip
    conservative = replace(p.transitions, returns_to_go=torch.full_like(p.rewards, -1e9))
    means = []
    for transitions in (p.transitions, conservative):
        expert = fit_cal_ql(transitions, config, 0)
        means.append(expert.values(p.states, expert.actions(p.states)).mean())
    assert means[0] > p.rewards.mean() - 1
    assert means[0] > means[1] + 3


def test_what_comes_later_counts_unless_the_episode_ended() -> None:
    """Two steps: nothing now, the reward afterwards; or nothing now, and the end."""
    p, half = PROBLEM, len(PROBLEM.states) // 2
    goes_on = torch.arange(len(p.states)) < half
    states = torch.cat([p.states, p.states.roll(1, 1)])
    marked = states.clone()
    marked[: len(p.states), 0] = goes_on * 2.0 - 1
    marked[len(p.states) :, 0] = 0.0
    zero, ten = torch.zeros(len(p.states)), torch.full((len(p.states),), 10.0)
    transitions = Transitions(
        marked,
        torch.cat([p.actions, p.actions]),
        torch.cat([zero, ten]),
        torch.cat([marked[len(p.states) :]] * 2),
        torch.cat([(~goes_on).float(), torch.ones(len(p.states))]),
        torch.cat([9.0 * goes_on, ten]),
    )
    config = CalQLConfig(
        method="cal_ql", steps=500, width=32, actor_layers=2, batch_size=64, conservatism=0.1,
        actor_learning_rate=1e-3, critic_learning_rate=4e-3, sampled_actions=3, discount=0.9,
        target_rate=0.05,
    )  # fmt: skip
    expert = fit_cal_ql(transitions, config, 0)
    values = expert.values(marked, transitions.actions)[: len(p.states)]
    assert abs(values[goes_on].mean() - 9) < 1.5
    assert abs(values[~goes_on].mean()) < 1.5


# checkpoint: what is read


@pytest.fixture(scope="module")
def hopper() -> OfflineDataset:
    return load(BUNDLED)


def configured(path: Path, **changes: Any) -> PipelineConfig:
    return PipelineConfig(
        dataset=BUNDLED,
        weighting={"temperature": 0},
        expert={"method": "checkpoint", "path": str(path)},
        **changes,
    )


def by_hand(tensors: dict[str, Tensor], prefix: str, inputs: Tensor) -> Tensor:
    layers = sorted({int(n) for k in tensors for n in re.findall(rf"^{prefix}\.(\d+)\.weight", k)})
    for layer in layers:
        weight, bias = (tensors[f"{prefix}.{layer}.{kind}"] for kind in ("weight", "bias"))
        inputs = torch.nn.functional.linear(inputs, weight, bias)
        inputs = inputs.relu() if layer != layers[-1] else inputs
    return inputs


@pytest.mark.parametrize("own", [True, False], ids=["its own normaliser", "the dataset's"])
def test_a_checkpoint_sees_raw_states_through_the_right_normaliser(
    own: bool, hopper: OfflineDataset, tmp_path: Path
) -> None:
    tensors, raw = networks_of(11, 3), torch.from_numpy(hopper.observations[:500])
    mean = torch.from_numpy(hopper.units.observation_mean)
    std = torch.from_numpy(hopper.units.observation_scale)
    if own:
        mean, std = 0.5 * mean + 0.1, 2 * std
        tensors |= {"observation_mean": mean, "observation_std": std}
    save_file(tensors, tmp_path / "e.safetensors")
    expert = read_checkpoint(str(tmp_path / "e.safetensors")).expert(hopper.units, "cpu")
    z = torch.from_numpy(hopper.states[:500])
    seen = (raw - mean) / std
    actions = by_hand(tensors, "actor.base_network", seen)[:, :3].tanh()
    torch.testing.assert_close(expert.actions(z), actions, rtol=1e-4, atol=1e-4)
    inputs = torch.cat([seen, actions], 1)
    values = [by_hand(tensors, f"critic{i}.network", inputs)[:, 0] for i in (1, 2)]
    expected = torch.minimum(*values)
    torch.testing.assert_close(expert.values(z, actions), expected, rtol=1e-4, atol=1e-4)


SAVED_BY_CORL = """if True:
    import sys, torch
    from collections import OrderedDict
    from safetensors.torch import load_file

    class Scalar(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.constant = torch.nn.Parameter(torch.tensor(value))

    tensors = load_file(sys.argv[1])

    def part(name):
        below = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name)}
        return OrderedDict(below)

    weights = [torch.nn.Parameter(v.clone()) for v in part("actor").values()]
    optimizer = torch.optim.Adam(weights, 1e-4)
    sum(w.sum() for w in weights).backward()
    optimizer.step()
    document = {
        "actor": part("actor") | {
            "log_std_multiplier.constant": torch.tensor(1.0),
            "log_std_offset.constant": torch.tensor(-1.0),
        },
        "critic1": part("critic1"),
        "critic2": part("critic2"),
        "critic1_target": part("critic1"),
        "critic2_target": part("critic2"),
        "actor_optim": optimizer.state_dict(),
        "sac_log_alpha": Scalar(0.5),
        "sac_log_alpha_optim": optimizer.state_dict(),
        "cql_log_alpha": Scalar(1.0),
        "total_it": 1000,
    }
    torch.save(document, sys.argv[2])
"""


def test_a_file_as_corl_saves_it_is_the_same_expert(tmp_path: Path) -> None:
    """CORL's state dict holds instances of a class of its training script."""
    ours, corls = tmp_path / "e.safetensors", tmp_path / "checkpoint_999.pt"
    save_file(networks_of(11, 3), ours)
    run(SAVED_BY_CORL, ours, corls)
    one, other = read_checkpoint(str(ours)), read_checkpoint(str(corls))
    as_they_are = units(np.zeros(11, np.float32), np.ones(11, np.float32))
    assert_same(one.expert(as_they_are, "cpu"), other.expert(as_they_are, "cpu"))


def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path) -> None:
    evil, trace = tmp_path / "evil.pt", tmp_path / "trace"
    code = """if True:
        import sys, torch
        from pathlib import Path

        class Evil:
            def __reduce__(self):
                return Path.touch, (Path(sys.argv[2]),)

        torch.save({"actor": {}, "sac_log_alpha": Evil()}, sys.argv[1])
    """
    run(code, evil, trace)
    with pytest.raises(InputError, match="one of more than weights, which could run code; save"):
        read_checkpoint(str(evil))
    assert not trace.exists()


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in networks_of(11, 3).items() if key != name}


def having(**changes: Tensor) -> dict[str, Tensor]:
    return networks_of(11, 3) | {k.replace("__", "."): v for k, v in changes.items()}


ONE = {"actor__base_network__2__weight": torch.full((16, 16), float("nan"))}
REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "a missing tensor": (
        without("critic2.network.2.bias"), "has no tensor 'critic2.network.2.bias'; give one",
    ),
    "no critics": (
        {k: v for k, v in networks_of(11, 3).items() if k.startswith("actor")},
        "has no tensor 'critic1.network.0.weight'",
    ),
    "nothing": ({}, "has no tensor 'actor.base_network.0.weight'"),
    "an unknown tensor": (
        having(actor__body__0__weight=torch.ones(2, 2)), "unknown tensor 'actor.body.0.weight'",
    ),
    "no number": (having(**ONE), "'actor.base_network.2.weight', which is not all finite numbers"),
    "whole numbers": (
        having(critic1__network__0__bias=torch.ones(16, dtype=torch.int32)),
        "'critic1.network.0.bias', which is not all finite numbers",
    ),
    "layers that do not follow": (
        having(actor__base_network__2__weight=torch.ones(16, 15)), "do not follow one another",
    ),
    "layers without relu": (
        having(actor__base_network__1__weight=torch.ones(16, 16)), "do not follow one another",
    ),
    "a convolution": (
        having(actor__base_network__2__weight=torch.ones(16, 16, 3)), r"of shape \(16, 16, 3\)",
    ),
    "critics of another environment": (
        {k: v for k, v in networks_of(11, 3).items() if k.startswith("actor")}
        | {k: v for k, v in networks_of(17, 6).items() if k.startswith("critic")},
        "an actor of 11 inputs and 6 outputs, .* and critics of 23 and 23 inputs",
    ),
    "an actor without a spread": (
        having(
            actor__base_network__4__weight=torch.ones(3, 16),
            actor__base_network__4__bias=torch.ones(3),
        ),
        "an actor of 11 inputs and 3 outputs",
    ),
    "half a normaliser": (
        having(observation_mean=torch.zeros(11)), "of 11 numbers each, the latter positive",
    ),
    "a normaliser of another width": (
        having(observation_mean=torch.zeros(17), observation_std=torch.ones(17)),
        "of 11 numbers each",
    ),
    "a normaliser that divides by zero": (
        having(observation_mean=torch.zeros(11), observation_std=torch.zeros(11)),
        "the latter positive",
    ),
}  # fmt: skip


def one_sentence(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")
    assert ". " not in str(error).replace("...", "")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("what", list(REFUSED))
def test_a_checkpoint_that_is_no_expert_is_refused(what: str, suffix: str, tmp_path: Path) -> None:
    tensors, sentence = REFUSED[what]
    path = tmp_path / f"e{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    elif what == "an unknown tensor":
        pytest.skip("what else a .pt file holds is left alone")
    else:
        nested: dict[str, Any] = {}
        for name, value in tensors.items():
            part, _, below = name.partition(".")
            nested |= {part: nested.get(part, {}) | {below: value}} if below else {part: value}
        torch.save(nested, path)
    with pytest.raises(InputError, match=sentence) as refusal:
        read_checkpoint(str(path))
    one_sentence(refusal.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "e.onnx").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    for name, sentence in {
        "missing.pt": "does not exist; correct `pipeline.expert.path`",
        "folder.pt": "is a folder",
        "e.onnx": "is neither .safetensors nor .pt",
        "list.pt": "must hold a dict with `actor`",
    }.items():
        with pytest.raises(InputError, match=sentence) as refusal:
            read_checkpoint(str(tmp_path / name))
        one_sentence(refusal.value)


@settings(max_examples=60, derandomize=True)
@given(suffix=st.sampled_from([".pt", ".safetensors"]), data=st.data())
def test_whatever_a_file_holds_is_refused_in_one_sentence(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / f"e{suffix}"
    if suffix == ".pt":
        torch.save({"actor": networks_of(2, 1)}, path)
        whole = path.read_bytes()
    else:
        whole = save(networks_of(2, 1))
    cut = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(max_size=30))
    path.write_bytes(data.draw(st.sampled_from([whole[:cut], noise, whole[:cut] + noise])))
    with pytest.raises(InputError) as refusal:
        read_checkpoint(str(path))
    assert len(str(refusal.value).splitlines()) == 1


# checkpoint: which dataset it is for


@pytest.mark.parametrize(
    ("dimensions", "trained_on", "sentence"),
    [
        ((11, 3), "D4RL hopper-medium-v2", None),
        ((11, 3), "", None),
        ((11, 3), "my own data", None),
        ((11, 3), "mujoco/hopper/medium-v0", None),
        (
            (17, 6),
            "D4RL halfcheetah-medium-v2",
            f"is for states and actions of 17 and 6 dimensions, and those of {BUNDLED} have 11 and "
            "3; give a checkpoint for Hopper-v5",
        ),
        ((11, 4), "", "of 11 and 4 dimensions"),
        (
            (11, 3),
            "D4RL walker2d-medium-v2",
            f"was trained on 'D4RL walker2d-medium-v2', and {BUNDLED} is of Hopper-v5",
        ),
    ],
)
def test_a_checkpoint_for_another_environment_is_refused(
    dimensions: tuple[int, int],
    trained_on: str,
    sentence: str | None,
    hopper: OfflineDataset,
    tmp_path: Path,
) -> None:
    path = tmp_path / "e.safetensors"
    save_file(networks_of(*dimensions), path, {"trained_on": trained_on})
    if sentence is None:
        check_fit(configured(path), hopper)
        return
    with pytest.raises(InputError, match=sentence) as refusal:
        check_fit(configured(path), hopper)
    one_sentence(refusal.value)


# All of them in the pipeline


def test_a_checkpoints_result_is_known_by_what_the_file_holds(tmp_path: Path) -> None:
    path, cache = tmp_path / "e.safetensors", tmp_path / "cache"
    save_file(networks_of(11, 3), path)
    first = Pipeline(configured(path), cache).prepare()
    assert len(list(cache.glob("expert-*.safetensors"))) == 1
    moved = path.rename(tmp_path / "moved.safetensors")
    again = Pipeline(configured(moved), cache).prepare()
    assert len(list(cache.glob("expert-*.safetensors"))) == 1
    assert torch.equal(again.task.targets, first.task.targets)
    save_file(networks_of(11, 3, seed=1), path)
    other = Pipeline(configured(path), cache).prepare()
    assert len(list(cache.glob("expert-*.safetensors"))) == 2
    assert not torch.equal(other.task.targets, first.task.targets)
    assert other.expert_returns.shape == (10, 1)


@pytest.mark.parametrize(
    "expert",
    [
        {"layers": 2, "width": 8, "steps": 60, "value_steps": 60},
        {"method": "cal_ql", "width": 8, "steps": 120, "batch_size": 8, "sampled_actions": 1},
    ],
    ids=["percent_bc", "cal_ql"],
)
def test_a_pipeline_that_is_stopped_in_its_expert_goes_on_there(
    expert: dict[str, Any], tmp_path: Path
) -> None:
    config = PipelineConfig(dataset=BUNDLED, weighting={"temperature": 0}, expert=expert)
    whole = Pipeline(config).prepare()
    with pytest.raises(StopRequested, match="Stopped after 40 of 120 steps of the expert"):
        Pipeline(config, tmp_path, should_stop=StopAfter(40)).prepare()
    assert [path.suffix for path in tmp_path.glob("expert-*[!k]")] == [".checkpoint"]
    told: list[float] = []
    resumed = Pipeline(
        config,
        tmp_path,
        lambda stage, fraction: told.append(fraction) if stage == "expert" else None,
    ).prepare()
    assert [path.suffix for path in tmp_path.glob("expert-*[!k]")] == [".safetensors"]
    assert told[1:] == [50 / 120, 100 / 120, 1]
    assert torch.equal(resumed.task.targets, whole.task.targets)
    assert torch.equal(resumed.task.weights, whole.task.weights)
    np.testing.assert_array_equal(resumed.expert_returns, whole.expert_returns)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "experts").is_dir(), reason="needs ../shared")
@pytest.mark.parametrize(
    ("name", "mean", "spread"), [("halfcheetah-medium", 47.5, 2), ("hopper-medium", 50, 8)]
)
def test_the_papers_checkpoints_reach_their_known_returns(
    name: str, mean: float, spread: float
) -> None:
    dataset = load(str(SHARED / "minari" / "sdw" / f"{name}-v0"))
    checkpoint = read_checkpoint(str(SHARED / "experts" / f"calql-{name}.safetensors"))
    checkpoint.require_fit(dataset)
    expert, arena = checkpoint.expert(dataset.units, "cpu"), Arena.of(dataset)
    act = arena.actor(lambda s: expert.actions(s.flatten(0, 1))[None], "cpu")
    returns = arena.normalized(rollout(act, arena, 1, 30, 0, "expert"))
    assert abs(returns.mean() - mean) < spread
    states = torch.from_numpy(dataset.states)
    values = expert.values(states, expert.actions(states)).numpy()
    assert np.corrcoef(values, dataset.returns_to_go(0.99))[0, 1] > 0.5


@pytest.mark.parametrize(
    ("fit", "names"),
    [
        (partial(percent_bc, steps=8, value_steps=8), ["expert/policy_loss", "expert/value_loss"]),
        (partial(cal_ql, steps=8), ["expert/actor_loss", "expert/critic_loss"]),
    ],
)
def test_a_training_that_goes_on_tells_the_losses_of_an_uninterrupted_one(
    fit, names, tmp_path
) -> None:
    whole, first, second = Told(), Told(), Told()
    fit(0, Training(measured=whole))
    assert list(whole.curves) == names
    kept = {"checkpoint": tmp_path / "c", "key": "k"}
    answers = iter([False] * 4 + [True])
    with pytest.raises(StopRequested):
        fit(0, Training(**kept, should_stop=lambda: next(answers), measured=first))
    assert set(first.curves[names[0]]) == {1, 2, 3, 4, 5}
    fit(0, Training(**kept, measured=second))
    assert second.curves == whole.curves
