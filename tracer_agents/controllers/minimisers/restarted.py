"""Regret matching that starts again: regrets are set to zero after every P updates of a set.

    R_t = r_t when t - 1 is a multiple of P, else R_{t-1} + r_t,    next s = max(R_t, 0), normalised

and the default strategy when no regret is positive. For values that drift, as they do while generators learn.

Source: restarting as in Besbes, Gur & Zeevi, "Stochastic Multi-Armed-Bandit Problem with Non-stationary Rewards"
(2014), here on regret matching (ours).
Converges: nothing is promised. Within one stretch of P updates it is regret matching.
Bound: none on G that would vanish on average: in each stretch max_a G <= sqrt(sum |r_t|^2) of the stretch, so that over
all of them it may grow linearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns
from tracer_agents.controllers.minimisers.regret_matching import regret_matching_policy
from tracer_env.errors import check_integer

__all__ = ["RestartedRegretMatching"]


@dataclass(frozen=True, kw_only=True)
class RestartedRegretMatching:
    """See the module.

    Attributes:
        period: P, at least 1.
    """

    period: int = 8

    name = "restarted"
    averaging = 2.0

    def __post_init__(self) -> None:
        """Check the range."""
        check_integer("period", self.period)

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """R."""
        return {"regret": (2,)}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the positive regrets, normalised."""
        return regret_matching_policy(table["regret"], table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment, to nothing at the beginning of a stretch."""
        begins = (number - 1.0) % self.period == 0.0
        return {"regret": np.where(begins[:, None], 0.0, table["regret"]) + increment}

    def bound(self, table: Columns) -> None:
        """Promise nothing about G."""
