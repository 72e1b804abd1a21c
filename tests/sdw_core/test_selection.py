"""Which rows a distillation starts from."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.distill.selection import available_rows, select_rows
from sdw_core.errors import InputError
from sdw_core.registry import SELECTIONS


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + stream) for stream in range(count)]


def dataset(count: int = 500) -> tuple[Tensor, ...]:
    """States, log densities, returns of episodes of 10 rows, values and timesteps."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(count, 3)).astype(np.float32)
    log_density = generator.normal(size=count)
    log_density[:3] = -np.inf
    returns = np.repeat(generator.permutation(-(-count // 10)), 10)[:count].astype(float)
    values, timesteps = generator.normal(size=count), np.arange(count) % 10
    return tuple(map(torch.from_numpy, (states, log_density, returns, values, timesteps)))


@pytest.mark.parametrize("way", SELECTIONS.builtin)
@pytest.mark.parametrize("size", [1, 7, 50])
def test_rows_are_distinct_and_each_sets_own(way: str, size: int) -> None:
    picks = select_rows(way, size, generators(3), *dataset())
    assert picks.shape == (3, size)
    assert all(len(row.unique()) == size for row in picks)
    assert picks.min() >= 0
    assert picks.max() < 500
    assert torch.equal(picks, select_rows(way, size, generators(3), *dataset()))
    assert torch.equal(picks[1:], select_rows(way, size, generators(2, 1), *dataset()))
    if size > 1:
        assert not torch.equal(picks[0], picks[1])


@pytest.mark.parametrize("way", SELECTIONS.builtin)
@pytest.mark.parametrize("count", [1, 10, 55])
def test_all_that_are_available_can_be_taken(way: str, count: int) -> None:
    size = available_rows(way, count)
    assert size == (count if way != "best" else -(-count // 10))
    *given, timesteps = dataset(count)
    if way == "sdr":
        timesteps *= 0  # all are first states, of which it drops none
    picks = select_rows(way, size, generators(2), *given, timesteps)
    assert all(len(row.unique()) == size for row in picks)


def test_copies_of_one_state_are_distinct_rows_all_the_same() -> None:
    picks = select_rows("kmeans", 20, generators(2), torch.ones(30, 4))
    assert all(len(row.unique()) == 20 for row in picks)


def test_the_best_are_the_tenth_with_the_highest_return() -> None:
    states, log_density, returns, *_ = dataset()
    picks = select_rows("best", 50, generators(4), states, log_density, returns)
    assert set(picks.flatten().tolist()) == set(torch.where(returns >= 45)[0].tolist())
    few = select_rows("best", 5, generators(40), states, log_density, returns)
    assert (returns[few] >= 45).all()
    assert len(few.unique()) > 40  # at random among them


def test_one_from_each_stratum_of_the_density() -> None:
    states, log_density, returns, *_ = dataset()
    ranks = torch.empty(500, dtype=torch.int64)
    ranks[log_density.argsort(stable=True)] = torch.arange(500)
    picks = select_rows("density", 50, generators(40), states, log_density, returns)
    assert (ranks[picks] // 10 == torch.arange(50)).all()
    assert len(picks.unique()) > 450  # at random within a stratum


def episodes(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log densities (-inf among them) and values, both with ties, and timesteps: of 40 episodes."""
    generator = np.random.default_rng(seed)
    timesteps = np.concatenate([np.arange(n) for n in generator.integers(1, 700, 40)])
    log_density = generator.normal(-8.5, 3, len(timesteps)).round(1)
    log_density[generator.random(len(timesteps)) < 0.1] = -np.inf
    values = generator.normal(50, 100, len(timesteps)).round(-1)
    return tuple(map(torch.from_numpy, (log_density, values, timesteps)))


def kept_by_sdr(*given: Tensor) -> set[int]:
    """Which rows Stepwise Dual Ranking may take."""
    states = torch.zeros(len(given[0]), 1)
    with pytest.raises(InputError) as caught:
        select_rows("sdr", len(states), generators(1), states, given[0], None, *given[1:])
    words = str(caught.value)
    size = int(words.split("the ")[1].split()[0])
    assert words == (
        f"`pipeline.distill.synthetic_size` cannot exceed the {size} of {len(states)} states that "
        f"`pipeline.distill.initial_states: sdr` keeps, and is {len(states)}; lower it."
    )
    picks = select_rows("sdr", size, generators(1), states, given[0], None, *given[1:])
    return set(picks[0].tolist())


def quantile_twin(values: list[float], q: float) -> float:
    """Between the order statistics, linearly."""
    values, place = sorted(values), q * (len(values) - 1)
    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return low + (place - int(place)) * (high - low)


def sdr_twin(log_density: Tensor, values: Tensor, timesteps: Tensor) -> set[int]:
    """By the density itself, and quantiles that are interpolated, one timestep after the other."""
    density, value = np.exp(log_density.numpy()), values.numpy()
    kept = set()
    for t in range(int(timesteps.max()) + 1):
        rows = np.flatnonzero(timesteps.numpy() == t).tolist()
        most = quantile_twin([density[i] for i in rows], 1 - 0.2 * np.tanh(t / 100))
        least = quantile_twin([value[i] for i in rows], 0.2 * np.tanh(t / 100))
        kept |= {i for i in rows if density[i] <= most and value[i] >= least}
    return kept


def test_stepwise_dual_ranking_keeps_what_its_definition_keeps() -> None:
    given = episodes(0)
    kept = kept_by_sdr(*given)
    assert kept == sdr_twin(*given)
    assert 0.6 * len(given[0]) < len(kept) < 0.9 * len(given[0])


def test_stepwise_dual_ranking_ranks_each_timestep_by_itself() -> None:
    log_density, values, timesteps = episodes(1)
    kept = kept_by_sdr(log_density, values, timesteps)
    first = torch.nonzero(timesteps == 0).flatten().tolist()
    assert kept >= set(first)
    assert len(first) == 40
    other_units = (log_density / 2 - timesteps, values / 2 + 1000 * timesteps, timesteps)
    assert kept_by_sdr(*other_units) == kept
    lone = torch.arange(300)  # of one episode there is no other state of a timestep
    of_all = select_rows("sdr", 300, generators(1), lone[:, None], lone, None, -lone, lone)
    assert sorted(of_all[0].tolist()) == lone.tolist()


def test_stepwise_dual_ranking_drops_dense_and_poor_states_late() -> None:
    """In the limit a fifth by either: 0.8 x 0.8 of what is independent."""
    generator = torch.Generator().manual_seed(0)
    log_density, values = torch.randn(2, 20_000, generator=generator)
    for t, share in ((1, 0.996), (50, 0.824), (1000, 0.64)):
        kept = torch.tensor([*kept_by_sdr(log_density, values, torch.full((20_000,), t))])
        assert len(kept) == pytest.approx(share * 20_000, abs=100)
        cut = 1 - 0.2 * np.tanh(t / 100)
        assert log_density[kept].max() <= log_density.quantile(cut)
        assert values[kept].min() >= -(-values).quantile(cut)


def test_kmeans_finds_clusters_of_any_weight() -> None:
    """Of twelve blobs, some with 1 state in 100, random rows miss some; centres miss none."""
    generator = torch.Generator().manual_seed(0)
    blobs = 10 * torch.randn(12, 5, generator=generator)
    counts = torch.tensor([500] * 6 + [30] * 6)
    of = torch.arange(12).repeat_interleave(counts)
    states = blobs[of] + 0.1 * torch.randn(len(of), 5, generator=generator)
    picks = select_rows("kmeans", 12, generators(10), states)
    hit = [len(of[row].unique()) for row in picks]
    at_random = [len(of[row].unique()) for row in select_rows("random", 12, generators(10), states)]
    assert np.mean(hit) > 11
    assert np.mean(at_random) < 8
    whole = [row for row, blobs_hit in zip(picks, hit, strict=True) if blobs_hit == 12]
    middles = torch.stack([states[of == blob].mean(0) for blob in range(12)])
    nearest = torch.stack([(states - middle).square().sum(1).argmin() for middle in middles])
    assert any(set(row.tolist()) == set(nearest.tolist()) for row in whole)


def test_kmeans_explains_states_better_than_random_rows() -> None:
    states = dataset(3000)[0]

    def distortion(way: str) -> Tensor:
        picks = select_rows(way, 40, generators(5), states)
        return torch.stack([torch.cdist(states, states[row]).min(1).values.mean() for row in picks])

    assert (distortion("kmeans") < 0.95 * distortion("random").mean()).all()
