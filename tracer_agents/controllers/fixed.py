"""Controllers that never learn: always speak, never speak, or speak with a fixed probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = ["FIXED_CONTROLLERS", "FixedController", "make_fixed"]


class FixedController:
    """Speaks with one probability at every information set; never below what the mask demands."""

    def __init__(self, speak_prob: float) -> None:
        """Store the probability.

        Args:
            speak_prob: probability of SPEAK, in [0, 1].

        Raises:
            ConfigError: if it is outside [0, 1].
        """
        if not 0.0 <= speak_prob <= 1.0:
            raise ConfigError(f"speak_prob must be in [0, 1], not {speak_prob!r}.")
        self._speak_prob = float(speak_prob)

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the fixed probability; 1 when SKIP is masked."""
        return self._speak_prob if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


FIXED_CONTROLLERS = {"always": 1.0, "never": 0.0, "random": 0.5}
"""Speak probabilities of the fixed controllers by name."""


def make_fixed(name: str) -> FixedController:
    """Return a fixed controller by name.

    Raises:
        UnknownNameError: if the name is not one of ``FIXED_CONTROLLERS``.
    """
    if name not in FIXED_CONTROLLERS:
        raise UnknownNameError("controller", name, FIXED_CONTROLLERS)
    return FixedController(FIXED_CONTROLLERS[name])
