"""Fitting controllers on a recorded or simulated game: with exact values, or from episodes that are drawn.

``fit_exact`` runs a regret minimiser in all information sets at once with the exact values of both controls (estimator
``exact``). Its increments are the expectation of what a live run sees::

    visit:            r_t(I, a) = sum over nodes h in I of p(h) (v(h, a) - sum_b s(b) v(h, b))
    counterfactual:   the same with p(h) without the seat's own controls on the way

Counterfactual weights are CFR's; with the ``history`` key (perfect recall) its guarantee is a coarse correlated
equilibrium of the average play. Nothing promises the team's optimum: with a common payoff the play ends in one of
several equilibria, which one depends on the start. So start several times, and keep the best on what was fitted.

``fit_sampled`` plays episodes and hands every controller what it saw, as a live run does; any controller of the
protocol learns so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tracer_agents.controllers.minimisers import RegretMinimiser
from tracer_agents.controllers.table import HISTORY, RegretTable, TabularController
from tracer_agents.interfaces import Controller, ControlValues
from tracer_agents.rollout import WEIGHTINGS
from tracer_env.errors import ConfigError, UnknownNameError, check_integer
from tracer_env.exact import ControlTree, control_values, evaluate
from tracer_env.exact.evaluate import speak_probs
from tracer_env.types import Seat

__all__ = [
    "WEIGHTINGS",
    "ExactFit",
    "FeatureController",
    "best_start",
    "fit_exact",
    "fit_sampled",
    "policy_of_controllers",
    "team_probs",
]

# shape legend: N decision nodes, I information sets, A = 2 controls, n iterations


@runtime_checkable
class FeatureController(Protocol):
    """A controller whose strategy depends on the features alone, so that many decisions can be asked for at once."""

    def speak_probs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return P(SPEAK), shape (n,), for unscaled features, shape (n, F)."""
        ...


_CORNERS = (0.02, 0.98)
"""P(SPEAK) of random starts. Not 0 and 1, so that every part of the game is reached at first."""


@dataclass(frozen=True, kw_only=True)
class ExactFit:
    """What ``fit_exact`` has learned.

    Attributes:
        tree: what it was fitted on.
        table: regrets of the tree's information sets, row by row.
        history: by name as in ``TabularController``, float64, shape (n, I): ``profiles``, the joint play,
            ``differences``, the values' ones, and ``regret`` and ``bound`` after each iteration.
        weighting: of the increments.
        start: seed of the default strategies; None is uniform.
    """

    tree: ControlTree
    table: RegretTable
    history: Mapping[str, NDArray[np.float64]]
    weighting: str
    start: int | None

    @property
    def profiles(self) -> NDArray[np.float64]:
        """P(SPEAK) of every set before each iteration, float64, shape (n, I): the joint play."""
        return self.history["profiles"]

    def controllers(self) -> dict[str, TabularController]:
        """Return what was learned as controllers, by seat name."""
        made = {}
        for seat in self.tree.seats:
            rows = [k for k, (owner, _) in enumerate(self.tree.infosets) if owner is seat]
            controller = TabularController(self.table.minimiser, averaging=self.table.averaging)
            columns = {name: column[rows] for name, column in self.table.columns.items()}
            history = {name: list(kept[:, rows]) for name, kept in self.history.items()}
            controller.restore([self.tree.infosets[k][1] for k in rows], columns, history)
            made[seat.name] = controller
        return made

    @property
    def last(self) -> dict[tuple[Seat, str], float]:
        """P(SPEAK) of the last iterate, by (seat, key)."""
        return self._policy(self.table.strategy[:, 1])

    @property
    def average(self) -> dict[tuple[Seat, str], float]:
        """P(SPEAK) of the average strategy."""
        return self._policy(self.table.average()[:, 1])

    @property
    def greedy(self) -> dict[tuple[Seat, str], float]:
        """The likelier control of the average strategy, SPEAK in a tie; what was never updated plays its default."""
        average = self.table.average()[:, 1]
        played = self.table.columns["updates"] > 0
        return self._policy(np.where(played, (average >= 0.5).astype(np.float64), average))

    def _policy(self, speak: NDArray[np.float64]) -> dict[tuple[Seat, str], float]:
        return {pair: float(p) for pair, p in zip(self.tree.infosets, speak, strict=True)}


