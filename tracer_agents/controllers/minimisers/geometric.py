"""Regret matching with geometric discounting: regrets halve every fixed number of updates.

    R_t = g R_{t-1} + r_t,    next s = max(R_t, 0), normalised

and the default strategy when no regret is positive. For values that drift, as they do while generators learn; unlike
the factors of ``discounted``, which tend to 1, g forgets at the same pace for ever.

Source: the discounting of Kocsis & Szepesvari, "Discounted UCB" (2006), here on regret matching (ours).
Converges: nothing is promised.
Bound: none on G. What is bounded is R itself: max_a R_n(a) <= sqrt(B_n) with B_t = g^2 B_{t-1} + |r_t|^2, since r_t is
orthogonal to the positive part of R_{t-1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns
from tracer_agents.controllers.minimisers.regret_matching import regret_matching_policy
from tracer_env.errors import ConfigError

__all__ = ["GeometricRegretMatching"]


@dataclass(frozen=True, kw_only=True)
class GeometricRegretMatching:
    """See the module.

    Attributes:
        factor: g, above 0 and below 1.
    """

    factor: float = 0.8

    name = "geometric"
    averaging = 2.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0.0 < self.factor < 1.0:
            raise ConfigError(f"factor must be above 0 and below 1, not {self.factor!r}.")

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """R, under the name that it has in ``discounted``, and B."""
        return {"discounted_regret": (2,), "discounted_sq": ()}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the positive regrets, normalised."""
        return regret_matching_policy(table["discounted_regret"], table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Discount, then add the increment."""
        return {
            "discounted_regret": self.factor * table["discounted_regret"] + increment,
            "discounted_sq": self.factor**2 * table["discounted_sq"] + (increment**2).sum(axis=1),
        }

    def bound(self, table: Columns) -> None:
        """Promise nothing about G."""

    def discounted_bound(self, table: Columns) -> NDArray[np.float64]:
        """Return what no entry of ``discounted_regret`` can exceed, shape (n,)."""
        return np.sqrt(table["discounted_sq"])
