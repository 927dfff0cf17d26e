"""Exact expectations and optima of recorded and simulated games: no sampling, no model, numpy only."""

from tracer_env.exact.belief import belief_optimum
from tracer_env.exact.equilibrium import CoarseGap, PureEquilibria, coarse_gaps, deviation_gains, pure_equilibria
from tracer_env.exact.evaluate import ControlValuesAt, ExactFigures, control_values, evaluate, sample_episodes
from tracer_env.exact.search import BestPolicy, best_policy, policy_frontier
from tracer_env.exact.tree import ControlTree, build_tree

__all__ = [
    "BestPolicy",
    "CoarseGap",
    "ControlTree",
    "ControlValuesAt",
    "ExactFigures",
    "PureEquilibria",
    "belief_optimum",
    "best_policy",
    "build_tree",
    "coarse_gaps",
    "control_values",
    "deviation_gains",
    "evaluate",
    "policy_frontier",
    "pure_equilibria",
    "sample_episodes",
]
