"""Calibrated thresholds on one feature: SPEAK iff it is below a number.

    P(SPEAK | x) = [x < threshold of the role],      or the role's ``unknown`` where the feature is not known

The features are signs of confidence: ``agreement`` among the proposals so far, ``p_right`` of the last verdict, and the
writer's own ``mean_logprob`` or ``min_logprob`` (confidence of the language model). Each comes with a flag that says
whether it is known; an agreement is known when a valid answer stands.

Proposers and reviewers have a rule each. "Never" is the threshold -inf with ``unknown`` SKIP, "always" +inf with
``unknown`` SPEAK. ``fit_threshold`` looks for the pair of rules, their play where the feature is unknown included, that
maximises the exact team return on a control tree.

Source: confidence thresholds as in adaptive self-consistency (Aggarwal et al. 2023) and in cascades of language models
(Chen et al. 2023, FrugalGPT); the joint exact search is ours.
Promises: the pair is the best of all pairs of candidates on the tree it was fitted on: of all rules of this shape when
no more than ``max_cuts`` cuts differ (``exhaustive``), else of those whose cuts are quantiles. It says nothing about
other trees: fit on a train recording, report on a test recording.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.interfaces import ControlValues
from tracer_env import FEATURES, Role
from tracer_env.errors import ConfigError, UnknownNameError, check_integer
from tracer_env.exact import ControlTree

__all__ = [
    "ALWAYS",
    "NEVER",
    "THRESHOLD_FEATURES",
    "ThresholdController",
    "ThresholdFit",
    "ThresholdRule",
    "fit_threshold",
]

# shape legend: N decision nodes, L leaves, C candidate rules

THRESHOLD_FEATURES: Mapping[str, str] = {
    "agreement": "answer_stands",
    "p_right": "p_right_known",
    "mean_logprob": "logprob_known",
    "min_logprob": "logprob_known",
}
"""Features that can carry a threshold, with the flag that says whether they are known."""

_COLUMN = {feature.name: k for k, feature in enumerate(FEATURES)}
_TIE = 1e-12  # differences in return up to this are rounding
_LEAVES = 4096  # looked at together: bounds the memory of the search


@dataclass(frozen=True, kw_only=True)
class ThresholdRule:
    """What one role does.

    Attributes:
        threshold: SPEAK iff the feature is below it; infinities are allowed.
        unknown: SPEAK where the feature is not known.
    """

    threshold: float
    unknown: bool

    def __post_init__(self) -> None:
        """Check the threshold."""
        if math.isnan(self.threshold):
            raise ConfigError("a threshold must be a number, not nan; -inf never speaks, inf always does.")

    def speaks(self, feature: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return where the rule SPEAKs, of features and their flags, both shape (n,)."""
        return np.where(known, feature < self.threshold, self.unknown)


NEVER = ThresholdRule(threshold=-math.inf, unknown=False)
ALWAYS = ThresholdRule(threshold=math.inf, unknown=True)


class ThresholdController:
    """Plays a rule for each role; one object can sit on every seat.

    Attributes:
        feature: name of the feature.
        proposer: the proposers' rule.
        reviewer: the reviewers' rule.
    """

    def __init__(self, feature: str, *, proposer: ThresholdRule, reviewer: ThresholdRule = ALWAYS) -> None:
        """Store the rules.

        Args:
            feature: one of ``THRESHOLD_FEATURES``.
            proposer: the proposers' rule.
            reviewer: the reviewers' rule.

        Raises:
            UnknownNameError: if the feature cannot carry a threshold.
        """
        _check_feature(feature)
        self.feature, self.proposer, self.reviewer = feature, proposer, reviewer

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return 0 or 1; 1 when SKIP is masked."""
        if not mask[0]:
            return 1.0
        rule = self.reviewer if features[_COLUMN["is_reviewer"]] == 1.0 else self.proposer
        value, known = _read(features[None], self.feature)
        return float(rule.speaks(value, known)[0])

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing: thresholds are fitted beforehand."""


def _check_feature(feature: str) -> None:
    if feature not in THRESHOLD_FEATURES:
        raise UnknownNameError("feature for a threshold", feature, THRESHOLD_FEATURES)


