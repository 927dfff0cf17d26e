"""Discounted regret matching: the update of DCFR.

    R_t = d_t (R_{t-1} + r_t),    d_t = t^alpha / (t^alpha + 1) for positive entries, t^beta / (t^beta + 1) for others,
    next s = max(R_t, 0), normalised; update t weighs t^gamma in the average

and the default strategy when no regret is positive. alpha = beta = gamma = 1 is linear CFR's.

Source: Brown & Sandholm, "Solving Imperfect-Information Games via Discounted Regret Minimization" (2019).
Converges: the average strategy with weights t^gamma.
Bound: none on G, which is not discounted. What is bounded is the discounted regret S_t = d_t (S_{t-1} + r_t) with the
factors of alpha: R_t >= S_t in every entry when beta <= alpha, so that max_a S_n(a) <= sqrt(B_n) with
B_t = d_t^2 (B_{t-1} + |r_t|^2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns
from tracer_agents.controllers.minimisers.regret_matching import regret_matching_policy
from tracer_env.errors import ConfigError

__all__ = ["DiscountedRegretMatching"]


@dataclass(frozen=True, kw_only=True)
class DiscountedRegretMatching:
    """See the module.

    Attributes:
        alpha: power of the factor of positive regrets.
        beta: power of the factor of the others, at most ``alpha``.
        gamma: power of the weights of the average, at least 0.
    """

    alpha: float = 1.5
    beta: float = 0.0
    gamma: float = 2.0

    name = "discounted"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (math.isfinite(self.alpha) and math.isfinite(self.beta) and self.beta <= self.alpha):
            raise ConfigError(
                f"alpha and beta must be finite with beta <= alpha, not {self.alpha!r} and {self.beta!r}."
            )
        if not 0.0 <= self.gamma < math.inf:
            raise ConfigError(f"gamma must be finite and at least 0, not {self.gamma!r}.")

    @property
    def averaging(self) -> float:
        """Gamma."""
        return self.gamma

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """R, and S and B of the module."""
        return {"regret": (2,), "discounted_regret": (2,), "discounted_sq": ()}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the positive regrets, normalised."""
        return regret_matching_policy(table["regret"], table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment, then discount."""
        kept = _factor(number, self.alpha)
        summed = table["regret"] + increment
        return {
            "regret": summed * np.where(summed > 0.0, kept[:, None], _factor(number, self.beta)[:, None]),
            "discounted_regret": kept[:, None] * (table["discounted_regret"] + increment),
            "discounted_sq": kept**2 * (table["discounted_sq"] + (increment**2).sum(axis=1)),
        }

    def bound(self, table: Columns) -> None:
        """Promise nothing about G."""

    def discounted_bound(self, table: Columns) -> NDArray[np.float64]:
        """Return what no entry of ``discounted_regret`` can exceed, shape (n,)."""
        return np.sqrt(table["discounted_sq"])


def _factor(number: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    raised = number**power
    return raised / (raised + 1.0)