def fit_exact(
    tree: ControlTree,
    minimiser: str | RegretMinimiser = "regret_matching",
    *,
    iterations: int = 1000,
    averaging: str | float | None = None,
    weighting: str = "visit",
    alternating: bool = False,
    start: int | None = None,
) -> ExactFit:
    """Run a regret minimiser in every information set with exact values.

    Args:
        tree: a recorded or simulated game.
        minimiser: its name, or an object.
        iterations: n, at least 1.
        averaging: weights of the average strategy; None is the minimiser's usual one.
        weighting: ``"visit"`` or ``"counterfactual"``; see the module.
        alternating: let one seat after the other update in an iteration, each against the newest strategies of the
            others; else all update at once.
        start: seed of random default strategies, one for each set, which are what is played first: nearly SKIP or
            nearly SPEAK, since starts in the middle end in few of the equilibria; None is uniform.

    Raises:
        ConfigError: if a setting is unknown or out of range.
    """
    if weighting not in WEIGHTINGS:
        raise UnknownNameError("weighting", weighting, WEIGHTINGS)
    check_integer("iterations", iterations)
    sets = len(tree.infosets)
    speak = np.full(sets, 0.5) if start is None else np.random.default_rng(start).choice(_CORNERS, size=sets)
    table = RegretTable(minimiser, averaging=averaging, default=np.stack([1.0 - speak, speak], axis=1))
    owner = np.empty(sets, dtype=np.int64)
    owner[tree.node_infoset] = tree.node_seat
    everybody = [np.arange(sets)]
    groups = [np.flatnonzero(owner == seat) for seat in range(len(tree.seats))] if alternating else everybody
    history = {name: np.full((iterations, sets), np.nan) for name in HISTORY}
    for t in range(iterations):
        history["profiles"][t] = table.strategy[:, 1]
        for rows in groups:
            increments, reach = _increments(tree, table.strategy, weighting)
            learned = rows[reach[rows] > 0.0] if weighting == "visit" else rows
            history["differences"][t, rows] = increments[rows, 1] - increments[rows, 0]
            table.update(learned, increments[learned], reach[learned], np.ones(len(learned)))
        history["regret"][t] = table.columns["external_regret"].max(axis=1)
        if (bound := table.bound()) is not None:
            history["bound"][t] = bound
    return ExactFit(tree=tree, table=table, history=history, weighting=weighting, start=start)