def _read(features: NDArray[np.float32], feature: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a feature and whether it is known, both shape (n,)."""
    return (
        features[:, _COLUMN[feature]].astype(np.float64),
        features[:, _COLUMN[THRESHOLD_FEATURES[feature]]] == 1.0,
    )


@dataclass(frozen=True, kw_only=True)
class ThresholdFit:
    """The best pair of rules.

    Attributes:
        controller: plays them.
        team_return: exact E[U] on the tree that was fitted.
        exhaustive: every rule of this shape was tried; else cuts were quantiles.
        pairs: how many pairs of rules were compared.
    """

    controller: ThresholdController
    team_return: float
    exhaustive: bool
    pairs: int


def fit_threshold(
    tree: ControlTree,
    feature: str,
    *,
    proposer: ThresholdRule | None = None,
    reviewer: ThresholdRule | None = None,
    max_cuts: int = 128,
) -> ThresholdFit:
    """Find the rules of both roles that maximise the exact team return together.

    Args:
        tree: a recorded or simulated game.
        feature: one of ``THRESHOLD_FEATURES``.
        proposer: the proposers' rule when it is given (as ``ALWAYS`` or ``NEVER``); else it is searched for.
        reviewer: the same for the reviewers.
        max_cuts: cuts tried for each role: midpoints between neighbouring values, and where there are more of them,
            those that stand at quantiles of the decisions.

    Returns:
        The best pair; of equals the first, by the proposers' rule, then the reviewers': never first, always last.

    Raises:
        UnknownNameError: if the feature cannot carry a threshold.
        ConfigError: if ``max_cuts`` is not a positive integer.
    """
    _check_feature(feature)
    check_integer("max_cuts", max_cuts)
    value, known = _read(tree.features, feature)
    of_reviewer = np.array([seat.role is Role.REVIEWER for seat in tree.seats])[tree.node_seat]
    exhaustive, rules, reached = True, [], []
    for owned, given in ((~of_reviewer, proposer), (of_reviewer, reviewer)):
        choice = owned & tree.may_skip
        candidates, complete = ([given], True) if given is not None else _candidates(value, known, choice, max_cuts)
        speaks = np.stack([rule.speaks(value, known) | ~tree.may_skip for rule in candidates])
        exhaustive &= complete
        rules.append(candidates)
        reached.append(_kept_leaves(tree, speaks, owned))
    returns = np.zeros((len(rules[0]), len(rules[1])))
    weighted = _leaf_chance(tree) * tree.leaf_return
    for first in range(0, tree.num_leaves, _LEAVES):
        part = slice(first, first + _LEAVES)
        returns += (reached[0][:, part] * weighted[part]) @ reached[1][:, part].T.astype(np.float64)
    best = int(np.flatnonzero(returns.ravel() >= returns.max() - _TIE)[0])
    p, r = divmod(best, len(rules[1]))
    return ThresholdFit(
        controller=ThresholdController(feature, proposer=rules[0][p], reviewer=rules[1][r]),
        team_return=float(returns[p, r]),
        exhaustive=exhaustive,
        pairs=returns.size,
    )


def _candidates(
    value: NDArray[np.float64], known: NDArray[np.bool_], choice: NDArray[np.bool_], max_cuts: int
) -> tuple[list[ThresholdRule], bool]:
    """Return one role's rules that differ in some decision, from never to always, and whether they are all."""
    seen = value[choice & known]
    distinct = np.unique(seen)
    cuts = (distinct[:-1] + distinct[1:]) / 2.0
    complete = len(cuts) <= max_cuts
    if not complete:
        ranks = np.quantile(seen, (np.arange(max_cuts) + 1.0) / (max_cuts + 1.0), method="lower")
        cuts = cuts[np.unique(np.minimum(np.searchsorted(distinct, ranks), len(cuts) - 1))]
    thresholds = [-math.inf, *cuts.tolist(), math.inf] if len(seen) else [-math.inf]
    if not len(seen):  # never and always are all there is
        return [NEVER, ALWAYS], True
    plays = (False, True) if (choice & ~known).any() else (False,)
    rules = [ThresholdRule(threshold=t, unknown=u) for u in plays for t in thresholds]
    if plays == (False,):  # the flag decides nothing here: let +inf be "always"
        rules[-1] = ALWAYS
    return rules, complete


def _kept_leaves(tree: ControlTree, speaks: NDArray[np.bool_], owned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which leaves one role's rules leave possible, shape (C, L); other roles' controls do not matter.

    Args:
        tree: the tree.
        speaks: what each rule plays, shape (C, N).
        owned: the role's nodes, shape (N,).
    """
    kept = np.ones(speaks.shape, dtype=np.bool_)
    for depth in tree.depth_slices[1:]:
        parent = tree.node_parent[depth]
        same = speaks[:, parent] == (tree.node_control[depth] == 1)
        kept[:, depth] = kept[:, parent] & (same | ~owned[parent])
    parent = tree.leaf_parent
    same = speaks[:, parent] == (tree.leaf_control == 1)
    return np.asarray(kept[:, parent] & (same | ~owned[parent]))


def _leaf_chance(tree: ControlTree) -> NDArray[np.float64]:
    """Return each leaf's probability when all controls lead to it, shape (L,)."""
    chance = tree.node_prob.copy()
    for depth in tree.depth_slices[1:]:
        chance[depth] *= chance[tree.node_parent[depth]]
    return np.asarray(tree.leaf_prob * chance[tree.leaf_parent])
