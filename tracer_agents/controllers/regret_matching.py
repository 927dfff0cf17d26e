"""Tabular regret matching on {SKIP, SPEAK}, one minimiser per information set of a seat.

Update ``t`` of an information set is one batch of visits under the frozen strategy s::

    r_t(a) = sum over visits of w (v(a) - sum_b s(b) v(b)),   R += r_t,   next s(a) = max(R(a), 0) / sum

uniform when no regret is positive. The *average* of the strategies has vanishing external regret on the visited
sequence; the last iterate has no such guarantee. What is certified is
``max_a G_n(a) <= sqrt(sum_t |r_t|^2)`` for the undiscounted external regret G, which is kept in a table of its own.
That certifies the local decision problem, neither equilibrium nor team optimality, nor that the values are right.

Source: Hart & Mas-Colell (2000); bound: Blackwell (1956), Cesa-Bianchi & Lugosi (2006), section 2.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.errors import CheckpointError
from tracer_agents.interfaces import ControlValues
from tracer_env.errors import ConfigError

__all__ = [
    "FrozenController",
    "RegretMatching",
    "load_controllers",
    "regret_matching_policy",
    "save_controllers",
]

# shape legend: I information sets, A = 2 controls (SKIP, SPEAK)
_ARRAYS = ("regret", "strategy_sum", "external_regret", "increment_sq", "visits", "updates")


def regret_matching_policy(cumulative_regret: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn cumulative regrets into a policy by normalising their positive part.

    Args:
        cumulative_regret: float64, shape (A,), in reward units.

    Returns:
        Probabilities, shape (A,), summing to 1; uniform if no regret is positive.

    Raises:
        ValueError: if the array is not one-dimensional or contains NaN.

    Source: Hart & Mas-Colell (2000).

    >>> regret_matching_policy(np.array([1.0, 3.0]))
    array([0.25, 0.75])
    """
    if cumulative_regret.ndim != 1 or np.isnan(cumulative_regret).any():
        raise ValueError(f"regrets must be one-dimensional and not NaN, got {cumulative_regret!r}.")
    positive = np.maximum(cumulative_regret, 0.0)
    total = positive.sum()
    if total <= 0.0:
        return np.full(len(positive), 1.0 / len(positive))
    return np.asarray(positive / total)


class RegretMatching:
    """A controller that learns by regret matching. The table grows as information sets appear.

    An information set that was never updated plays uniformly.
    """

    def __init__(self) -> None:
        """Start with an empty table."""
        self._rows: dict[str, int] = {}
        self._tables: dict[str, NDArray[np.float64]] = {
            name: np.zeros((0, 2) if name in ("regret", "strategy_sum", "external_regret") else (0,))
            for name in _ARRAYS
        }

    @property
    def infosets(self) -> tuple[str, ...]:
        """Keys of all information sets seen, in order of appearance."""
        return tuple(self._rows)

    def table(self, name: str) -> NDArray[np.float64]:
        """Return a copy of one table; names and shapes as in ``controllers.npz``: (I, A) or (I,)."""
        return self._tables[name].copy()

    def current_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the last iterate, shape (A,): what is played in training. It need not converge."""
        row = self._rows.get(infoset)
        return np.full(2, 0.5) if row is None else regret_matching_policy(self._tables["regret"][row])

    def average_strategy(self, infoset: str) -> NDArray[np.float64]:
        """Return the visit-weighted average of the strategies played, shape (A,): what converges."""
        row = self._rows.get(infoset)
        if row is None:
            return np.full(2, 0.5)
        total = self._tables["strategy_sum"][row]
        return np.asarray(total / total.sum())

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the last iterate's probability of SPEAK; 1 when SKIP is masked."""
        return float(self.current_strategy(infoset)[1]) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Make one update of every information set that occurs in the batch.

        Args:
            values: decisions that were all visited under the current strategy.

        Raises:
            ConfigError: if a value is not finite or a weight not positive.
        """
        batches: dict[str, list[tuple[float, float, float]]] = {}
        for v in values:
            if not (np.isfinite(v.skip) and np.isfinite(v.speak) and np.isfinite(v.weight) and v.weight > 0):
                raise ConfigError(
                    f"values of {v.infoset!r} must be finite with a positive weight, "
                    f"got SKIP {v.skip}, SPEAK {v.speak}, weight {v.weight}."
                )
            batches.setdefault(v.infoset, []).append((v.skip, v.speak, v.weight))
        for infoset, batch in batches.items():
            self._update_infoset(infoset, np.array(batch))

    def _update_infoset(self, infoset: str, batch: NDArray[np.float64]) -> None:
        row = self._row(infoset)
        strategy = regret_matching_policy(self._tables["regret"][row])
        controls, weights = batch[:, :2], batch[:, 2:]  # (visits, A), (visits, 1)
        gained = (controls - controls @ strategy[:, None]) * weights
        increment = gained.sum(axis=0)
        self._tables["regret"][row] += increment
        self._tables["external_regret"][row] += increment
        self._tables["increment_sq"][row] += float(increment @ increment)
        self._tables["strategy_sum"][row] += strategy * weights.sum()
        self._tables["visits"][row] += len(batch)
        self._tables["updates"][row] += 1

    def _row(self, infoset: str) -> int:
        if infoset not in self._rows:
            self._rows[infoset] = len(self._rows)
            for name, table in self._tables.items():
                self._tables[name] = np.concatenate([table, np.zeros((1, *table.shape[1:]))])
        return self._rows[infoset]

    def bound(self, infoset: str) -> float:
        """Return sqrt(sum of squared increments): no control's external regret may exceed it."""
        row = self._rows.get(infoset)
        return 0.0 if row is None else float(np.sqrt(self._tables["increment_sq"][row]))

    def restore(self, infosets: Sequence[str], tables: Mapping[str, NDArray[np.float64]]) -> None:
        """Replace the whole table by a saved one."""
        self._rows = {key: k for k, key in enumerate(infosets)}
        self._tables = {name: np.array(tables[name], dtype=np.float64) for name in _ARRAYS}


