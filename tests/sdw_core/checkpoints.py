"""Tensors of an expert's checkpoint."""

import torch
from torch import Tensor

from sdw_core.config import CalQLConfig
from sdw_core.expert.cal_ql import Networks
from sdw_core.expert.networks import ActorCritic

STATES, ACTIONS = 5, 2
MEAN, STD = torch.arange(STATES) - 2.0, torch.linspace(0.5, 3, STATES)


def tensors_of(expert: ActorCritic) -> dict[str, Tensor]:
    """A checkpoint's tensors, for networks that see what `expert`'s see."""
    tensors = {"observation_mean": MEAN, "observation_std": STD}
    for layer in range(0, len(expert.actor), 2):
        tensors[f"actor.base_network.{layer}.weight"] = expert.actor[layer][0].T.contiguous()
        tensors[f"actor.base_network.{layer}.bias"] = expert.actor[layer + 1][0, 0].clone()
    for critic in (0, 1):
        for layer in range(0, len(expert.critics), 2):
            name = f"critic{critic + 1}.network.{layer}"
            tensors[f"{name}.weight"] = expert.critics[layer][critic].T.contiguous()
            tensors[f"{name}.bias"] = expert.critics[layer + 1][critic, 0].clone()
    return tensors


def networks_of(observations: int, actions: int, seed: int = 0) -> dict[str, Tensor]:
    """An untrained checkpoint's tensors, without a normaliser."""
    config = CalQLConfig(method="cal_ql", width=16, actor_layers=3)
    drawn = Networks.initial(observations, actions, config, seed, torch.device("cpu"))
    expert = ActorCritic(
        [p.detach() for p in drawn.actor], [p.detach() for p in drawn.critics], MEAN, MEAN
    )
    tensors = tensors_of(expert)
    del tensors["observation_mean"], tensors["observation_std"]
    return tensors
