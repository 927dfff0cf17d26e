"""Predictive regret matching plus: regret matching plus that expects the last increment to come again.

    next s = max(Q_t + m_{t+1}, 0), normalised,    m_{t+1} = r_t,    Q_t = max(Q_{t-1} + r_t, 0)

and the default strategy when nothing is positive.

Source: Farina, Kroer & Sandholm, "Faster Game Solving via Predictive Blackwell Approachability" (2021).
Converges: the average strategy; quadratic weights are usual.
Bound: max_a G_n(a) <= sqrt(sum_t |r_t - m_t|^2): small where the increments change slowly. This is optimistic online
mirror descent on the non-negative orthant: since s_t is proportional to the point theta_t that it plays from,
<theta_t, r_t> = 0 and G_n(a) <= |e_a|^2 / (2 eta) + eta / 2 sum |r_t - m_t|^2 for every step size eta, on which
the play does not depend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns, normalised

__all__ = ["PredictiveRegretMatchingPlus"]


@dataclass(frozen=True, kw_only=True)
class PredictiveRegretMatchingPlus:
    """See the module."""

    name = "predictive"
    averaging = 2.0

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """Q, m, and the sum of |r_t - m_t|^2."""
        return {"regret": (2,), "prediction": (2,), "surprise_sq": ()}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the predicted positive regrets, normalised."""
        return normalised(np.maximum(table["regret"] + table["prediction"], 0.0), table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment, cut at 0, and expect it again."""
        surprise = increment - table["prediction"]
        return {
            "regret": np.maximum(table["regret"] + increment, 0.0),
            "prediction": increment,
            "surprise_sq": table["surprise_sq"] + (surprise**2).sum(axis=1),
        }

    def bound(self, table: Columns) -> NDArray[np.float64]:
        """Return the square root of the squared surprises' sum."""
        return np.sqrt(table["surprise_sq"])
