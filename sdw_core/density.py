"""log d(s): the density of normalised states, and how it is fitted.

A state dimension that is constant over the dataset is left out: its density is a spike that carries
no information and makes a flow's likelihood degenerate. The density is over the other dimensions.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil, log, pi
from typing import Any, Self

import numpy as np
import torch
import zuko
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sdw_core.config import DensityConfig
from sdw_core.errors import DivergenceError, InputError
from sdw_core.progress import Progress
from sdw_core.registry import DENSITIES
from sdw_core.seeds import torch_generator

Floats = NDArray[np.floating[Any]]

_CHUNK = 16_384  # states evaluated at once
SCORINGS = 10
"""Scorings of the held-out states a fit."""
_SPLIT, _WEIGHTS, _ORDER = range(3)  # random streams of the stage


class DensityModel(nn.Module, ABC):
    """A density over F features, all of them varying.

    It is made with what it asks for among `features` (F), `config` and its options; that decides
    the shapes in its `state_dict`, which is all there is to save.

    Attributes:
        held_out_curve: mean log density of the held-out states by step, if the fit goes by steps.
    """

    held_out_curve: Mapping[int, float] | None = None

    @abstractmethod
    def fit(self, training: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
        """Fit to `training` `[n, F]`; `held_out` `[m, F]` may decide when to stop, nothing else."""

    @abstractmethod
    def log_prob(self, states: Tensor) -> Tensor:
        """Natural log density, nats: `[N, F]` to `[N]`, float32."""


class Gaussian(DensityModel):
    """Full-covariance Gaussian, in closed form and in float64.

    A variance below 1e-9 along a principal axis counts as 1e-9 (states are normalised: 1 is usual),
    so collinear features and a single state are fitted too.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("whitening", torch.eye(features, dtype=torch.float64))

    def fit(self, training: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
        """Mean and (biased) covariance of `training`; the other arguments change nothing."""
        states = training.double()
        self.mean = states.mean(0)
        centered = states - self.mean
        variances, axes = torch.linalg.eigh(centered.T @ centered / len(states))
        self.whitening = axes / variances.clamp(min=1e-9).sqrt()
        progress(1.0)

    def log_prob(self, states: Tensor) -> Tensor:
        """log |det W| - F log(2 pi) / 2 - |y|^2 / 2, with W = `whitening` and y = (s - mean) W."""
        whitened = (states.double() - self.mean) @ self.whitening
        log_det = torch.linalg.slogdet(self.whitening).logabsdet
        log_prob = log_det - (len(self.mean) * log(2 * pi) + whitened.square().sum(-1)) / 2
        return torch.as_tensor(log_prob, dtype=states.dtype)


class Flow(DensityModel):
    """A normalising flow of zuko, fitted by maximum likelihood.

    `maf`: Masked Autoregressive Flow for Density Estimation (https://arxiv.org/abs/1705.07057), of
    affine transforms. On a single feature it is a Gaussian.
    `nsf`: Neural Spline Flows (https://arxiv.org/abs/1906.04032), of splines on [-5, 5]. A feature
    outside that interval passes untransformed, so states must be normalised, and the density far
    from the mean is little more than a standard normal's. A step takes about ten times as long.
    """

    def __init__(self, features: int, config: DensityConfig) -> None:
        super().__init__()
        family = zuko.flows.NSF if config.model == "nsf" else zuko.flows.MAF
        hidden = (config.hidden_features,)
        self.flow = family(features, transforms=config.transforms, hidden_features=hidden)
        self.config = config

    def fit(self, training: Tensor, held_out: Tensor, seed: int, progress: Progress) -> None:
        """Adam on the mean log-likelihood; the best weights by held-out score are kept.

        The learning rate falls along a cosine. The held-out states are scored ten times a fit.

        Raises:
            SDWError: the held-out log-likelihood was never finite.
        """
        config = self.config
        optimizer = torch.optim.Adam(self.parameters(), config.learning_rate, fused=True)
        schedule = CosineAnnealingLR(optimizer, config.steps)
        interval = max(1, config.steps // SCORINGS)
        best, best_step, best_weights = -torch.inf, 0, self.state_dict()
        self.held_out_curve = curve = dict[int, float]()
        batches = _batches(len(training), min(config.batch_size, len(training)), seed)
        for step, batch in zip(range(1, config.steps + 1), batches, strict=False):
            loss = -self.log_prob(training[batch.to(training.device)]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(step / config.steps)
            if step % interval == 0 or step == config.steps:
                score = curve[step] = _mean_log_prob(self, held_out)
                if score > best:
                    best, best_step, best_weights = score, step, deepcopy(self.state_dict())
                elif step - best_step >= config.patience * interval:
                    break
        if best_step == 0:
            raise DivergenceError(
                f"the {config.model} density diverged (its held-out log-likelihood is {score}): "
                f"lower `density.learning_rate`, now {config.learning_rate}."
            )
        self.load_state_dict(best_weights)
        progress(1.0)

    def log_prob(self, states: Tensor) -> Tensor:
        """Log density under the flow; -inf (at the very end of float32, nan) is an overflow."""
        log_density: Tensor = self.flow().log_prob(states)
        return log_density


def _batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled batches of row indices, epoch after epoch; an incomplete last batch is dropped."""
    for epoch in itertools.count():
        order = torch.randperm(count, generator=torch_generator(seed, "density", _ORDER, epoch))
        yield from torch.split(order[: count - count % size], size)


@dataclass(frozen=True, eq=False)
class FittedDensity:
    """A density of normalised states, ready to be asked and stored.

    Attributes:
        model: the density of the dimensions that vary.
        varying: which of the O state dimensions those are, `[O]` bool.
        held_out_log_likelihood: mean log density of the states that were held out, nats a state.
    """

    model: DensityModel = field(repr=False)
    varying: NDArray[np.bool_]
    held_out_log_likelihood: float

    def log_prob(self, states: Floats) -> Floats:
        """Natural log density of normalised states, nats: `[N, O]` to `[N]`, dtype kept.

        Constant dimensions are ignored, whatever their value. Computed in float32, where a state
        extremely far from the data has -inf. See `Flow` for the domain of `nsf`.

        Raises:
            InputError: the states are not O wide, or one is not finite in float32.
        """
        kept = iter(self.model.state_dict().values())
        device = next((tensor.device for tensor in kept), torch.device("cpu"))
        tensor = _checked(states, len(self.varying))[:, torch.tensor(self.varying)]
        return _log_prob(self.model, tensor.to(device)).cpu().numpy().astype(states.dtype)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything but the configuration, as contiguous arrays, for safetensors."""
        weights = self.model.state_dict().items()
        return {
            **{f"model.{name}": np.ascontiguousarray(tensor.cpu()) for name, tensor in weights},
            "varying": self.varying,
            "held_out_log_likelihood": np.array(self.held_out_log_likelihood),
        }

    @classmethod
    def from_state(
        cls,
        config: DensityConfig,
        state: Mapping[str, NDArray[Any]],
        device: torch.device | str = "cpu",
    ) -> Self:
        """The density that `state()` described; `config` is the one that it was fitted with."""
        varying, score = state["varying"], float(state["held_out_log_likelihood"])
        model = _model(int(varying.sum()), config)
        names = model.state_dict()
        model.load_state_dict({name: torch.tensor(state[f"model.{name}"]) for name in names})
        return cls(model.to(device), varying, score)


def fit_density(
    states: Floats,
    config: DensityConfig,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FittedDensity:
    """Fit the density of normalised states; the same seed gives the same density.

    Args:
        states: normalised states of the dataset, `[N, O]`.
        config: which model, and how it is fitted. A random fraction `holdout` of the states is
            held out of the fit, to score it and, for a flow, to stop it early.
        seed: root seed of the stage's own streams; torch's global one is left as it was.
        device: where the model lives.
        progress: told the fraction done, in (0, 1], after each step; 1 at the end.

    Raises:
        InputError: fewer than two states, a non-finite one, or all dimensions constant; or a user's
            own model gives something else than log densities.
        DivergenceError: a flow diverged.
        SDWError: a user's own model failed.

    >>> states = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    >>> density = fit_density(states, DensityConfig(model="gaussian"), seed=0)
    >>> print(density.log_prob(np.zeros((1, 2), np.float32)).round(1))  # -log(2 pi) = -1.84
    [-1.8]
    """
    tensor = _checked(states, states.shape[-1])
    if len(tensor) < 2:
        raise InputError(f"a density needs at least two states, not {len(tensor)}.")
    if not (varying := (tensor != tensor[0]).any(0)).any():
        raise InputError(f"all {len(varying)} state dimensions are constant: there is no density.")
    tensor = tensor[:, varying]
    order = torch.randperm(len(tensor), generator=torch_generator(seed, "density", _SPLIT))
    held = ceil(config.holdout * (len(tensor) - 1))  # leaves at least one state on either side
    held_out, training = tensor[order].to(device).tensor_split([held])
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_generator(seed, "density", _WEIGHTS).get_state())
        model = _model(tensor.shape[1], config)
    with DENSITIES.running(config.model):
        model = model.to(device)
        model.fit(training, held_out, seed, progress or (lambda fraction: None))
        return FittedDensity(model, varying.numpy(), _mean_log_prob(model, held_out))


def _model(features: int, config: DensityConfig) -> DensityModel:
    model: DensityModel = DENSITIES.make(
        config.model, config.options, features=features, config=config
    )
    return model


@torch.no_grad()
def _log_prob(model: DensityModel, states: Tensor) -> Tensor:
    found = torch.cat([model.log_prob(chunk) for chunk in torch.split(states, _CHUNK)])
    if found.shape != states.shape[:1]:
        raise InputError(
            f"The density model `{type(model).__name__}` must give one log density a state, of "
            f"shape {list(states.shape[:1])}, and gives {list(found.shape)}; correct it."
        )
    return found


def _mean_log_prob(model: DensityModel, states: Tensor) -> float:
    return float(_log_prob(model, states).double().mean())


def _checked(states: Floats, width: int) -> Tensor:
    """`states` as a new float32 tensor on the CPU, once it is known to be legal."""
    if states.ndim != 2 or states.shape[1] != width:
        raise InputError(f"states must have shape [N, {width}], not {list(states.shape)}.")
    tensor = torch.tensor(states, dtype=torch.float32)
    finite = tensor.isfinite().all(1)
    if not finite.all():
        row = int(finite.int().argmin())
        raise InputError(f"row {row} of the states is not finite in float32: {states[row]}.")
    return tensor
