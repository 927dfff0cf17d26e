"""A small multi-layer perceptron: trained in torch, played in numpy.

Torch is imported when a network is made, so that importing this module does not need it. Weights are drawn from the
network's own generator, uniform in +-1/sqrt(inputs); the last layer starts at 0, so that an untrained network returns 0
everywhere and prefers nothing. Playing reads a frozen copy of the weights: one decision costs a few numpy calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.states import State
from tracer_env.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

__all__ = ["MLP", "Weights", "check_hidden", "forward", "load_torch", "load_training", "training_state"]

# shape legend: n rows, F inputs, O outputs

Weights = tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
"""Weight matrix (inputs, outputs) and bias (outputs,) of each layer."""


def load_torch(purpose: str) -> Any:
    """Import torch.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "agents", purpose) from error
    return torch


def check_hidden(hidden: Sequence[int]) -> None:
    """Check the widths of hidden layers.

    Raises:
        ConfigError: if one is not a positive integer.
    """
    if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in hidden):
        raise ConfigError(f"hidden layers are widths of at least 1, not {hidden!r}.")


class MLP:
    """Affine layers with rectified linear units between them, float32."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, generator: torch.Generator) -> None:
        """Draw the weights.

        Args:
            inputs: F.
            hidden: widths of the hidden layers; none makes it linear.
            outputs: O.
            generator: draws them; torch's global one is not touched.
        """
        import torch

        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for fan_in, fan_out in pairwise((inputs, *hidden, outputs)):
            bound = 1.0 / math.sqrt(fan_in)
            weight = torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=generator)
            self.layers.append((weight, torch.zeros(fan_out)))
        self.layers[-1][0].zero_()
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def parameters(self) -> list[torch.Tensor]:
        """Return what is trained."""
        return [tensor for layer in self.layers for tensor in layer]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape (n, O), of rows (n, F)."""
        for depth, (weight, bias) in enumerate(self.layers):
            rows = (rows if depth == 0 else rows.relu()) @ weight + bias
        return rows

    def freeze(self) -> Weights:
        """Return a copy of the weights for ``forward``."""
        return tuple(
            (weight.detach().numpy().astype(np.float64), bias.detach().numpy().astype(np.float64))
            for weight, bias in self.layers
        )


def forward(weights: Weights, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the outputs of a frozen network, shape (..., O), of rows (..., F)."""
    out = np.asarray(rows, dtype=np.float64)
    for depth, (weight, bias) in enumerate(weights):
        out = (out if depth == 0 else np.maximum(out, 0.0)) @ weight + bias
    return out


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of each parameter


def training_state(parameters: Sequence[torch.Tensor], optimiser: torch.optim.Adam) -> State:
    """Return parameters and what Adam remembers of them; zeros before its first step, from which it would start."""
    import torch

    arrays: State = {}
    for k, parameter in enumerate(parameters):
        kept = optimiser.state.get(parameter) or {name: torch.zeros_like(parameter) for name in _MOMENTS[1:]}
        arrays[f"parameter_{k}"] = parameter.detach().numpy().copy()
        arrays[f"step_{k}"] = np.array(float(kept.get("step", 0.0)), dtype=np.float32)
        for name in _MOMENTS[1:]:
            arrays[f"{name}_{k}"] = kept[name].detach().numpy().copy()
    return arrays


def load_training(
    parameters: Sequence[torch.Tensor], optimiser: torch.optim.Adam, state: Mapping[str, NDArray[Any]]
) -> None:
    """Take over what ``training_state`` has returned; other arrays of the state are left alone."""
    import torch

    with torch.no_grad():
        for k, parameter in enumerate(parameters):
            parameter.copy_(torch.tensor(state[f"parameter_{k}"]))
            optimiser.state[parameter] = {name: torch.tensor(state[f"{name}_{k}"]) for name in _MOMENTS}
