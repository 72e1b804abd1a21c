"""Random streams: addressed, distinct, and the same tomorrow."""

from itertools import product

import numpy as np
import pytest
import torch

from sdw_core.seeds import derive_seed, numpy_generator, torch_generator

STAGES = ("density", "expert", "distill", "unroll", "evaluate", "evaluate/episode", "confirm")


@pytest.mark.parametrize(
    ("address", "seed"),
    [
        ((0, "distill"), 8301268677193526887),
        ((0, "distill", 1, 2), 5053740412041251692),
        ((7, "evaluate/episode", 9, 4), 6026688538536924824),
        ((2**80, "density"), 7616983875353570235),
    ],
)
def test_seeds_are_what_they_were_when_results_were_published(
    address: tuple[int, str], seed: int
) -> None:
    assert derive_seed(*address) == seed


def test_no_two_addresses_share_a_seed() -> None:
    addresses = list(product(range(5), STAGES, range(12), range(30)))
    seeds = {derive_seed(*address) for address in addresses}
    assert len(seeds) == len(addresses)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    episodes = {seed % 2**31 for seed in seeds}  # what environments are seeded with
    assert len(episodes) >= len(addresses) - 3


def test_generators_start_at_the_addressed_stream() -> None:
    one, two = (torch_generator(3, "distill", 1, 2) for _ in range(2))
    assert torch.equal(torch.randn(5, generator=one), torch.randn(5, generator=two))
    other = torch_generator(3, "distill", 2, 1)
    assert not torch.equal(torch.randn(5, generator=one), torch.randn(5, generator=other))
    numbers = [numpy_generator(3, "distill", 1, 2).random(5) for _ in range(2)]
    np.testing.assert_array_equal(*numbers)


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = np.stack([numpy_generator(0, "any", stream).random(2000) for stream in range(40)])
    correlations = np.corrcoef(draws)[~np.eye(40, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
