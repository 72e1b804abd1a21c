"""A policy that was cloned from synthetic rows: a torch module in the environment's own units."""

import io
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sdw_core.errors import InputError
from sdw_core.files import created_file
from sdw_core.policy import MLP, Parameters
from sdw_core.units import Units, scaled, unscaled
from sdw_core.validation import shown


class ClonedPolicy(nn.Module):
    """Observations [*, O] to actions [*, A], both in environment units, for any loop with torch.

    An ensemble acts by the mean of its networks' actions.

    Args:
        network: the architecture.
        parameters: of a pack of E networks.
        units: of observations and actions.

    Attributes:
        weights: the networks' parameters, as in `MLP`.
    """

    observation_mean: Tensor
    observation_scale: Tensor
    action_centre: Tensor
    action_half_width: Tensor

    def __init__(self, network: MLP, parameters: Parameters, units: Units) -> None:
        super().__init__()
        self._network = network
        self.weights = nn.ParameterList(parameters)
        centre, half = units.centre_and_half_width
        for name, values in (
            ("observation_mean", units.observation_mean),
            ("observation_scale", units.observation_scale),
            ("action_centre", centre),
            ("action_half_width", half),
        ):
            self.register_buffer(name, torch.from_numpy(values.copy()))
        self.eval()

    def forward(self, observations: Tensor) -> Tensor:
        """Actions [*, A] for observations [*, O]."""
        states = scaled(observations, self.observation_mean, self.observation_scale)
        rows = states.reshape(1, prod(states.shape[:-1]), states.shape[-1])
        actions = self._network(list(self.weights), rows.expand(len(self.weights[0]), -1, -1))
        actions = actions.mean(0).reshape(*states.shape[:-1], actions.shape[-1])
        return unscaled(actions, self.action_centre, self.action_half_width)

    def act(self, observation: ArrayLike) -> NDArray[np.float32]:
        """The action [A] for an observation [O], or the actions for several [*, O].

        Raises:
            InputError: they are no numbers, or the last axis is not O wide.
        """
        width = len(self.observation_mean)
        try:
            values = np.asarray(observation, np.float32)
            given = f"an array of the shape {list(values.shape)}"
        except (TypeError, ValueError, RuntimeError):
            values, given = np.empty(0, np.float32), shown(observation)
        if values.shape[-1:] != (width,):
            raise InputError(
                f"the policy takes observations of {width} numbers, and was given {given}: give it "
                "what its environment observes."
            )
        with torch.no_grad():
            actions: Tensor = self(torch.as_tensor(values).to(self.observation_mean))
        return actions.float().cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write the policy to a file that needs torch alone, whole or not at all.

        `torch.export.load(path).module()` maps observations [B, O] to actions [B, A], for any B; it
        expects a name that ends in `.pt2`.

        Raises:
            InputError: the file exists.
        """
        path = Path(path)
        example = torch.zeros(2, len(self.observation_mean), device=self.observation_mean.device)
        try:
            with created_file(path) as scratch:
                batch = {0: torch.export.Dim("batch")}
                program = torch.export.export(self, (example,), dynamic_shapes=(batch,))
                for node in program.graph.nodes:
                    node.meta.pop("stack_trace", None)  # paths on this machine
                content = io.BytesIO()
                torch.export.save(program, content)
                scratch.write_bytes(content.getvalue())
        except FileExistsError:
            raise InputError(
                f"a policy never overwrites, and {str(path)!r} exists: remove it, or choose "
                "another file."
            ) from None

    @property
    def ensemble(self) -> int:
        """How many networks it acts by, E."""
        return len(self.weights[0])

    def extra_repr(self) -> str:
        """What torch shows of it."""
        networks = f", networks={self.ensemble}" if self.ensemble > 1 else ""
        return f"sizes={self._network.sizes}{networks}"
