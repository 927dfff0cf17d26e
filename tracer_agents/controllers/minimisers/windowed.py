"""Regret matching on a window: the regrets of the last W updates of a set.

    R_t = r_{t-W+1} + ... + r_t,    next s = max(R_t, 0), normalised

and the default strategy when no regret is positive. For values that drift, as they do while generators learn: what was
seen under older generators is forgotten.

Source: the sliding window of Garivier & Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems"
(2011), here on regret matching (ours).
Converges: nothing is promised. In play that stays the same it is regret matching for W updates.
Bound: none on G.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns
from tracer_agents.controllers.minimisers.regret_matching import regret_matching_policy
from tracer_env.errors import check_integer

__all__ = ["WindowedRegretMatching"]


@dataclass(frozen=True, kw_only=True)
class WindowedRegretMatching:
    """See the module.

    Attributes:
        window: W, at least 1.
    """

    window: int = 8

    name = "windowed"
    averaging = 2.0

    def __post_init__(self) -> None:
        """Check the range."""
        check_integer("window", self.window)

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """The last W increments; update t is kept in place (t - 1) mod W."""
        return {"recent": (self.window, 2)}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the positive regrets of the window, normalised."""
        return regret_matching_policy(table["recent"].sum(axis=1), table["default"])

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Put the increment in the place of the oldest one."""
        recent = table["recent"].copy()
        recent[np.arange(len(recent)), (number.astype(np.int64) - 1) % self.window] = increment
        return {"recent": recent}

    def bound(self, table: Columns) -> None:
        """Promise nothing about G."""
