"""Regret matching.

    R_t = R_{t-1} + r_t,    next s(a) = max(R_t(a), 0) / sum_b max(R_t(b), 0)

and the default strategy when no regret is positive.

Source: Hart & Mas-Colell, "A Simple Adaptive Procedure Leading to Correlated Equilibrium" (2000).
Converges: the average strategy (uniform weights). The last iterate has no guarantee.
Bound: max_a G_n(a) <= sqrt(sum_t |r_t|^2), since r_t is orthogonal to the positive part of R_{t-1}, whatever the
default is (Blackwell 1956; Cesa-Bianchi & Lugosi 2006, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns, normalised

__all__ = ["RegretMatching", "regret_matching_policy"]


def regret_matching_policy(
    cumulative_regret: NDArray[np.float64], default: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Turn cumulative regrets into a policy by normalising their positive part.

    Args:
        cumulative_regret: float64, shape (..., A), in reward units.
        default: what is played where no regret is positive, shape (..., A); uniform by default.

    Returns:
        Probabilities, shape (..., A), summing to 1.

    Raises:
        ValueError: if the array has no axis or contains NaN.

    Source: Hart & Mas-Colell (2000).

    >>> regret_matching_policy(np.array([1.0, 3.0]))
    array([0.25, 0.75])
    """
    if cumulative_regret.ndim == 0 or np.isnan(cumulative_regret).any():
        raise ValueError(f"regrets must have one entry for each control and not be NaN, got {cumulative_regret!r}.")
    if default is None:
        default = np.full(cumulative_regret.shape, 1.0 / cumulative_regret.shape[-1])
    return normalised(np.maximum(cumulative_regret, 0.0), default)


@dataclass(frozen=True, kw_only=True)
class RegretMatching:
    """See the module."""

    name = "regret_matching"
    averaging = 0.0

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """R."""
        return {"regret": (2,)}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the positive regrets, normalised."""
        return regret_matching_policy(table["regret"], table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment."""
        return {"regret": table["regret"] + increment}

    def bound(self, table: Columns) -> NDArray[np.float64]:
        """Return the square root of the squared increments' sum."""
        return np.sqrt(table["increment_sq"])
