"""The best deterministic team policy of an information-set abstraction, and what tokens can buy.

A deterministic policy reaches a leaf iff it plays what the leaf's path needs in every information set on it. So leaves
with the same needs are added up once (``needs_of``), and a policy's return is a sum over the few that it meets. Up to
``EXHAUSTIVE_SETS`` sets with a choice all policies are tried. Beyond that, branch and bound fixes set after set; its
bound lets a coordinator who sees the whole public history decide wherever nothing is fixed yet.

Team returns are multilinear in the probabilities of the sets when no path meets a set twice, so the best deterministic
policy is then the optimum over all policies; with absent-mindedness it need not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_env.errors import ConfigError, check_integer, check_type
from tracer_env.exact.evaluate import ExactFigures, evaluate
from tracer_env.exact.tree import ControlTree
from tracer_env.types import Seat

__all__ = ["BestPolicy", "FrontierPoint", "best_policy", "policy_frontier", "public_optimum"]

# shape legend: N nodes, L leaves, I information sets, C of them with a choice, S different needs, P public histories

EXHAUSTIVE_SETS = 18
_BATCH = 2**11
_TIE = 1e-12  # differences in return up to this are rounding


@dataclass(frozen=True, kw_only=True)
class BestPolicy:
    """A deterministic team policy and what is known about it.

    Attributes:
        policy: P(SPEAK), 0 or 1, by (seat, key) for every set with a choice.
        team_return: its exact E[U].
        upper_bound: no deterministic policy of the abstraction returns more.
        proven: the bound is reached: no deterministic policy is better.
        is_optimum: proven, and no path meets a set twice: no policy at all, mixed ones included, is better.
        method: ``"exhaustive"``, ``"public history"`` or ``"branch and bound"``.
        figures: all exact figures of the policy.
    """

    policy: Mapping[tuple[Seat, str], float]
    team_return: float
    upper_bound: float
    proven: bool
    is_optimum: bool
    method: str
    figures: ExactFigures


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """A deterministic policy that no mixture of others beats at its tokens.

    Attributes:
        policy: P(SPEAK), 0 or 1, by (seat, key).
        tokens: expected generated tokens per question.
        accuracy: probability that the final answer is right.
    """

    policy: Mapping[tuple[Seat, str], float]
    tokens: float
    accuracy: float


def best_policy(tree: ControlTree, *, node_budget: int = 2_000, seed: int = 0) -> BestPolicy:
    """Find the best deterministic team policy of the tree's abstraction.

    Args:
        tree: a recorded or simulated game.
        node_budget: how many partial policies branch and bound may split in two; when it runs out, the best policy
            found and the bound are returned and ``proven`` is False.
        seed: of the restarts of the local search that branch and bound starts from.

    Returns:
        The policy, its return and what is proven about it. Under the ``history`` abstraction the bound's coordinator
        is itself a policy, so that its size does not matter.
    """
    check_type(tree, ControlTree, "make one with tracer_env.exact.build_tree(game).")
    check_integer("node_budget", node_budget, 0)
    sets = choice_sets(tree)
    if len(sets) <= EXHAUSTIVE_SETS:
        speaks, bound, method = _exhaustive(tree, sets), -np.inf, "exhaustive"
    else:
        speaks, bound, method = _branch_and_bound(tree, sets, node_budget, seed)
    policy = {tree.infosets[s]: float(x) for s, x in zip(sets, speaks, strict=True)}
    figures = evaluate(tree, policy)
    bound = max(bound, figures.team_return)
    proven = bound - figures.team_return <= 1e-9
    return BestPolicy(
        policy=policy,
        team_return=figures.team_return,
        upper_bound=bound,
        proven=proven,
        is_optimum=proven and not tree.absent_minded(),
        method=method,
        figures=figures,
    )


def policy_frontier(tree: ControlTree) -> list[FrontierPoint]:
    """Return the deterministic policies on the upper convex hull of accuracy over tokens, fewest tokens first.

    Under a limit on expected tokens the best policy may mix two neighbours, drawn before the episode.

    Raises:
        ConfigError: if the abstraction has too many sets to try every policy.
    """
    sets, needs = needs_of_every_policy(tree)
    accuracy = returns_of_all(needs, needs.accuracy, len(sets))
    tokens = returns_of_all(needs, needs.tokens, len(sets))
    hull: list[int] = []
    for k in np.lexsort((-accuracy, tokens)):  # fewest tokens first, of these the most accurate
        if hull and accuracy[k] <= accuracy[hull[-1]] + 1e-12:
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], int(k), tokens, accuracy):
            hull.pop()
        hull.append(int(k))
    return [
        FrontierPoint(
            policy={tree.infosets[s]: float(k >> c & 1) for c, s in enumerate(sets)},
            tokens=float(tokens[k]),
            accuracy=float(accuracy[k]),
        )
        for k in hull
    ]


def _below(a: int, b: int, c: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Return whether b lies on or below the line from a to c."""
    return bool((y[b] - y[a]) * (x[c] - x[a]) <= (y[c] - y[a]) * (x[b] - x[a]) + 1e-15)


