"""The certificate of a run's controllers: what is certified, row by row, and what is not.

Certified, for every seat and information set: max_a G(a), the undiscounted external regret over the updates that were
made, is at most what the algorithm promises for these very increments (its file says why). That is the local decision
problem on the visited sequence. On a recorded or simulated game the rest can be *measured*, exactly: how far the
empirical joint play is from a coarse correlated equilibrium, what a single information set could gain, and how far the
team return is from the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.table import FrozenController, TabularController
from tracer_agents.errors import CertificateError
from tracer_agents.fit import team_probs
from tracer_env.errors import MissingExtraError
from tracer_env.exact import BestPolicy, CoarseGap, ControlTree, best_policy, coarse_gaps, deviation_gains, evaluate
from tracer_env.types import Seat

__all__ = ["NOT_CERTIFIED", "Certificate", "CertifiedGame", "Row", "certify", "plot_regret"]

NOT_CERTIFIED = (
    "Not certified: that the values of the controls are right (estimators are certified apart), counterfactual regret, "
    "equilibrium, or team optimality; the bounds are about each information set on the sequence it has visited."
)

_SLACK = 1e-9
"""Rounding: relative to the bound, and absolute in reward units."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One information set.

    Attributes:
        seat: name of the seat.
        infoset: key.
        visits: decisions that were learned from.
        updates: n.
        regret: max_a G_n(a), in reward units.
        bound: what it cannot exceed; None where the algorithm promises nothing about G.
        ratio: regret / bound, 0 where both are 0; None without a bound.
        holds: False when a promise is broken.
    """

    seat: str
    infoset: str
    visits: int
    updates: int
    regret: float
    bound: float | None
    ratio: float | None
    holds: bool


@dataclass(frozen=True, kw_only=True)
class CertifiedGame:
    """What was measured on a recorded or simulated game.

    Attributes:
        task: its name.
        profiles: how many joint strategies were played.
        coarse_gaps: of the empirical joint play, seat by seat; None when the updates of the seats do not match.
        deviation_gain: the most that one information set gains by another control, at the last iterate.
        team_return: E[U] of the last iterate, the average and the greedy average strategy.
        optimum: E[U] of the best deterministic policy of the abstraction, or the best that was found.
        upper_bound: no policy of the abstraction is better.
        is_optimum: whether ``optimum`` is one.
        unseen: information sets of the game that were never updated, and play the default.
    """

    task: str
    profiles: int
    coarse_gaps: tuple[CoarseGap, ...] | None
    deviation_gain: float
    team_return: Mapping[str, float]
    optimum: float
    upper_bound: float
    is_optimum: bool
    unseen: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """See the module.

    Attributes:
        minimiser: name of the algorithm.
        rows: one for each seat and information set that was learned.
        promises: what the algorithm promises something about: ``"external"`` regret (G), its own ``"discounted"``
            regret, or nothing (``"none"``).
        stale: updates that merged increments of older strategies; with any, nothing is promised.
        game: what was measured on a game; None without one.
    """

    minimiser: str
    rows: tuple[Row, ...]
    promises: str
    stale: int = 0
    game: CertifiedGame | None = None

    @property
    def holds(self) -> bool:
        """True when no promise is broken."""
        return all(row.holds for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "minimiser": self.minimiser,
            "holds": self.holds,
            "promises": self.promises,
            "stale": self.stale,
            "rows": [asdict(row) for row in self.rows],
            "game": None if self.game is None else asdict(self.game),
            "not_certified": NOT_CERTIFIED,
        }


def certify(
    controllers: Mapping[str, TabularController], tree: ControlTree | None = None, task: str = ""
) -> Certificate:
    """Check what controllers promise, and measure the rest on a game.

    Args:
        controllers: by seat name.
        tree: a recorded or simulated game with the abstraction that the controllers learned under.
        task: the game's name.

    Raises:
        CertificateError: if there are no controllers, or the game has none of their information sets.
    """
    if not controllers:
        raise CertificateError("there are no controllers to certify.")
    rows = tuple(row for seat, controller in controllers.items() for row in _rows(seat, controller))
    team = controllers.values()
    external = all(c.bounds() is not None for c in team)
    discounted = all(c.discounted_bounds() is not None for c in team)
    return Certificate(
        minimiser=next(iter(team)).table.minimiser.name,
        rows=rows,
        promises="external" if external else "discounted" if discounted else "none",
        stale=sum(c.stale for c in team),
        game=None if tree is None else _measure(controllers, tree, task),
    )


def _rows(seat: str, controller: TabularController) -> Iterator[Row]:
    columns, bounds = controller.table.columns, controller.bounds()
    regrets = columns["external_regret"].max(axis=1)
    kept = np.ones(len(regrets), dtype=np.bool_) if bounds is None else _within(regrets, bounds)
    if (discounted := controller.discounted_bounds()) is not None:
        kept &= _within(columns["discounted_regret"].max(axis=1), discounted)
    for k, infoset in enumerate(controller.infosets):
        if not columns["updates"][k]:
            continue  # known, but never learned from
        bound = None if bounds is None else float(bounds[k])
        ratio = None if bound is None else float(regrets[k] / bound) if bound else 0.0
        yield Row(
            seat=seat,
            infoset=infoset,
            visits=int(columns["visits"][k]),
            updates=int(columns["updates"][k]),
            regret=float(regrets[k]),
            bound=bound,
            ratio=ratio,
            holds=bool(kept[k]),
        )


def _within(regrets: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(regrets <= bounds * (1.0 + _SLACK) + _SLACK)


def _measure(controllers: Mapping[str, TabularController], tree: ControlTree, task: str) -> CertifiedGame:
    known = {
        (seat, key)
        for seat, c in controllers.items()
        for key, updates in zip(c.infosets, c.table.columns["updates"], strict=True)
        if updates
    }
    free = [tree.infosets[s] for s in np.unique(tree.node_infoset[tree.may_skip])]
    if not free:
        raise CertificateError(f"no seat has a choice in {task or 'the game'}, so that there is nothing to measure.")
    if strangers := sorted({seat.name for seat, _ in free} - set(controllers)):
        raise CertificateError(f"{task or 'the game'} has seats that were not learned: {', '.join(strangers)}.")
    unseen = sum((seat.name, key) not in known for seat, key in free)
    if unseen == len(free):
        raise CertificateError(
            f"{task or 'the game'} has none of the information sets that were learned; the keys are like {free[0]!r} "
            f"there and like {next(iter(known), None)!r} here. Was it another abstraction or team?"
        )
    modes = {
        mode: team_probs(tree, {name: FrozenController(c, mode) for name, c in controllers.items()})
        for mode in ("last", "average", "greedy")
    }
    counts = {len(c.history["profiles"]) for c in controllers.values()}
    played = len(counts) == 1 and counts != {0}
    best: BestPolicy = best_policy(tree)
    return CertifiedGame(
        task=task,
        profiles=max(counts),
        coarse_gaps=tuple(coarse_gaps(tree, _profiles(controllers, tree))) if played else None,
        deviation_gain=float(deviation_gains(tree, modes["last"]).max()),
        team_return={mode: evaluate(tree, policy).team_return for mode, policy in modes.items()},
        optimum=best.team_return,
        upper_bound=best.upper_bound,
        is_optimum=best.is_optimum,
        unseen=unseen,
    )


def _profiles(
    controllers: Mapping[str, TabularController], tree: ControlTree
) -> Iterator[dict[tuple[Seat, str], float]]:
    """Yield the joint strategy of every update, in the game's information sets."""
    places = {name: {key: k for k, key in enumerate(c.infosets)} for name, c in controllers.items()}
    for t in range(len(next(iter(controllers.values())).history["profiles"])):
        joint = {}
        for seat, key in tree.infosets:
            controller = controllers[seat.name]
            profile, place = controller.history["profiles"][t], places[seat.name].get(key)
            unknown = place is None or place >= len(profile)
            joint[seat, key] = controller.default_speak if unknown else float(profile[place])
        yield joint


