"""Hedge (exponential weights) with a learning rate that falls with what was seen.

    next s(a) ~ d(a) exp(eta R_t(a)),    R_t = R_{t-1} + r_t,    eta = sqrt(8 ln 2 / sum_{u <= t} w_u^2),

where d is the default strategy and w_t = |r_t(SPEAK) - r_t(SKIP)| the range of an increment. No rate has to be chosen,
and a change of the unit of reward changes nothing.

Source: Freund & Schapire (1997); rates that fall: Cesa-Bianchi & Lugosi (2006), section 2.3.
Converges: the average strategy (uniform weights).
Bound: G_n(a) <= ln(1 / d(a)) / eta_n + sum_t eta_t w_t^2 / 8, with the rates that were played (the first counts as the
second: there every rate plays d): the potential (1/eta) ln sum_a d(a) exp(eta G(a)) grows by at most eta_t w_t^2 / 8 in
an update (Hoeffding), and not when eta falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers.base import Columns

__all__ = ["Hedge"]


@dataclass(frozen=True, kw_only=True)
class Hedge:
    """See the module. Where the default is 0 the strategy stays 0, and the bound is infinite."""

    name = "hedge"
    averaging = 0.0

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]:
        """R, the sum of squared ranges, the rate last played, and the sum of eta_t w_t^2 / 8."""
        return {"regret": (2,), "range_sq": (), "rate": (), "slack": ()}

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return the exponential weights, normalised."""
        with np.errstate(divide="ignore"):  # a default of 0 has the logarithm -inf and stays 0
            scores = np.log(table["default"]) + _rate(table["range_sq"])[:, None] * table["regret"]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Add the increment, and account for its range at the rate that was played."""
        range_sq = (increment[:, 1] - increment[:, 0]) ** 2
        seen = table["range_sq"]
        rate = _rate(np.where(seen > 0.0, seen, range_sq))
        return {
            "regret": table["regret"] + increment,
            "range_sq": seen + range_sq,
            "rate": rate,
            "slack": table["slack"] + rate * range_sq / 8.0,
        }

    def bound(self, table: Columns) -> NDArray[np.float64]:
        """Return the largest of the controls' bounds."""
        rate = table["rate"]
        with np.errstate(divide="ignore"):
            surprise = -np.log(table["default"].min(axis=1))
        return np.where(rate > 0.0, surprise / np.where(rate > 0.0, rate, 1.0), 0.0) + table["slack"]


def _rate(range_sq: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return eta; 0 where no increment has had a range yet, and every rate plays alike."""
    return np.where(range_sq > 0.0, np.sqrt(8.0 * math.log(2.0) / np.where(range_sq > 0.0, range_sq, 1.0)), 0.0)
