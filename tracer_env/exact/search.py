"""The best deterministic team policy of an information-set abstraction, and what tokens can buy.

A deterministic policy reaches a leaf iff it plays what the leaf's path needs in every information set on it. So leaves
with the same needs are added up once (``_needs``), and a policy's return is a sum over the few that it meets. Up to
``_EXHAUSTIVE_SETS`` sets with a choice all policies are tried. Beyond that, branch and bound fixes set after set; its
bound lets a coordinator who sees the whole public history decide wherever nothing is fixed yet.

Team returns are multilinear in the probabilities of the sets when no path meets a set twice, so the best deterministic
policy is then the optimum over all policies; with absent-mindedness it need not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_env.errors import ConfigError
from tracer_env.exact.evaluate import ExactFigures, evaluate
from tracer_env.exact.tree import ControlTree
from tracer_env.types import Seat

__all__ = ["BestPolicy", "FrontierPoint", "best_policy", "policy_frontier", "public_optimum"]

# shape legend: N nodes, L leaves, C sets with a choice, S different needs

_EXHAUSTIVE_SETS = 18
_BATCH = 2**13


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


def best_policy(tree: ControlTree, *, node_budget: int = 20_000, seed: int = 0) -> BestPolicy:
    """Find the best deterministic team policy of the tree's abstraction.

    Args:
        tree: a recorded or simulated game.
        node_budget: how many partial policies branch and bound may look at; when it runs out, the best policy found
            and the bound are returned and ``proven`` is False.
        seed: of the restarts of the local search that branch and bound starts from.

    Returns:
        The policy, its return and what is proven about it. Under the ``history`` abstraction the bound's coordinator
        is itself a policy, so that its size does not matter.
    """
    sets = _choice_sets(tree)
    if len(sets) <= _EXHAUSTIVE_SETS:
        speaks, bound, method = _exhaustive(tree, sets), None, "exhaustive"
    else:
        speaks, bound, method = _public_policy(tree, sets)
        if speaks is None:
            speaks, bound, method = _branch_and_bound(tree, sets, node_budget, seed)
    policy = {tree.infosets[s]: float(x) for s, x in zip(sets, speaks, strict=True)}
    figures = evaluate(tree, policy)
    bound = figures.team_return if bound is None else max(bound, figures.team_return)
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
    sets = _choice_sets(tree)
    if len(sets) > _EXHAUSTIVE_SETS:
        raise ConfigError(
            f"abstraction {tree.abstraction!r} has {len(sets)} information sets with a choice here; all policies are "
            f"tried up to {_EXHAUSTIVE_SETS}. Use 'paper' or 'round', or fewer rounds."
        )
    needs = _needs(tree, sets)
    accuracy = _all_returns(needs, needs.accuracy, len(sets))
    tokens = _all_returns(needs, needs.tokens, len(sets))
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


def _choice_sets(tree: ControlTree) -> list[int]:
    return [int(s) for s in np.unique(tree.node_infoset[tree.may_skip])]


# --- leaves by what they need ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Needs:
    """Leaves added up by what their paths need: bit c of ``mask`` is set when set c is met, of ``speak`` if it speaks."""

    mask: NDArray[np.int64]  # (S,)
    speak: NDArray[np.int64]  # (S,)
    value: NDArray[np.float64]  # (S,) sum of chance x U
    accuracy: NDArray[np.float64]  # (S,)
    tokens: NDArray[np.float64]  # (S,)


def _needs(tree: ControlTree, sets: list[int]) -> _Needs:
    bit_of = np.full(len(tree.infosets), -1, dtype=np.int64)
    bit_of[sets] = np.arange(len(sets))
    mask, speak = np.zeros(tree.num_nodes, np.int64), np.zeros(tree.num_nodes, np.int64)
    chance, possible = tree.node_prob.copy(), np.ones(tree.num_nodes, dtype=np.bool_)

    def extend(
        parent: NDArray[np.int64], control: NDArray[np.int8]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Add what the parent's decision needs; a path that needs both controls of a set is impossible."""
        choice = tree.may_skip[parent]
        bit = np.where(choice, np.int64(1) << np.maximum(bit_of[tree.node_infoset[parent]], 0), 0)
        want = np.where(control == 1, bit, 0)
        clash = (mask[parent] & bit != 0) & (speak[parent] & bit != want)
        return mask[parent] | bit, speak[parent] | want, possible[parent] & ~clash

    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        mask[depth], speak[depth], possible[depth] = extend(parent, tree.node_control[depth])
        chance[depth] *= chance[parent]
    leaf_mask, leaf_speak, leaf_possible = extend(tree.leaf_parent, tree.leaf_control)
    weight = tree.leaf_prob * chance[tree.leaf_parent] * leaf_possible
    both, row = np.unique(np.stack([leaf_mask, leaf_speak], axis=1), axis=0, return_inverse=True)
    row = row.ravel()

    def total(values: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.bincount(row, weights=weight * values, minlength=len(both))

    return _Needs(both[:, 0], both[:, 1], total(tree.leaf_return), total(tree.leaf_correct), total(tree.leaf_tokens))


def _all_returns(needs: _Needs, values: NDArray[np.float64], num_sets: int) -> NDArray[np.float64]:
    """Return the sum of ``values`` that each of the 2^C policies meets; bit c of a policy's number is SPEAK in set c."""
    returns = np.empty(2**num_sets)
    for first in range(0, len(returns), _BATCH):
        policies = np.arange(first, min(first + _BATCH, len(returns)))
        met = (policies[:, None] & needs.mask) == needs.speak
        returns[first : first + len(policies)] = met @ values
    return returns


def _exhaustive(tree: ControlTree, sets: list[int]) -> list[int]:
    needs = _needs(tree, sets)
    best = int(np.argmax(_all_returns(needs, needs.value, len(sets))))
    return [best >> c & 1 for c in range(len(sets))]


# --- a coordinator who sees the public history ----------------------------------------------------------------------


def public_optimum(tree: ControlTree, fixed: Mapping[int, int] | None = None) -> tuple[float, NDArray[np.int8]]:
    """Return the best E[U] of a coordinator who decides for all seats on the whole public history.

    Args:
        tree: the tree.
        fixed: controls of some information sets (by row) that the coordinator must follow.

    Returns:
        Its return, an upper bound on every policy with these controls; and its control at each node, int8, shape (N,).
    """
    forced = np.full(len(tree.infosets), -1, dtype=np.int8)
    for row, control in (fixed or {}).items():
        forced[row] = control
    chance = tree.node_prob.copy()
    for depth in tree.depth_slices[1:]:
        chance[depth] *= chance[tree.node_parent[depth]]
    slots = np.bincount(
        2 * tree.leaf_parent + tree.leaf_control,
        weights=tree.leaf_prob * tree.leaf_return,
        minlength=2 * tree.num_nodes,
    )
    control = np.ones(tree.num_nodes, dtype=np.int8)
    node_value = np.zeros(tree.num_nodes)
    histories = int(tree.node_public.max()) + 1
    for depth in reversed(tree.depth_slices):
        values = slots.reshape(-1, 2)[depth]
        public = tree.node_public[depth]
        gain = np.bincount(public, weights=chance[depth] * (values[:, 1] - values[:, 0]), minlength=histories)
        chosen = (gain[public] >= 0.0).astype(np.int8)
        want = forced[tree.node_infoset[depth]]
        chosen = np.where(want >= 0, want, chosen)
        chosen = np.where(tree.may_skip[depth], chosen, 1).astype(np.int8)
        control[depth] = chosen
        node_value[depth] = values[np.arange(len(values)), chosen]
        parent = tree.node_parent[depth]
        inner = parent >= 0
        target = 2 * parent[inner] + tree.node_control[depth][inner]
        slots += np.bincount(target, weights=(tree.node_prob[depth] * node_value[depth])[inner], minlength=len(slots))
    first = tree.depth_slices[0]
    return float(tree.node_prob[first] @ node_value[first]), control


def _public_policy(tree: ControlTree, sets: list[int]) -> tuple[list[int] | None, float, str]:
    """Return the coordinator's policy when the information sets are fine enough to play it (``history``), else None."""
    bound, control = public_optimum(tree)
    choice = tree.may_skip
    spoken = np.bincount(tree.node_infoset[choice], weights=control[choice], minlength=len(tree.infosets))
    count = np.bincount(tree.node_infoset[choice], minlength=len(tree.infosets))
    if ((spoken > 0) & (spoken < count)).any():
        return None, bound, "public history"
    return [int(spoken[s] > 0) for s in sets], bound, "public history"


# --- branch and bound -----------------------------------------------------------------------------------------------


def _branch_and_bound(
    tree: ControlTree, sets: list[int], node_budget: int, seed: int
) -> tuple[list[int], float, str]:
    """Fix the most visited set first; cut off what cannot beat the best policy found so far."""
    best, best_return = _local_search(tree, sets, np.random.default_rng(seed))
    visits = np.bincount(tree.node_infoset, weights=tree.node_prob, minlength=len(tree.infosets))
    order = sorted(range(len(sets)), key=lambda c: -visits[sets[c]])
    root, _ = public_optimum(tree)
    stack: list[tuple[float, tuple[int, ...]]] = [(root, ())]
    open_bound, looked = best_return, 0
    while stack:
        bound, prefix = stack.pop()
        if bound <= best_return + 1e-12:
            continue
        if looked >= node_budget:
            open_bound = max(open_bound, bound)
            continue
        looked += 1
        if len(prefix) == len(sets):
            best_return = bound
            best = [0] * len(sets)
            for c, control in zip(order, prefix, strict=True):
                best[c] = control
            continue
        children = []
        for control in (0, 1):
            fixed = {sets[c]: x for c, x in zip(order, (*prefix, control), strict=False)}
            children.append((public_optimum(tree, fixed)[0], (*prefix, control)))
        stack += sorted(children)  # the more promising one is looked at first
    return best, max(best_return, open_bound), "branch and bound"


def _local_search(
    tree: ControlTree, sets: list[int], rng: np.random.Generator, restarts: int = 8
) -> tuple[list[int], float]:
    """Change one set after the other to its better control until none changes, from several starts."""
    best: tuple[list[int], float] = ([1] * len(sets), -np.inf)
    starts = [np.ones(len(sets)), *(rng.integers(2, size=len(sets)).astype(float) for _ in range(restarts - 1))]
    for start in starts:
        policy = {tree.infosets[s]: float(x) for s, x in zip(sets, start, strict=True)}
        current, changed = evaluate(tree, policy).team_return, True
        while changed:
            changed = False
            for s in sets:
                flipped = {**policy, tree.infosets[s]: 1.0 - policy[tree.infosets[s]]}
                value = evaluate(tree, flipped).team_return
                if value > current + 1e-12:
                    policy, current, changed = flipped, value, True
        if current > best[1]:
            best = ([int(policy[tree.infosets[s]]) for s in sets], current)
    return best
