"""Which rows a distillation starts from."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdw_core.distill.selection import available_rows, select_rows
from sdw_core.registry import SELECTIONS


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + stream) for stream in range(count)]


def dataset(count: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """States, log densities and episode returns; episodes of 10 rows."""
    generator = np.random.default_rng(0)
    states = generator.normal(size=(count, 3)).astype(np.float32)
    log_density = generator.normal(size=count)
    log_density[:3] = -np.inf
    returns = np.repeat(generator.permutation(-(-count // 10)), 10)[:count].astype(float)
    return torch.from_numpy(states), torch.from_numpy(log_density), torch.from_numpy(returns)


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
    picks = select_rows(way, size, generators(2), *dataset(count))
    assert all(len(row.unique()) == size for row in picks)
    assert size == (count if way != "best" else -(-count // 10))


def test_copies_of_one_state_are_distinct_rows_all_the_same() -> None:
    picks = select_rows("kmeans", 20, generators(2), torch.ones(30, 4))
    assert all(len(row.unique()) == 20 for row in picks)


def test_the_best_are_the_tenth_with_the_highest_return() -> None:
    states, log_density, returns = dataset()
    picks = select_rows("best", 50, generators(4), states, log_density, returns)
    assert set(picks.flatten().tolist()) == set(torch.where(returns >= 45)[0].tolist())
    few = select_rows("best", 5, generators(40), states, log_density, returns)
    assert (returns[few] >= 45).all()
    assert len(few.unique()) > 40  # at random among them


def test_one_from_each_stratum_of_the_density() -> None:
    states, log_density, returns = dataset()
    ranks = torch.empty(500, dtype=torch.int64)
    ranks[log_density.argsort(stable=True)] = torch.arange(500)
    picks = select_rows("density", 50, generators(40), states, log_density, returns)
    assert (ranks[picks] // 10 == torch.arange(50)).all()
    assert len(picks.unique()) > 450  # at random within a stratum


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
