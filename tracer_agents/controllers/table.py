"""A table of regrets, one row for each information set, and the controller that looks its rows up by key.

Update t of an information set is one batch of visits under the frozen strategy s::

    r_t(a) = sum over visits of w (v(a) - sum_b s(b) v(b))

The table hands r_t to a regret minimiser and keeps, beside that one's own columns and never derived from them, the
undiscounted external regret G = sum_t r_t. What a minimiser's bound on G certifies is the local decision problem on the
visited sequence: neither equilibrium nor team optimality, nor that the values are right.

Workers: the strategy is frozen, each worker turns its visits into ``Increments``, and ``TabularController.apply`` adds
up the increments of all of them, rounded once whatever their order and number, before it makes the one update. So any
split of the visits over workers gives the same table, to the bit. Increments that were made under an older strategy are
refused, unless the update is called asynchronous; then the table is approximate, and no bound holds for it any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers import PromisesDiscounted, RegretMinimiser, make_minimiser
from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = ["AVERAGINGS", "HISTORY", "FrozenController", "Increments", "RegretTable", "TabularController"]

# shape legend: I information sets, A = 2 controls (SKIP, SPEAK), n visits, m of the sets

AVERAGINGS: Mapping[str, float] = {"uniform": 0.0, "linear": 1.0, "quadratic": 2.0}
"""Weights of the strategy average by name: update t weighs t to this power."""

HISTORY = ("profiles", "differences", "regret", "bound")
"""What a controller keeps of every update."""

_SHARED: Mapping[str, tuple[int, ...]] = {
    "default": (2,),
    "strategy_sum": (2,),
    "external_regret": (2,),
    "increment_sq": (),
    "visits": (),
    "updates": (),
}


class RegretTable:
    """The rows of many information sets under one minimiser, addressed by number.

    Attributes:
        minimiser: the algorithm.
        averaging: update t of a set weighs t to this power in its average strategy.
        columns: float64, by name, shapes (I, A) or (I,): ``default`` (played where nothing was learned),
            ``strategy_sum`` (weighted sum of the strategies played), ``external_regret`` (G), ``increment_sq`` (sum of
            |r_t|^2), ``visits``, ``updates``, and the minimiser's own. Read them; ``update`` writes them.
        strategy: float64, shape (I, A): what is played next.
    """

    def __init__(
        self,
        minimiser: str | RegretMinimiser = "regret_matching",
        *,
        averaging: str | float | None = None,
        default: NDArray[np.float64] | None = None,
    ) -> None:
        """Start with one row for each default strategy.

        Args:
            minimiser: its name, or an object.
            averaging: ``"uniform"``, ``"linear"``, ``"quadratic"`` or a power of at least 0; None is the usual one of
                the minimiser.
            default: strategies, shape (I, A); no rows by default.

        Raises:
            ConfigError: if a setting is unknown or out of range.
        """
        self.minimiser = make_minimiser(minimiser)
        self.averaging = self.minimiser.averaging if averaging is None else _power(averaging)
        self.columns: dict[str, NDArray[np.float64]] = {
            name: np.zeros((0, *shape)) for name, shape in {**_SHARED, **self.minimiser.columns}.items()
        }
        self.strategy = np.zeros((0, 2))
        if default is not None:
            self.grow(default)

    def __len__(self) -> int:
        """Return I."""
        return len(self.strategy)

    def grow(self, default: NDArray[np.float64]) -> None:
        """Add rows that play their default strategies, shape (m, A)."""
        for name, column in self.columns.items():
            new = default if name == "default" else np.zeros((len(default), *column.shape[1:]))
            self.columns[name] = np.concatenate([column, new])
        fresh = {name: column[len(self.strategy) :] for name, column in self.columns.items()}
        self.strategy = np.concatenate([self.strategy, self.minimiser.strategy(fresh)])

    def update(
        self,
        rows: NDArray[np.int64],
        increments: NDArray[np.float64],
        weights: NDArray[np.float64],
        visits: NDArray[np.float64],
    ) -> None:
        """Make one update of each of some rows.

        Args:
            rows: which, shape (m,), all different.
            increments: r_t of each, shape (m, A).
            weights: by how much the strategy just played counts in the average, shape (m,): visits, or a reach.
            visits: of each, shape (m,).
        """
        before = {name: column[rows] for name, column in self.columns.items()}
        number = before["updates"] + 1.0
        own = self.minimiser.update(before, increments, number)
        played = self.strategy[rows] * (weights * number**self.averaging)[:, None]
        after = {
            **before,
            **own,
            "strategy_sum": before["strategy_sum"] + played,
            "external_regret": before["external_regret"] + increments,
            "increment_sq": before["increment_sq"] + (increments**2).sum(axis=1),
            "visits": before["visits"] + visits,
            "updates": number,
        }
        for name, column in after.items():
            self.columns[name][rows] = column
        self.strategy[rows] = self.minimiser.strategy(after)

    def average(self) -> NDArray[np.float64]:
        """Return the average strategies, shape (I, A); the default where nothing was played."""
        total = self.columns["strategy_sum"].sum(axis=1, keepdims=True)
        mean = self.columns["strategy_sum"] / np.where(total > 0.0, total, 1.0)
        return np.where(total > 0.0, mean, self.columns["default"])

    def bound(self) -> NDArray[np.float64] | None:
        """Return what max_a G(a) cannot exceed, shape (I,); None when the minimiser promises nothing about G."""
        return self.minimiser.bound(self.columns)

    def restore(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        """Replace all rows by saved ones.

        Raises:
            KeyError: if a column is missing.
        """
        self.columns = {name: np.array(columns[name], dtype=np.float64) for name in self.columns}
        self.strategy = self.minimiser.strategy(self.columns)


def _power(averaging: str | float) -> float:
    if isinstance(averaging, str):
        if averaging not in AVERAGINGS:
            raise UnknownNameError("averaging", averaging, AVERAGINGS)
        return AVERAGINGS[averaging]
    if not 0.0 <= averaging < math.inf:
        raise ConfigError(f"averaging must be a name or a finite power of at least 0, not {averaging!r}.")
    return float(averaging)


@dataclass(frozen=True, kw_only=True)
class Increments:
    """What one worker has seen under the frozen strategy, visit by visit.

    Attributes:
        infosets: keys of the information sets, each once.
        rows: int64, shape (n,): the place of each visit's set in ``infosets``.
        gains: float64, shape (n, A): w (v(a) - sum_b s(b) v(b)).
        weights: float64, shape (n,): w.
        version: how many updates the strategy s had had.
    """

    infosets: tuple[str, ...]
    rows: NDArray[np.int64]
    gains: NDArray[np.float64]
    weights: NDArray[np.float64]
    version: int


class TabularController:
    """A controller that learns by a regret minimiser. Its table grows as information sets appear.

    An information set that was never updated plays the default.

    Attributes:
        table: the numbers; row k belongs to ``infosets[k]``.
        default_speak: P(SPEAK) where nothing was learned.
        history: what the certificate needs and no average tells, one array for each update, shape (sets known then,):
            ``profiles``: P(SPEAK) that was played; ``differences``: sum over the visits of w (v(SPEAK) - v(SKIP)), 0
            without a visit; ``regret`` and ``bound``: max_a G(a) and its bound afterwards (NaN where none is promised).
        stale: updates that took increments of an older strategy (asynchronous merging).
    """

    def __init__(
        self,
        minimiser: str | RegretMinimiser = "regret_matching",
        *,
        averaging: str | float | None = None,
        default_speak: float = 0.5,
    ) -> None:
        """Start with an empty table.

        Args:
            minimiser: its name, or an object.
            averaging: weights of the average strategy; see ``RegretTable``.
            default_speak: P(SPEAK) where nothing was learned, in [0, 1].

        Raises:
            ConfigError: if a setting is unknown or out of range.
        """
        if not 0.0 <= default_speak <= 1.0:
            raise ConfigError(f"default_speak must be in [0, 1], not {default_speak!r}.")
        self.table = RegretTable(minimiser, averaging=averaging)
        self.default_speak = float(default_speak)
        self.history: dict[str, list[NDArray[np.float64]]] = {name: [] for name in HISTORY}
        self.stale = 0
        self._rows: dict[str, int] = {}

    @property
    def version(self) -> int:
        """How many updates were made."""
        return len(self.history["profiles"])

    @property
    def infosets(self) -> tuple[str, ...]:
        """Keys of all information sets seen, in order of appearance."""
        return tuple(self._rows)

    # --- playing ---------------------------------------------------------------------------------------------------

    def current_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the last iterate, shape (A,): what is played in training. It need not converge."""
        row = self._rows.get(infoset)
        return self._default() if row is None else self.table.strategy[row].copy()

    def average_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the weighted average of the strategies played, shape (A,): what converges."""
        row = self._rows.get(infoset)
        if row is None:
            return self._default()
        total = self.table.columns["strategy_sum"][row]
        return np.asarray(total / total.sum()) if total.sum() > 0.0 else self.table.columns["default"][row].copy()

    def _default(self) -> NDArray[np.float64]:
        return np.array([1.0 - self.default_speak, self.default_speak])

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the last iterate's probability of SPEAK; 1 when SKIP is masked."""
        if not mask[0]:
            return 1.0
        row = self._rows.get(infoset)
        return self.default_speak if row is None else float(self.table.strategy[row, 1])

    # --- learning --------------------------------------------------------------------------------------------------

    def update(self, values: Sequence[ControlValues]) -> None:
        """Make one update of every information set that occurs in the batch.

        Args:
            values: decisions that were all visited under the current strategy.

        Raises:
            ConfigError: if a value is not finite or a weight not positive.
        """
        self.apply([self.increments(values)])

    def increments(self, values: Sequence[ControlValues]) -> Increments:
        """Return what a batch of visits gains under the current strategy; nothing is learned yet.

        Raises:
            ConfigError: if a value is not finite, a weight not positive or a reach not in (0, 1].
        """
        numbers = np.array([(v.skip, v.speak, v.weight, v.reach) for v in values], dtype=np.float64).reshape(-1, 4)
        if wrong := [v for v in values if not 0.0 < v.reach <= 1.0]:
            raise ConfigError(f"reach must be above 0 and at most 1, not {wrong[0].reach!r} in {wrong[0].infoset!r}.")
        made = self.increments_of([v.infoset for v in values], numbers[:, :2], numbers[:, 2])
        return replace(made, weights=made.weights * numbers[:, 3])

    def increments_of(
        self, infosets: Sequence[str], values: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> Increments:
        """Return the same for visits in columns: keys, values of both controls (n, A), and weights (n,)."""
        fine = np.isfinite(values).all(axis=1) & np.isfinite(weights) & (weights > 0.0)
        if not fine.all():
            first = int(np.argmin(fine))
            raise ConfigError(
                f"values of {infosets[first]!r} must be finite with a positive weight, got SKIP {values[first, 0]}, "
                f"SPEAK {values[first, 1]}, weight {weights[first]}."
            )
        place = {key: k for k, key in enumerate(dict.fromkeys(infosets))}
        rows = np.fromiter(map(place.__getitem__, infosets), dtype=np.int64, count=len(infosets))
        with_default = np.concatenate([self.table.strategy, self._default()[None]])  # the last row: unknown sets
        known = np.array([self._rows.get(key, -1) for key in place], dtype=np.int64)
        played = with_default[known][rows]
        gains = (values - (played * values).sum(axis=1, keepdims=True)) * weights[:, None]
        return Increments(infosets=tuple(place), rows=rows, gains=gains, weights=weights, version=self.version)

    def apply(self, increments: Sequence[Increments], *, asynchronous: bool = False) -> None:
        """Make one update of every information set that any worker has visited (a synchronous epoch).

        Args:
            increments: one for each worker, all made under the current strategy by a controller with this table.
            asynchronous: take increments of older strategies, too. That is approximate: they are not orthogonal to
                what is played now, so that no bound is promised any more, and ``stale`` counts the update.

        Raises:
            ConfigError: if increments were made under another strategy than the current one, or, asynchronously, under
                one that is still to come.
        """
        ages = [self.version - part.version for part in increments]
        if any(age < 0 if asynchronous else age != 0 for age in ages):
            raise ConfigError(
                f"increments were made at updates {[part.version for part in increments]} of their strategy, and this "
                f"controller has made {self.version}: freeze the strategy on all workers for an epoch, or merge with "
                "asynchronous=True, which is approximate."
            )
        self.stale += any(ages)
        self.history["profiles"].append(self.table.strategy[:, 1].copy())
        new = dict.fromkeys(key for part in increments for key in part.infosets if key not in self._rows)
        if new:
            self._rows.update({key: len(self._rows) + k for k, key in enumerate(new)})
            self.table.grow(np.tile(self._default(), (len(new), 1)))
        places = [np.array([self._rows[key] for key in part.infosets], dtype=np.int64) for part in increments]
        visits = [place[part.rows] for place, part in zip(places, increments, strict=True) if len(part.rows)]
        differences = np.zeros(len(self.table))
        if visits:
            by_visit = np.concatenate([np.column_stack([part.gains, part.weights]) for part in increments])
            touched, sums, counts = _exact_sums(np.concatenate(visits), by_visit)
            self.table.update(touched, sums[:, :2], sums[:, 2], counts)
            differences[touched] = sums[:, 1] - sums[:, 0]
        self.history["differences"].append(differences)
        bound = self.bounds()
        self.history["regret"].append(self.table.columns["external_regret"].max(axis=1))
        self.history["bound"].append(np.full(len(self.table), np.nan) if bound is None else bound)

    # --- what was learned -------------------------------------------------------------------------------------------

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a copy of one column; names as in ``RegretTable.columns``, shape (I, A) or (I,)."""
        return self.table.columns[name].copy()

    def bounds(self) -> NDArray[np.float64] | None:
        """Return what max_a G(a) cannot exceed, shape (I,); None when nothing is promised about it.

        Nothing is when the minimiser promises nothing, or when stale increments were merged.
        """
        return None if self.stale else self.table.bound()

    def discounted_bounds(self) -> NDArray[np.float64] | None:
        """Return what no entry of ``discounted_regret`` can exceed, shape (I,); None when nothing is promised."""
        minimiser = self.table.minimiser
        if self.stale or not isinstance(minimiser, PromisesDiscounted):
            return None
        return minimiser.discounted_bound(self.table.columns)

    def bound(self, infoset: str) -> float | None:
        """Return what no control's external regret may exceed; None when nothing is promised about it."""
        bounds = self.bounds()
        row = self._rows.get(infoset)
        return None if bounds is None else 0.0 if row is None else float(bounds[row])

    def restore(
        self,
        infosets: Sequence[str],
        columns: Mapping[str, NDArray[np.float64]],
        history: Mapping[str, Sequence[NDArray[np.float64]]],
        stale: int = 0,
    ) -> None:
        """Replace the whole table, its history and its count of stale updates by saved ones."""
        self.stale = stale
        self._rows = {key: k for k, key in enumerate(infosets)}
        self.table.restore(columns)
        self.history = {name: [np.array(row, dtype=np.float64) for row in history[name]] for name in HISTORY}


def _exact_sums(
    rows: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Add up the values of each row, rounded once, so that order and grouping do not matter.

    Args:
        rows: shape (n,), n at least 1, not negative.
        values: shape (n, C).

    Returns:
        The rows that occur, in order, shape (m,); their sums, shape (m, C); and how often each occurs, shape (m,).
    """
    narrow = rows.astype(np.uint16) if rows.max() < 2**16 else rows  # which numpy sorts by radix
    order = np.argsort(narrow, kind="stable")
    ordered = rows[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    found, ends = ordered[first], np.concatenate([first[1:], [len(rows)]])
    counts = ends - first
    spans = list(map(slice, first.tolist(), ends.tolist()))
    sums = np.empty((len(found), values.shape[1]))
    for c, column in enumerate(values[order].T):
        if (column == 1.0).all():  # weights, as a rule
            sums[:, c] = counts
        else:
            listed = column.tolist()
            sums[:, c] = [math.fsum(listed[span]) for span in spans]
    return found, sums, counts.astype(np.float64)


class FrozenController:
    """A learned controller as it is evaluated: it does not learn any more.

    ``mode`` is ``"last"`` (last iterate), ``"average"`` (sampled average strategy) or ``"greedy"`` (the likelier
    control of the average strategy; SPEAK in a tie). A set that was never updated has no learned strategy: it plays the
    default, also in greedy mode (flaw C17 of the public code: it would silently play control 0 there).
    """

    def __init__(self, learned: TabularController, mode: str = "greedy") -> None:
        """Wrap a learned controller.

        Raises:
            ConfigError: if the mode is unknown.
        """
        if mode not in ("last", "average", "greedy"):
            raise ConfigError(f"mode must be 'last', 'average' or 'greedy', not {mode!r}.")
        self._learned = learned
        self._mode = mode
        updated = learned.column("updates") > 0.0
        self._known = {key for key, seen in zip(learned.infosets, updated, strict=True) if seen}

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK; 1 when SKIP is masked."""
        if not mask[0] or self._mode == "last":
            return self._learned.speak_prob(infoset, features, mask)
        speak = float(self._learned.average_strategy(infoset)[1])
        if self._mode == "average" or infoset not in self._known:
            return speak
        return 1.0 if speak >= 0.5 else 0.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""
