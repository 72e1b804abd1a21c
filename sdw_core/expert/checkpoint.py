"""An expert that was trained elsewhere: an actor and its twin critics, from a file.

Two formats are read. A safetensors file has the tensors

    actor.base_network.{0,2,..}.{weight,bias}    state -> mean and log standard deviation [2 A]
    critic{1,2}.network.{0,2,..}.{weight,bias}   state and action -> action value
    observation_mean, observation_std            [O]: the networks see (s - mean) / std

and may say in its metadata, under `trained_on`, which dataset it comes from. A `.pt` file is what
CORL's Cal-QL saves: a dict with the state dicts `actor`, `critic1` and `critic2`; what else it
holds is left alone. Hidden layers are followed by relu. CORL keeps its normaliser out of its files;
where none is stated, it is the one that CORL computes, mean and standard deviation + 1e-3, of the
dataset at hand.

Actions are in units of the action range, [-1, 1], for the critics too; action values are in units
of the dataset's reward, as for CORL's reward scale 1 and bias 0.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdw_core.errors import InputError
from sdw_core.expert import Demonstrations
from sdw_core.expert.networks import ActorCritic
from sdw_core.files import sha256_of_file
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.policy import MLP, Parameters
from sdw_core.units import Units

NETWORKS = {"actor": "base_network", "critic1": "network", "critic2": "network"}
NORMALIZER = ("observation_mean", "observation_std")
SCALARS = ("actor.log_std_multiplier.constant", "actor.log_std_offset.constant")
"""CORL's, of the actor's spread: its mean does not depend on them."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked.

    Attributes:
        path: the file.
        sha256: of its bytes.
        actor: a pack of one: state [O] -> mean and log standard deviation [2 A].
        critics: a pack of two: state and action [O + A] -> action value [1].
        mean, std: its normaliser's, [O]; None where the file has none.
        trained_on: the dataset it comes from, in the file's own words; may be empty.
    """

    path: str
    sha256: str
    actor: Parameters
    critics: Parameters
    mean: Tensor | None
    std: Tensor | None
    trained_on: str

    @property
    def dimensions(self) -> tuple[int, int]:
        """O and A."""
        sizes = MLP.of(self.actor).sizes
        return sizes[0], sizes[-1] // 2

    def require_fit(self, dataset: OfflineDataset) -> None:
        """Refuse a dataset of another environment than the checkpoint's.

        Raises:
            InputError: the dimensions differ, or `trained_on` names another environment.
        """
        here = dataset.observations.shape[1], dataset.actions.shape[1]
        way_out = f"give a checkpoint for {dataset.environment}."
        if self.dimensions != here:
            raise InputError(
                f"The expert checkpoint {self.path!r} is for states and actions of "
                f"{self.dimensions[0]} and {self.dimensions[1]} dimensions, and those of "
                f"{dataset.name} have {here[0]} and {here[1]}; {way_out}"
            )
        named = set(re.findall(r"[a-z0-9]+", self.trained_on.lower())) & _environments()
        environment = dataset.environment.family.lower()
        if named and environment in _environments() and environment not in named:
            raise InputError(
                f"The expert checkpoint {self.path!r} was trained on {self.trained_on!r}, and "
                f"{dataset.name} is of {dataset.environment}; {way_out}"
            )

    def expert(self, units: Units, device: torch.device | str) -> ActorCritic:
        """The expert, for states in these units."""
        mean = units.observation_mean.astype(np.float64)
        scale = units.observation_scale.astype(np.float64)
        own_mean = mean if self.mean is None else self.mean.double().numpy()
        own_std = scale if self.std is None else self.std.double().numpy()
        return ActorCritic(
            [p.to(device) for p in self.actor],
            [p.to(device) for p in self.critics],
            torch.from_numpy(scale / own_std).float().to(device),
            torch.from_numpy((mean - own_mean) / own_std).float().to(device),
        )


class TrainedElsewhere(ActorCritic):
    """The expert that a file holds."""

    @classmethod
    def fit(cls, data: Demonstrations, checkpoint: Checkpoint) -> ActorCritic:
        """See `Checkpoint.expert`; nothing is trained."""
        return checkpoint.expert(data.dataset.units, data.states.device)


def read_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint's file and check all of it.

    Raises:
        InputError: the file is not there, damaged, of neither format, or holds other tensors.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise _refusal(path, f"{what}; correct `pipeline.expert.path`")
    if file.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(file)
    elif file.suffix in (".pt", ".pth"):
        tensors, metadata = _read_pickle(file), {}
    else:
        raise _refusal(path, "is neither .safetensors nor .pt; give a file of one of these formats")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise _refusal(path, f"has {name!r}, which is not all finite numbers; give a sound one")
    packs = {name: _layers(path, name, tensors) for name in NETWORKS}
    critics = [packs["critic1"], packs["critic2"]]
    inputs, outputs = packs["actor"][0].shape[0], packs["actor"][-1].shape[-1]
    shapes = [[p.shape for p in critic] for critic in critics]
    fit = shapes[0] == shapes[1] and shapes[0][-1] == (1, 1)
    if not fit or outputs % 2 or shapes[0][0][0] != inputs + outputs // 2:
        raise _refusal(
            path,
            f"has an actor of {inputs} inputs and {outputs} outputs, a mean and a spread for each "
            f"action, and critics of {shapes[0][0][0]} and {shapes[1][0][0]} inputs, which must be "
            "alike and take state and action; give an actor and its own critics",
        )
    mean, std = (tensors.get(name) for name in NORMALIZER)
    if (mean is None) != (std is None) or (
        mean is not None
        and std is not None
        and (mean.shape != (inputs,) or std.shape != (inputs,) or not (std > 0).all())
    ):
        raise _refusal(
            path,
            f"must have {' and '.join(NORMALIZER)} of {inputs} numbers each, the latter positive, "
            "or neither of them; correct them",
        )
    return Checkpoint(
        path,
        sha256_of_file(file),
        [p[None].float() for p in packs["actor"]],
        [torch.stack(pair).float() for pair in zip(*critics, strict=True)],
        mean,
        std,
        metadata.get("trained_on", ""),
    )


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise _refusal(
            file, f"is no safetensors file, or a damaged one ({reason}); get it again"
        ) from None
    for name in tensors:
        if not re.fullmatch(_KNOWN, name):
            raise _refusal(
                file,
                f"has an unknown tensor {name!r}; rename it or leave it out: an expert's are those "
                "of `actor.base_network`, `critic1.network` and `critic2.network`, "
                "`observation_mean` and `observation_std`",
            )
    return tensors, metadata


_LAYER = r"\.\d+\.(weight|bias)"
_KNOWN = "|".join(
    [rf"{network}\.{body}{_LAYER}" for network, body in NETWORKS.items()]
    + [re.escape(name) for name in (*NORMALIZER, *SCALARS)]
)


class _Scalar(torch.nn.Module):
    """Stands in for the class of CORL's training script whose instances lie in its checkpoints."""


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors by name. Nothing but tensors and containers is made of what the file says."""
    try:
        with torch.serialization.safe_globals([(_Scalar, "__main__.Scalar")]):
            document = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _refusal(
            file,
            "is a damaged pickle, or one of more than weights, which could run code; save the "
            "state dicts of `actor`, `critic1` and `critic2` alone",
        ) from None
    except Exception:  # an unpickler may raise anything on bytes that are no pickle
        raise _refusal(file, "is no file of torch.save, or a damaged one; get it again") from None
    if not isinstance(document, Mapping):
        raise _refusal(file, "must hold a dict with `actor`, `critic1` and `critic2`; save one")
    return {
        name: value
        for part in (*NETWORKS, *NORMALIZER)
        for name, value in _flat(part, document.get(part)).items()
    }


def _flat(name: str, value: Any) -> dict[str, Tensor]:
    """Tensors of a state dict, under names that begin with its own; {} if it holds none."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, Mapping):
        return {f"{name}.{key}": v for key, v in value.items() if isinstance(v, Tensor)}
    return {}


