"""Exact figures of any controllers on a control tree: one forward pass; and control values: one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_env.errors import ConfigError, check_type
from tracer_env.exact.tree import ControlTree
from tracer_env.types import Seat

__all__ = [
    "ControlValuesAt",
    "ExactFigures",
    "Policy",
    "control_values",
    "evaluate",
    "leaf_reach",
    "node_reach",
    "sample_episodes",
    "speak_probs",
]

# shape legend: N decision nodes, L leaves, W worlds, I information sets, D decisions, n episodes

Policy = (
    float
    | NDArray[np.floating[Any]]
    | Mapping[tuple[Seat, str], float]
    | Callable[[Seat, str, NDArray[np.float32], tuple[bool, bool]], float]
)
"""P(SPEAK) everywhere; at each node, shape (N,); by (seat, key), 0.5 where missing; or a function of seat, key,
features and mask. Where SKIP is masked it is 1 whatever the policy says."""


_TREE = "make one with tracer_env.exact.build_tree(game)."


@dataclass(frozen=True, kw_only=True)
class ExactFigures:
    """Expectations over all worlds, chance moves and controls.

    Attributes:
        team_return: E[U].
        accuracy: P(the final answer is right), in [0, 1].
        tokens_per_question: expected generated tokens.
        tokens_in_out_per_question: with prompt tokens.
        calls_per_question: expected utterances.
        correction: P(right at the end given that the first proposal was wrong); None when it never is.
        preservation: P(right at the end given that the first proposal was right); None when it never is.
        world_return: float64, shape (W,): E[U] of each world.
        world_accuracy: float64, shape (W,).
        world_tokens: float64, shape (W,).
    """

    team_return: float
    accuracy: float
    tokens_per_question: float
    tokens_in_out_per_question: float
    calls_per_question: float
    correction: float | None
    preservation: float | None
    world_return: NDArray[np.float64]
    world_accuracy: NDArray[np.float64]
    world_tokens: NDArray[np.float64]


def speak_probs(tree: ControlTree, policy: Policy) -> NDArray[np.float64]:
    """Return P(SPEAK) at every node.

    Returns:
        float64, shape (N,); 1 where SKIP is masked.

    Raises:
        ConfigError: if a probability is outside [0, 1], an array does not have one for each node, or a dict has
            entries but none of the tree's information sets.
    """
    check_type(tree, ControlTree, _TREE)
    if not (callable(policy) or isinstance(policy, (Mapping, Real, np.ndarray))):
        raise ConfigError(
            "a policy is a probability of SPEAK, an array of them, a dict by (Seat, key) or a callable, not "
            f"{type(policy).__name__}; of a BestPolicy take .policy."
        )
    if callable(policy):
        probs = _ask(tree, policy)
    elif isinstance(policy, Mapping):
        for pair in policy:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Seat)):
                raise ConfigError(f"a policy by information set has keys (Seat, key), as tree.infosets; not {pair!r}.")
        if policy and not any(pair in policy for pair in tree.infosets):
            raise ConfigError(
                f"the policy has none of the tree's information sets: its keys are like {next(iter(policy))!r}, the "
                f"tree's like {tree.infosets[0]!r}. Was it made for another abstraction?"
            )
        probs = np.array([policy.get(pair, 0.5) for pair in tree.infosets], dtype=np.float64)[tree.node_infoset]
    else:
        probs = np.asarray(policy, dtype=np.float64)
        if probs.ndim == 0:
            probs = np.full(tree.num_nodes, probs)
    if probs.shape != (tree.num_nodes,):
        raise ConfigError(
            f"a policy array must have one probability for each of {tree.num_nodes} nodes, not the shape {probs.shape}."
        )
    probs = np.where(tree.may_skip, probs, 1.0)
    if not ((probs >= 0.0) & (probs <= 1.0)).all():
        raise ConfigError(f"probabilities of SPEAK must be in [0, 1], not {probs.min():g} to {probs.max():g}.")
    return probs


def _ask(
    tree: ControlTree, policy: Callable[[Seat, str, NDArray[np.float32], tuple[bool, bool]], float]
) -> NDArray[np.float64]:
    probs = np.ones(tree.num_nodes)
    for node in np.flatnonzero(tree.may_skip):
        seat, key = tree.infosets[tree.node_infoset[node]]
        probs[node] = policy(seat, key, tree.features[node], (True, True))
    return probs


def node_reach(tree: ControlTree, speak: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that each node is reached, shape (N,).

    Args:
        tree: the tree.
        speak: P(SPEAK) at each node, shape (N,), as ``speak_probs`` returns it.
    """
    reach = tree.node_prob.copy()
    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        taken = np.where(tree.node_control[depth], speak[parent], 1.0 - speak[parent])
        reach[depth] *= reach[parent] * taken
    return reach


