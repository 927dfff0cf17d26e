"""How stable a policy is on a control tree: what could be gained by deviating, and which pure policies are equilibria.

In a team game everybody's payoff is the team return, so an equilibrium need not be good. Three notions, weakest last:

* the *optimum* (``search.best_policy``),
* *agent-form equilibrium*: no single information set gains by another control, all others as they are,
* *coarse correlated equilibrium* of empirical joint play: no seat gains, on average over the profiles that were played,
  by having stuck to one policy of its own throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_env.errors import ConfigError
from tracer_env.exact.evaluate import Policy, control_values, leaf_reach, speak_probs
from tracer_env.exact.search import EXHAUSTIVE_SETS, needs_of, needs_of_every_policy, returns_of_all
from tracer_env.exact.tree import ControlTree

__all__ = ["CoarseGap", "PureEquilibria", "coarse_gaps", "deviation_gains", "pure_equilibria"]

# shape legend: N decision nodes, L leaves, I information sets, n profiles

_TIE = 1e-9
_BITS = 62
"""Information sets whose controls fit into one number."""


def deviation_gains(tree: ControlTree, policy: Policy) -> NDArray[np.float64]:
    """Return what each information set would gain by playing one control throughout, all others as they are.

    Args:
        tree: a recorded or simulated game.
        policy: the controllers of all seats.

    Returns:
        float64, shape (I, 2): E[U] with SKIP (SPEAK) wherever the set may, less E[U]; 0 where there is no choice. The
        largest entry is the agent-form deviation gain; it is 0 exactly in an agent-form equilibrium.
    """
    speak = speak_probs(tree, policy)
    at = control_values(tree, speak)
    node_value = (1.0 - speak) * at.values[:, 0] + speak * at.values[:, 1]
    weight = at.reach * tree.may_skip
    sums = [
        np.bincount(tree.node_infoset, weights=weight * (at.values[:, c] - node_value), minlength=len(tree.infosets))
        for c in (0, 1)
    ]
    gains = np.stack(sums, axis=1).astype(np.float64)
    base: float | None = None
    repeated = set(tree.absent_minded())
    for row, pair in enumerate(tree.infosets):
        if pair not in repeated:
            continue
        # A path meets the set twice, so that deviating at one visit and at all are different things.
        base = float(leaf_reach(tree, speak) @ tree.leaf_return) if base is None else base
        for control in (0, 1):
            changed = np.where(tree.may_skip & (tree.node_infoset == row), float(control), speak)
            gains[row, control] = float(leaf_reach(tree, changed) @ tree.leaf_return) - base
    return gains


@dataclass(frozen=True, kw_only=True)
class PureEquilibria:
    """The deterministic policies in which no single information set gains by its other control.

    Attributes:
        returns: float64, shape (number,), descending: E[U] of each, where policies that differ only in sets that the
            play never reaches count as different.
        distinct: float64: the different returns among them, descending, to 1e-9.
        optimum: the largest E[U] of any deterministic policy, which is always one of them.
    """

    returns: NDArray[np.float64]
    distinct: NDArray[np.float64]
    optimum: float


def pure_equilibria(tree: ControlTree) -> PureEquilibria:
    """Find all agent-form equilibria among the deterministic policies by trying all of these.

    Raises:
        ConfigError: if the abstraction has more information sets with a choice than can be tried.
    """
    sets, needs = needs_of_every_policy(tree)
    returns = returns_of_all(needs, needs.value, len(sets))
    numbers = np.arange(len(returns))
    stable = np.ones(len(returns), dtype=np.bool_)
    for c in range(len(sets)):
        stable &= returns >= returns[numbers ^ (1 << c)] - _TIE
    found = -np.sort(-returns[stable])
    distinct = found[np.concatenate([[True], np.diff(found) < -_TIE])]
    return PureEquilibria(returns=found, distinct=distinct, optimum=float(returns.max()))


@dataclass(frozen=True, kw_only=True)
class CoarseGap:
    """What one seat would have gained by one policy of its own, on average over the profiles.

    Attributes:
        seat: its name.
        gain: E[U] of its best policy against the others' profiles, less E[U] of the profiles.
        exact: True when the best policy is found for certain; else ``gain`` is what a local search found, and the true
            gap may be larger.
    """

    seat: str
    gain: float
    exact: bool


def coarse_gaps(tree: ControlTree, profiles: Iterable[Policy]) -> list[CoarseGap]:
    """Return how far the empirical joint play is from a coarse correlated equilibrium, seat by seat.

    Args:
        tree: a recorded or simulated game.
        profiles: the joint policies that were played, each with the same weight; not their average: the average of
            products is not the product of averages.

    Returns:
        One gap for each seat that has a choice. The largest is the distance.

    Raises:
        ConfigError: if there is no profile.
    """
    seats = sorted({int(s) for s in tree.node_seat[tree.may_skip]})
    weights = {seat: np.zeros(tree.num_leaves) for seat in seats}
    played, count = 0.0, 0
    for profile in profiles:
        speak = speak_probs(tree, profile)
        played += float(leaf_reach(tree, speak) @ tree.leaf_return)
        count += 1
        for seat in seats:
            weights[seat] += _others_reach(tree, speak, seat)
    if not count:
        raise ConfigError("a gap needs at least one profile; keep them while learning.")
    gaps = []
    for seat in seats:
        value, exact = _best_response(tree, seat, weights[seat] / count)
        gaps.append(CoarseGap(seat=tree.seats[seat].name, gain=value - played / count, exact=exact))
    return gaps


def _others_reach(tree: ControlTree, speak: NDArray[np.float64], seat: int) -> NDArray[np.float64]:
    """Return chance times the others' probabilities on the way to each leaf, shape (L,): the seat's own count as 1."""
    own = (tree.node_seat == seat) & tree.may_skip
    reach = tree.node_prob.copy()

    def taken(parent: NDArray[np.int64], control: NDArray[np.int8]) -> NDArray[np.float64]:
        return np.where(own[parent], 1.0, np.where(control == 1, speak[parent], 1.0 - speak[parent]))

    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        reach[depth] *= reach[parent] * taken(parent, tree.node_control[depth])
    parent = tree.leaf_parent
    return np.asarray(tree.leaf_prob * reach[parent] * taken(parent, tree.leaf_control))


def _best_response(tree: ControlTree, seat: int, weight: NDArray[np.float64]) -> tuple[float, bool]:
    """Return the best E[U] of a seat when leaves weigh so much, and whether it is certain."""
    own = (tree.node_seat == seat) & tree.may_skip
    sets = [int(s) for s in np.unique(tree.node_infoset[own])]
    if len(sets) <= EXHAUSTIVE_SETS:
        needs = needs_of(tree, sets, weight)
        return float(returns_of_all(needs, needs.value, len(sets)).max()), True
    value, control = _backward(tree, own, weight)
    if tree.has_perfect_recall():
        return value, True
    if len(sets) > _BITS:
        return value, False
    needs = needs_of(tree, sets, weight)
    number, improved = sum(int(control[s]) << c for c, s in enumerate(sets)), True
    best = float(((number & needs.mask) == needs.speak) @ needs.value)
    while improved:
        improved = False
        for c in range(len(sets)):
            changed = number ^ (1 << c)
            found = float(((changed & needs.mask) == needs.speak) @ needs.value)
            if found > best + _TIE:
                number, best, improved = changed, found, True
    return best, False


def _backward(tree: ControlTree, own: NDArray[np.bool_], weight: NDArray[np.float64]) -> tuple[float, NDArray[np.int8]]:
    """Let each set of the seat choose for all its nodes of a depth, from the end: right under perfect recall."""
    slots = np.bincount(
        2 * tree.leaf_parent + tree.leaf_control, weights=weight * tree.leaf_return, minlength=2 * tree.num_nodes
    ).astype(np.float64)
    control = np.ones(len(tree.infosets), dtype=np.int8)
    for depth in reversed(tree.depth_slices):
        values = slots.reshape(-1, 2)[depth]
        mine, rows = own[depth], tree.node_infoset[depth]
        sums = np.stack(
            [np.bincount(rows[mine], weights=values[mine, c], minlength=len(control)) for c in (0, 1)], axis=1
        )
        chosen = np.unique(rows[mine])
        control[chosen] = sums[chosen, 1] >= sums[chosen, 0]
        picked = np.where(control[rows] == 1, values[:, 1], values[:, 0])
        node_value = np.where(mine, picked, values.sum(axis=1))
        if tree.node_parent[depth][0] < 0:
            return float(node_value.sum()), control
        target = 2 * tree.node_parent[depth] + tree.node_control[depth]
        slots += np.bincount(target, weights=node_value, minlength=len(slots))
    raise AssertionError("a tree has a first decision")