def _layers(path: str, network: str, tensors: Mapping[str, Tensor]) -> Parameters:
    """[W_0, b_0, W_1, ...] of a network, W_l as [in, out], b_l as [1, out]."""
    prefix = f"{network}.{NETWORKS[network]}"
    numbers = {int(n) for name in tensors for n in re.findall(rf"^{prefix}\.(\d+)\.", name)}
    parameters: Parameters = []
    for number in range(0, max(numbers, default=0) + 1, 2):
        for kind, axes in (("weight", 2), ("bias", 1)):
            name = f"{prefix}.{number}.{kind}"
            if name not in tensors:
                raise _refusal(path, f"has no tensor {name!r}; give one with an actor and critics")
            if tensors[name].dim() != axes or not tensors[name].numel():
                shape = tuple(tensors[name].shape)
                raise _refusal(
                    path, f"has {name!r} of shape {shape}; give a network of Linear layers"
                )
            parameters.append(tensors[name].mT if axes == 2 else tensors[name][None])
    wide = [p.shape[-1] for p in parameters]
    follows = [parameters[i].shape[0] == wide[i - 1] for i in range(2, len(wide), 2)]
    if any(number % 2 for number in numbers) or wide[::2] != wide[1::2] or not all(follows):
        raise _refusal(
            path, f"has layers of {prefix!r} that do not follow one another; give Linear and ReLU"
        )
    return [p.contiguous() for p in parameters]


def _environments() -> set[str]:
    """Lower-case names of Gymnasium's own environments, without versions."""
    return {
        spec.name.lower()
        for spec in gymnasium.registry.values()
        if str(spec.entry_point).startswith("gymnasium.envs.")
    }


def _refusal(path: str | Path, what: str) -> InputError:
    return InputError(f"The expert checkpoint {str(path)!r} {what}.")