def leaf_reach(tree: ControlTree, speak: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each leaf, shape (L,); arguments as for ``node_reach``."""
    reach = node_reach(tree, speak)
    parent = tree.leaf_parent
    taken = np.where(tree.leaf_control, speak[parent], 1.0 - speak[parent])
    return np.asarray(tree.leaf_prob * reach[parent] * taken)


def evaluate(tree: ControlTree, policy: Policy) -> ExactFigures:
    """Return the exact expected figures of a policy.

    Args:
        tree: a recorded or simulated game.
        policy: the controllers of all seats; see ``Policy``.

    Raises:
        ConfigError: if the policy does not fit the tree.
    """
    reach = leaf_reach(tree, speak_probs(tree, policy))
    worlds = len(tree.world_ids)

    def by_world(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(tree.leaf_world, weights=reach * values, minlength=worlds) / tree.world_prob

    def given(condition: NDArray[np.bool_]) -> float | None:
        total = float(reach @ condition)
        return float(reach @ (condition & tree.leaf_correct)) / total if total > 0.0 else None

    return ExactFigures(
        team_return=float(reach @ tree.leaf_return),
        accuracy=float(reach @ tree.leaf_correct),
        tokens_per_question=float(reach @ tree.leaf_tokens),
        tokens_in_out_per_question=float(reach @ (tree.leaf_tokens + tree.leaf_tokens_in)),
        calls_per_question=float(reach @ tree.leaf_calls),
        correction=given(tree.leaf_first_wrong),
        preservation=given(tree.leaf_first_right),
        world_return=by_world(tree.leaf_return),
        world_accuracy=by_world(tree.leaf_correct),
        world_tokens=by_world(tree.leaf_tokens),
    )


@dataclass(frozen=True, kw_only=True)
class ControlValuesAt:
    """What both controls are worth at every node when all go on by the same policy.

    Attributes:
        reach: float64, shape (N,): probability of the node.
        values: float64, shape (N, 2): E[U] after SKIP and after SPEAK; equal where SKIP is masked.
        infoset_reach: float64, shape (I,): sum of ``reach`` over the set.
        infoset_values: float64, shape (I, 2): mean of ``values`` over the set, weighted by ``reach``; 0 where the set
            is never reached.
    """

    reach: NDArray[np.float64]
    values: NDArray[np.float64]
    infoset_reach: NDArray[np.float64]
    infoset_values: NDArray[np.float64]


def control_values(tree: ControlTree, policy: Policy) -> ControlValuesAt:
    """Return the exact value of both controls at every decision, and their mean in every information set.

    Deviations are of one visit: at a set that one path meets twice the other visit goes on by the policy.
    """
    speak = speak_probs(tree, policy)
    reach = node_reach(tree, speak)
    slots: NDArray[np.float64] = np.bincount(
        2 * tree.leaf_parent + tree.leaf_control,
        weights=tree.leaf_prob * tree.leaf_return,
        minlength=2 * tree.num_nodes,
    ).astype(np.float64)
    for depth in reversed(tree.depth_slices[1:]):
        values = slots.reshape(-1, 2)[depth]
        node_value = (1.0 - speak[depth]) * values[:, 0] + speak[depth] * values[:, 1]
        target = 2 * tree.node_parent[depth] + tree.node_control[depth]
        slots += np.bincount(target, weights=tree.node_prob[depth] * node_value, minlength=len(slots))
    values = slots.reshape(-1, 2)
    values[~tree.may_skip, 0] = values[~tree.may_skip, 1]
    sets = len(tree.infosets)
    infoset_reach = np.bincount(tree.node_infoset, weights=reach, minlength=sets).astype(np.float64)
    sums = [np.bincount(tree.node_infoset, weights=reach * values[:, c], minlength=sets) for c in (0, 1)]
    means = np.divide(np.stack(sums, axis=1), infoset_reach[:, None], where=infoset_reach[:, None] > 0.0,
                      out=np.zeros((sets, 2)))  # fmt: skip
    return ControlValuesAt(reach=reach, values=values, infoset_reach=infoset_reach, infoset_values=means)


def sample_episodes(
    tree: ControlTree, policy: Policy, num_episodes: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Play many episodes at once; all randomness comes from ``rng``.

    Args:
        tree: a recorded or simulated game.
        policy: the controllers of all seats.
        num_episodes: n, at least 1.
        rng: draws worlds, controls and chance moves.

    Returns:
        The leaf each episode ends in, int64, shape (n,); the nodes it visits, int64, shape (n, D), -1 after its end;
        and the controls played there, int8, shape (n, D).
    """
    speak = speak_probs(tree, policy)
    reach = leaf_reach(tree, speak)
    leaves = rng.choice(tree.num_leaves, size=num_episodes, p=reach / reach.sum())
    depth = len(tree.depth_slices)
    nodes = np.full((num_episodes, depth), -1, dtype=np.int64)
    controls = np.zeros((num_episodes, depth), dtype=np.int8)
    depth_of = np.repeat(np.arange(depth), [d.stop - d.start for d in tree.depth_slices])
    at, came_by = tree.leaf_parent[leaves], tree.leaf_control[leaves]
    episode = np.arange(num_episodes)
    while len(at):
        nodes[episode, depth_of[at]], controls[episode, depth_of[at]] = at, came_by
        came_by, at = tree.node_control[at], tree.node_parent[at]
        keep = at >= 0
        episode, at, came_by = episode[keep], at[keep], came_by[keep]
    return leaves, nodes, controls