def choice_sets(tree: ControlTree) -> list[int]:
    """Return the rows of the information sets in which there is a choice."""
    return [int(s) for s in np.unique(tree.node_infoset[tree.may_skip])]


# --- leaves by what they need ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeafNeeds:
    """Leaves added up by what their paths need: bit c of ``mask``: set c is met; of ``speak``: and has to speak."""

    mask: NDArray[np.int64]  # (S,)
    speak: NDArray[np.int64]  # (S,)
    value: NDArray[np.float64]  # (S,) sum of chance x U
    accuracy: NDArray[np.float64]  # (S,)
    tokens: NDArray[np.float64]  # (S,)


def needs_of(tree: ControlTree, sets: list[int], weight: NDArray[np.float64] | None = None) -> LeafNeeds:
    """Add up leaves by what they need of some information sets.

    Args:
        tree: the tree.
        sets: rows of at most 62 information sets. Other decisions are taken as they come: both controls are added up.
        weight: of each leaf, shape (L,); by default its chance.
    """
    bit_of = np.full(len(tree.infosets), -1, dtype=np.int64)
    bit_of[sets] = np.arange(len(sets))
    mask, speak = np.zeros(tree.num_nodes, np.int64), np.zeros(tree.num_nodes, np.int64)
    chance, possible = tree.node_prob.copy(), np.ones(tree.num_nodes, dtype=np.bool_)

    def extend(
        parent: NDArray[np.int64], control: NDArray[np.int8]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Add what the parent's decision needs; a path that needs both controls of a set is impossible."""
        place = bit_of[tree.node_infoset[parent]]
        bit = np.where(tree.may_skip[parent] & (place >= 0), np.int64(1) << np.maximum(place, 0), 0)
        want = np.where(control == 1, bit, 0)
        clash = (mask[parent] & bit != 0) & (speak[parent] & bit != want)
        return mask[parent] | bit, speak[parent] | want, possible[parent] & ~clash

    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        mask[depth], speak[depth], possible[depth] = extend(parent, tree.node_control[depth])
        chance[depth] *= chance[parent]
    leaf_mask, leaf_speak, leaf_possible = extend(tree.leaf_parent, tree.leaf_control)
    weight = (tree.leaf_prob * chance[tree.leaf_parent] if weight is None else weight) * leaf_possible
    both, row = np.unique(np.stack([leaf_mask, leaf_speak], axis=1), axis=0, return_inverse=True)
    row = row.ravel()

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(row, weights=weight * values, minlength=len(both)).astype(np.float64)

    return LeafNeeds(both[:, 0], both[:, 1], total(tree.leaf_return), total(tree.leaf_correct), total(tree.leaf_tokens))


def needs_of_every_policy(tree: ControlTree) -> tuple[list[int], LeafNeeds]:
    """Return the sets with a choice and what leaves need of them, to try all policies (``returns_of_all``).

    Raises:
        ConfigError: if the abstraction has more of them than can be tried.
    """
    sets = choice_sets(tree)
    if len(sets) > EXHAUSTIVE_SETS:
        raise ConfigError(
            f"abstraction {tree.abstraction!r} has {len(sets)} information sets with a choice here; all policies are "
            f"tried up to {EXHAUSTIVE_SETS}. Use 'paper' or 'round', or fewer rounds."
        )
    return sets, needs_of(tree, sets)


def returns_of_all(needs: LeafNeeds, values: NDArray[np.float64], num_sets: int) -> NDArray[np.float64]:
    """Return the sum of ``values`` that each of the 2^C policies meets; bit c of its number is SPEAK in set c."""
    returns = np.empty(2**num_sets)
    for first in range(0, len(returns), _BATCH):
        policies = np.arange(first, min(first + _BATCH, len(returns)))
        met = (policies[:, None] & needs.mask) == needs.speak
        returns[first : first + len(policies)] = met @ values
    return returns


def _exhaustive(tree: ControlTree, sets: list[int]) -> list[int]:
    needs = needs_of(tree, sets)
    best = int(np.argmax(returns_of_all(needs, needs.value, len(sets))))
    return [best >> c & 1 for c in range(len(sets))]


# --- a coordinator who sees the public history ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Public:
    """The tree as a coordinator sees it: the nodes of one public history are one. P of them, parents first."""

    depths: tuple[NDArray[np.int64], ...]  # the histories of each depth
    slot: NDArray[np.int64]  # (P,) 2 x parent + control; -1 for a first decision
    infoset: NDArray[np.int64]  # (P,)
    may_skip: NDArray[np.bool_]  # (P,)
    leaf_value: NDArray[np.float64]  # (2 P,) chance x U of the leaves behind each control
    of_node: NDArray[np.int64]  # (N,) the history of each node

    @classmethod
    def of(cls, tree: ControlTree) -> _Public:
        _, first, of_node = np.unique(tree.node_public, return_index=True, return_inverse=True)
        of_node = of_node.ravel()
        chance = tree.node_prob.copy()
        for depth in tree.depth_slices[1:]:
            chance[depth] *= chance[tree.node_parent[depth]]
        parent = tree.node_parent[first]
        return cls(
            depths=tuple(np.unique(of_node[depth]) for depth in tree.depth_slices),
            slot=np.where(parent >= 0, 2 * of_node[parent] + tree.node_control[first], -1),
            infoset=tree.node_infoset[first],
            may_skip=tree.may_skip[first],
            leaf_value=np.bincount(
                2 * of_node[tree.leaf_parent] + tree.leaf_control,
                weights=tree.leaf_prob * chance[tree.leaf_parent] * tree.leaf_return,
                minlength=2 * len(first),
            ).astype(np.float64),
            of_node=of_node,
        )

    def solve(self, forced: NDArray[np.int8]) -> tuple[float, NDArray[np.int8], NDArray[np.float64]]:
        """Return the best E[U], the control of each history, and what SPEAK gains over SKIP there (times chance).

        Args:
            forced: the control of each information set, shape (I,); -1 leaves it to the coordinator.
        """
        slots = self.leaf_value.copy()
        control = forced[self.infoset]
        gain = np.zeros(len(control))
        for depth in reversed(self.depths):
            values = slots.reshape(-1, 2)[depth]
            gain[depth] = values[:, 1] - values[:, 0]
            free = control[depth] < 0
            control[depth] = np.where(free, gain[depth] >= -_TIE, control[depth])
            control[depth] = np.where(self.may_skip[depth], control[depth], 1)
            best = np.where(control[depth] == 1, values[:, 1], values[:, 0])
            if self.slot[depth[0]] < 0:
                return float(best.sum()), control, gain
            slots += np.bincount(self.slot[depth], weights=best, minlength=len(slots))
        raise AssertionError("a tree has a first decision")

    def reached(
        self, forced: NDArray[np.int8], control: NDArray[np.int8], gain: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return which histories the coordinator can reach without a loss; where it does not care, both ways."""
        tie = self.may_skip & (forced[self.infoset] < 0) & (np.abs(gain) <= _TIE)
        goes = np.stack([(control == 0) | tie, (control == 1) | tie], axis=1).ravel()
        reached = np.ones(len(control), dtype=np.bool_)
        for depth in self.depths[1:]:
            slot = self.slot[depth]
            reached[depth] = reached[slot // 2] & goes[slot]
        return reached


def public_optimum(tree: ControlTree, fixed: Mapping[int, int] | None = None) -> tuple[float, NDArray[np.int8]]:
    """Return the best E[U] of a coordinator who decides for all seats on the whole public history.

    Args:
        tree: the tree.
        fixed: controls of some information sets (by row) that the coordinator must follow.

    Returns:
        Its return, an upper bound on every policy with these controls; and its control at each node, int8, shape (N,).
    """
    public = _Public.of(tree)
    value, control, _ = public.solve(_forced(tree, fixed or {}))
    return value, control[public.of_node]


def _forced(tree: ControlTree, fixed: Mapping[int, int]) -> NDArray[np.int8]:
    forced = np.full(len(tree.infosets), -1, dtype=np.int8)
    for row, control in fixed.items():
        forced[row] = control
    return forced


# --- branch and bound -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partial:
    """A partial policy: what is forced, its bound, the nearest whole policy, and where the coordinator differs most."""

    forced: NDArray[np.int8]  # (I,)
    bound: float
    whole: NDArray[np.int8]  # (I,)
    branch: int  # an information set; -1 when the whole policy reaches the bound


def _relax(public: _Public, forced: NDArray[np.int8]) -> _Partial:
    """Let the coordinator decide what is not forced, and see in which sets it would play both controls."""
    bound, control, gain = public.solve(forced)
    sets, open_ = len(forced), public.may_skip & (forced[public.infoset] < 0)
    reached = public.reached(forced, control, gain) & open_

    def total(where: NDArray[np.bool_], amount: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(public.infoset[where], weights=amount[where], minlength=sets).astype(np.float64)

    speak, skip = total(reached, np.maximum(gain, 0.0)), total(reached, np.maximum(-gain, 0.0))
    overall = total(open_, gain)
    wanted = np.where(speak + skip > _TIE, speak >= skip, overall >= -_TIE).astype(np.int8)
    conflict = np.minimum(speak, skip)
    worst = int(np.argmax(conflict))
    return _Partial(forced, bound, np.where(forced >= 0, forced, wanted), worst if conflict[worst] > _TIE else -1)


def _branch_and_bound(tree: ControlTree, sets: list[int], node_budget: int, seed: int) -> tuple[list[int], float, str]:
    """Look at the partial policy with the highest bound first, and fix the set where its coordinator disagrees most."""
    public = _Public.of(tree)
    root = _relax(public, _forced(tree, {}))
    if root.branch < 0:
        return [int(root.whole[s]) for s in sets], root.bound, "public history"
    best, best_return = _local_search(public, sets, root.whole, np.random.default_rng(seed))
    waiting, count = [(-root.bound, 0, root)], 0
    while waiting and -waiting[0][0] > best_return + _TIE and count < 2 * node_budget:
        _, _, parent = heappop(waiting)
        for control in (0, 1):
            forced = parent.forced.copy()
            forced[parent.branch] = control
            child, count = _relax(public, forced), count + 1
            value = public.solve(child.whole)[0]
            if value > best_return:
                best, best_return = child.whole, value
            if child.branch >= 0 and child.bound > best_return + _TIE:
                heappush(waiting, (-child.bound, count, child))
    bound = max([best_return, *(-item[0] for item in waiting[:1])])
    return [int(best[s]) for s in sets], bound, "branch and bound"


def _local_search(
    public: _Public, sets: list[int], start: NDArray[np.int8], rng: np.random.Generator, restarts: int = 8
) -> tuple[NDArray[np.int8], float]:
    """Change one set after the other to its better control until none changes, from several starts."""
    best, best_return = start, public.solve(start)[0]
    starts = [start, *(rng.integers(2, size=len(start)).astype(np.int8) for _ in range(restarts - 1))]
    for policy in starts:
        current, changed = public.solve(policy)[0], True
        while changed:
            changed = False
            for s in sets:
                flipped = policy.copy()
                flipped[s] = 1 - policy[s]
                value = public.solve(flipped)[0]
                if value > current + _TIE:
                    policy, current, changed = flipped, value, True
        if current > best_return:
            best, best_return = policy, current
    return best, best_return
