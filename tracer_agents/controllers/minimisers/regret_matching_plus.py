"""Regret matching plus.

    Q_t = max(Q_{t-1} + r_t, 0),    next s = Q_t / sum_b Q_t(b)

and the default strategy when Q_t = 0. Negative regret is forgotten: a control that becomes good is played at once.

Source: Tammelin, "Solving Large Imperfect Information Games Using CFR+" (2014).
Converges: the average strategy; linear weights are usual. Bound on G for any weights of the average: as for regret
matching, max_a G_n(a) <= sqrt(sum_t |r_t|^2), since G_n <= Q_n in every entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns, normalised

__all__ = ["RegretMatchingPlus"]


@dataclass(frozen=True, kw_only=True)
class RegretMatchingPlus:
    """See the module."""

    name = "regret_matching_plus"
    averaging = 1.0

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """Q."""
        return {"regret": (2,)}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return Q, normalised."""
        return normalised(table["regret"], table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment and cut at 0."""
        return {"regret": np.maximum(table["regret"] + increment, 0.0)}

    def bound(self, table: Columns) -> NDArray[np.float64]:
        """Return the square root of the squared increments' sum."""
        return np.sqrt(table["increment_sq"])