class FrozenController:
    """A learned controller as it is evaluated: it does not learn any more.

    ``mode`` is ``"last"`` (last iterate), ``"average"`` (sampled average strategy) or ``"greedy"`` (the likelier
    control of the average strategy; SPEAK in a tie). A set that was never updated has no learned strategy: it plays the
    uniform default, also in greedy mode (flaw C17 of the public code: it would silently play control 0 there).
    """

    def __init__(self, learned: RegretMatching, mode: str = "greedy") -> None:
        """Wrap a learned controller.

        Raises:
            ConfigError: if the mode is unknown.
        """
        if mode not in ("last", "average", "greedy"):
            raise ConfigError(f"mode must be 'last', 'average' or 'greedy', not {mode!r}.")
        self._learned = learned
        self._mode = mode

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the probability of SPEAK; 1 when SKIP is masked."""
        if not mask[0]:
            return 1.0
        if self._mode == "last":
            return float(self._learned.current_strategy(infoset)[1])
        speak = float(self._learned.average_strategy(infoset)[1])
        if self._mode == "average" or infoset not in self._learned.infosets:
            return speak
        return 1.0 if speak >= 0.5 else 0.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


def save_controllers(path: str | os.PathLike[str], controllers: Mapping[str, RegretMatching]) -> None:
    """Write the tables of several seats into one ``.npz``, keys as ``<seat>/<infoset>``; no pickle.

    Args:
        path: the file.
        controllers: by seat name.
    """
    keys = [f"{seat}/{infoset}" for seat, c in controllers.items() for infoset in c.infosets]
    arrays: dict[str, Any] = {name: np.concatenate([c.table(name) for c in controllers.values()]) for name in _ARRAYS}
    with open(path, "wb") as file:
        np.savez(file, keys=np.array(keys, dtype=np.str_), **arrays)


def load_controllers(path: str | os.PathLike[str], seats: Sequence[str]) -> dict[str, RegretMatching]:
    """Read what ``save_controllers`` wrote.

    Args:
        path: the file.
        seats: names of the seats; each gets a controller, empty when the file has nothing for it.

    Raises:
        CheckpointError: if the file is missing or damaged.
        ConfigError: if the file has a seat that is not asked for.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [str(key).split("/", 1) for key in file["keys"]]
            tables = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot read the controllers in {str(path)!r}: {error}") from error
    unknown = {seat for seat, _ in keys} - set(seats)
    if unknown:
        raise ConfigError(f"{path} has controllers of {sorted(unknown)}; this team has {list(seats)}.")
    controllers = {}
    for seat in seats:
        rows = [k for k, (owner, _) in enumerate(keys) if owner == seat]
        controllers[seat] = RegretMatching()
        controllers[seat].restore([keys[k][1] for k in rows], {name: t[rows] for name, t in tables.items()})
    return controllers