def _increments(
    tree: ControlTree, strategy: NDArray[np.float64], weighting: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return r_t, shape (I, A), and the weight of the strategy in the average, shape (I,)."""
    speak = np.where(tree.may_skip, strategy[tree.node_infoset, 1], 1.0)
    at = control_values(tree, speak)
    sets = len(tree.infosets)
    own, others = (None, at.reach) if weighting == "visit" else _split_reach(tree, speak)
    weight = others * tree.may_skip
    gain = (at.values[:, 1] - at.values[:, 0]) * weight
    difference = np.bincount(tree.node_infoset, weights=gain, minlength=sets).astype(np.float64)
    increments = difference[:, None] * np.stack([-strategy[:, 1], strategy[:, 0]], axis=1)
    if own is None:
        return increments, np.bincount(tree.node_infoset, weights=weight, minlength=sets).astype(np.float64)
    # Under perfect recall all nodes of a set have one own reach; else this is the mean over them.
    nodes = np.bincount(tree.node_infoset, minlength=sets)
    mean = np.bincount(tree.node_infoset, weights=own, minlength=sets) / np.maximum(nodes, 1)
    return increments, mean.astype(np.float64)


def _split_reach(tree: ControlTree, speak: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each node's reach by its own seat's controls, and by everybody else's and chance, shapes (N,)."""
    own = np.ones((tree.num_nodes, len(tree.seats)))
    others = np.tile(tree.node_prob[:, None], (1, len(tree.seats)))
    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        taken = np.where(tree.node_control[depth] == 1, speak[parent], 1.0 - speak[parent])[:, None]
        mine = np.arange(len(tree.seats)) == tree.node_seat[parent][:, None]
        own[depth] = own[parent] * np.where(mine, taken, 1.0)
        others[depth] *= others[parent] * np.where(mine, 1.0, taken)
    nodes = np.arange(tree.num_nodes)
    return own[nodes, tree.node_seat], others[nodes, tree.node_seat]


def best_start(
    tree: ControlTree,
    minimiser: str | RegretMinimiser = "regret_matching",
    *,
    starts: Sequence[int],
    policy: Callable[[ExactFit], Mapping[tuple[Seat, str], float]] = lambda fit: fit.greedy,
    **settings: object,
) -> tuple[ExactFit, list[float]]:
    """Fit from several random starts, and return the one whose policy has the largest team return on the same tree.

    Args:
        tree: what is fitted on; choosing on it is part of fitting, so report on another one.
        minimiser: its name, or an object.
        starts: seeds.
        policy: which of a fit's policies is compared; greedy by default, as it is deployed.
        **settings: as for ``fit_exact``.

    Returns:
        The best fit, and the team return of every start, in order: single starts promise nothing.
    """
    fits = [fit_exact(tree, minimiser, start=start, **settings) for start in starts]  # type: ignore[arg-type]
    returns = [evaluate(tree, policy(fit)).team_return for fit in fits]
    return fits[int(np.argmax(returns))], returns


# --- from episodes ---------------------------------------------------------------------------------------------------


def fit_sampled(
    tree: ControlTree,
    controllers: Mapping[str, Controller],
    *,
    updates: int,
    episodes: int,
    seed: int,
    values: bool = True,
    on_update: Callable[[int, float], None] | None = None,
) -> None:
    """Let any controllers learn from episodes that are drawn under their current strategies.

    Every visited decision is handed over with the exact values of both controls under the strategies that played, the
    control that was drawn, its probability, and the episode's team return: regret minimisers read the first, policy
    gradients the last.

    Args:
        tree: a recorded or simulated game.
        controllers: by seat name. One object may sit on several seats; it then gets the batch of each.
        updates: how many batches.
        episodes: of each batch, at least 1.
        seed: of worlds, controls and chance moves.
        values: False leaves the values of both controls out (NaN), for learners that read what happened only: then
            controllers are asked at visited decisions alone, and not in the whole tree.
        on_update: called with the number of the update, from 0, and the mean team return of its episodes.

    Raises:
        ConfigError: if a seat that decides has no controller, or a number is out of range.
    """
    _check_seats(tree, controllers)
    if updates < 0 or episodes < 1:
        raise ConfigError(f"updates must be at least 0 and episodes at least 1, not {updates!r} and {episodes!r}.")
    rng, children = np.random.default_rng(seed), _Children.of(tree)
    for update in range(updates):
        speak = team_probs(tree, controllers) if values else None
        visited, controls, leaves, speak = _play(tree, controllers, children, episodes, rng, speak)
        returned = tree.leaf_return[leaves]
        worth = control_values(tree, speak).values if values else np.full((tree.num_nodes, 2), np.nan)
        batches: dict[str, list[ControlValues]] = {name: [] for name in controllers}
        for depth, e in np.argwhere((visited >= 0).T & tree.may_skip[visited.T]):
            node = int(visited[e, depth])
            seat, key = tree.infosets[tree.node_infoset[node]]
            decision = ControlValues(
                infoset=key,
                skip=float(worth[node, 0]),
                speak=float(worth[node, 1]),
                features=tree.features[node],
                speak_prob=float(speak[node]),
                control=int(controls[e, depth]),
                returned=float(returned[e]),
            )
            batches[seat.name].append(decision)
        for name, batch in batches.items():
            if batch:
                controllers[name].update(batch)
        if on_update is not None:
            on_update(update, float(returned.mean()))


def team_probs(tree: ControlTree, controllers: Mapping[str, Controller]) -> NDArray[np.float64]:
    """Return P(SPEAK) of controllers, by seat name, at every node, shape (N,): a policy for ``tracer_env.exact``.

    As ``speak_probs`` of ``policy_of_controllers``, but a controller that reads features only is asked once for all its
    nodes.
    """
    probs = np.ones(tree.num_nodes)
    for k, seat in enumerate(tree.seats):
        nodes = np.flatnonzero(tree.may_skip & (tree.node_seat == k))
        if not len(nodes):
            continue
        learned: object = controllers[seat.name]
        if isinstance(learned, FeatureController):
            probs[nodes] = learned.speak_probs(tree.features[nodes])
            continue
        for node in nodes:
            key = tree.infosets[tree.node_infoset[node]][1]
            probs[node] = controllers[seat.name].speak_prob(key, tree.features[node], (True, True))
    return speak_probs(tree, probs)


def policy_of_controllers(controllers: Mapping[str, Controller]) -> Callable[..., float]:
    """Return controllers, by seat name, as a policy that ``tracer_env.exact.evaluate`` takes."""

    def speak_prob(seat: Seat, key: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        return controllers[seat.name].speak_prob(key, features, mask)

    return speak_prob


def _check_seats(tree: ControlTree, controllers: Mapping[str, Controller]) -> None:
    missing = {tree.seats[s].name for s in np.unique(tree.node_seat[tree.may_skip])} - set(controllers)
    if missing:
        raise ConfigError(f"the team has no controller for {sorted(missing)}.")


@dataclass(frozen=True)
class _Children:
    """What follows each (node, control): nodes or leaves with their chance, as slices of sorted columns."""

    first: NDArray[np.int64]  # (2 N + 1,) slot -> where its children begin; the last slot stands for the beginning
    count: NDArray[np.int64]
    child: NDArray[np.int64]  # node, or -1 - leaf
    cumulative: NDArray[np.float64]  # of the chance, within all children of a slot

    @classmethod
    def of(cls, tree: ControlTree) -> _Children:
        parent = np.concatenate([tree.node_parent, tree.leaf_parent])
        control = np.concatenate([tree.node_control, tree.leaf_control])
        slot = np.where(parent >= 0, 2 * parent + control, 2 * tree.num_nodes)
        child = np.concatenate([np.arange(tree.num_nodes), -1 - np.arange(tree.num_leaves)])
        chance = np.concatenate([tree.node_prob, tree.leaf_prob])
        order = np.argsort(slot, kind="stable")
        count = np.bincount(slot, minlength=2 * tree.num_nodes + 1)
        first = np.concatenate([[0], np.cumsum(count)[:-1]])
        running = np.cumsum(chance[order])
        begins = np.where(first > 0, running[np.minimum(first - 1, len(running) - 1)], 0.0)
        return cls(first, count, child[order], running - np.repeat(begins, count))

    def draw(self, slots: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one child of each slot."""
        total = self.cumulative[self.first[slots] + self.count[slots] - 1]
        uniform = rng.random(len(slots)) * total
        low, high = self.first[slots].copy(), self.first[slots] + self.count[slots] - 1
        while (open_ := low < high).any():
            middle = (low + high) // 2
            right = self.cumulative[middle] <= uniform
            low = np.where(open_ & right, middle + 1, low)
            high = np.where(open_ & ~right, middle, high)
        return self.child[low]


def _play(
    tree: ControlTree,
    controllers: Mapping[str, Controller],
    children: _Children,
    episodes: int,
    rng: np.random.Generator,
    known: NDArray[np.float64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64], NDArray[np.float64]]:
    """Play episodes from the top: every node that is visited asks its controller once, unless P(SPEAK) is known.

    Returns:
        Nodes and controls, shape (episodes, D), -1 behind the end; leaves, shape (episodes,); and P(SPEAK) at every
        node, shape (N,), 0.5 where nobody came by.
    """
    depths = len(tree.depth_slices)
    visited = np.full((episodes, depths), -1, dtype=np.int64)
    controls = np.zeros((episodes, depths), dtype=np.int8)
    leaves = np.full(episodes, -1, dtype=np.int64)
    speak = np.where(tree.may_skip, 0.5, 1.0) if known is None else known
    at = children.draw(np.full(episodes, 2 * tree.num_nodes), rng)
    for depth in range(depths):
        live = np.flatnonzero(at >= 0)
        nodes = at[live]
        for node in np.unique(nodes[tree.may_skip[nodes]]) if known is None else ():
            seat, key = tree.infosets[tree.node_infoset[node]]
            speak[node] = controllers[seat.name].speak_prob(key, tree.features[node], (True, True))
        visited[live, depth] = nodes
        controls[live, depth] = rng.random(len(live)) < speak[nodes]
        at[live] = children.draw(2 * nodes + controls[live, depth], rng)
        ended = live[at[live] < 0]
        leaves[ended] = -1 - at[ended]
    return visited, controls, leaves, speak
