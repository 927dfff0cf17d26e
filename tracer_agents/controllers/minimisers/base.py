"""What a regret minimiser is: pure functions over the rows of a table, one row for each information set.

The table keeps, for every minimiser alike, what is played where nothing was learned (``default``), the undiscounted
external regret G (``external_regret``), ``increment_sq`` = sum of |r_t|^2, ``updates`` and ``visits``. A minimiser adds
columns of its own; G is never derived from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "PromisesDiscounted", "RegretMinimiser", "normalised"]

# shape legend: n rows (information sets), A = 2 controls (SKIP, SPEAK)

Columns = Mapping[str, NDArray[np.float64]]
"""Columns of some rows, by name: shape (n, ...), for example (n, A) or (n,)."""


@runtime_checkable
class RegretMinimiser(Protocol):
    """One algorithm, vectorised over information sets. An object has settings only; its memory is in the columns.

    Attributes:
        name: its name in settings and files.
        columns: its own columns, with their shapes behind n, for example ``(2,)`` or ``()``. All start at 0.
        averaging: the power p of its usual average, in which update t weighs t^p.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def columns(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102 - see the class

    @property
    def averaging(self) -> float: ...  # noqa: D102 - see the class

    def strategy(self, table: Columns) -> NDArray[np.float64]:
        """Return what is played next, shape (n, A), rows summing to 1."""
        ...

    def update(self, table: Columns, increment: NDArray[np.float64], number: NDArray[np.float64]) -> Columns:
        """Return its own columns after one update.

        Args:
            table: all columns before the update.
            increment: shape (n, A): r_t, what each control would have earned beyond the strategy, summed over the
                visits of the update. Orthogonal to the strategy.
            number: shape (n,): t, the number of the update of each set, from 1.
        """
        ...

    def bound(self, table: Columns) -> NDArray[np.float64] | None:
        """Return what max_a G(a) cannot exceed, shape (n,); None when the algorithm promises nothing about G."""
        ...


@runtime_checkable
class PromisesDiscounted(Protocol):
    """A minimiser with a bound on a discounted regret, which it keeps in a column ``discounted_regret``."""

    def discounted_bound(self, table: Columns) -> NDArray[np.float64]:
        """Return what no entry of ``discounted_regret`` can exceed, shape (n,)."""
        ...


def normalised(positive: NDArray[np.float64], default: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide rows by their sums; rows without a positive entry become the default.

    Args:
        positive: shape (n, A), at least 0.
        default: shape (n, A).
    """
    total = positive.sum(axis=-1, keepdims=True)
    return np.where(total > 0.0, positive / np.where(total > 0.0, total, 1.0), default)