def plot_regret(controllers: Mapping[str, TabularController], path: str) -> None:
    """Draw max_a G_n(a) of every information set over its updates, with the bounds, in double logarithmic scale.

    Args:
        controllers: by seat name.
        path: the picture; its ending decides the format (png, svg, pdf).

    Raises:
        MissingExtraError: if matplotlib is not installed.
        CertificateError: if nothing was learned, or the format is unknown.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "agents", "drawing regret") from error

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    labelled: set[str] = set()
    for k, (seat, controller) in enumerate(controllers.items()):
        for row in range(len(controller.infosets)):
            regret, bound = _curve(controller.history["regret"], row), _curve(controller.history["bound"], row)
            if len(regret) < 2:
                continue
            steps = np.arange(len(controller.history["regret"]) - len(regret), len(controller.history["regret"])) + 1
            label = None if seat in labelled else seat
            labelled.add(seat)
            shown = np.where(regret > 0.0, regret, np.nan)  # a logarithm knows no negative regret
            axes.plot(steps, shown, color=f"C{k}", linewidth=1.0, label=label)
            axes.plot(steps, bound, color=f"C{k}", linewidth=0.8, linestyle=":")
    if not labelled:
        raise CertificateError("there is nothing to draw: no information set has two updates.")
    axes.set(xscale="log", yscale="log", xlabel="update", ylabel="external regret (reward units)")
    axes.set_title("Largest regret of each information set (lines) and its bound (dotted)", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise CertificateError(f"cannot draw {path}: {error}") from error


def _curve(history: Sequence[NDArray[np.float64]], row: int) -> NDArray[np.float64]:
    return np.array([values[row] for values in history if len(values) > row])
