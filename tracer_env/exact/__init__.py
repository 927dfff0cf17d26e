"""Exact expectations and optima of recorded and simulated games: no sampling, no model, numpy only."""

from tracer_env.exact.belief import belief_optimum
from tracer_env.exact.evaluate import ControlValuesAt, ExactFigures, control_values, evaluate, sample_episodes
from tracer_env.exact.search import BestPolicy, best_policy, policy_frontier
from tracer_env.exact.tree import ControlTree, build_tree

__all__ = [
    "BestPolicy",
    "ControlTree",
    "ControlValuesAt",
    "ExactFigures",
    "belief_optimum",
    "best_policy",
    "build_tree",
    "control_values",
    "evaluate",
    "policy_frontier",
    "sample_episodes",
]
