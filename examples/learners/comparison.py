"""What the learners' examples share: the game they learn, their options, and the exact table that each ends with."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tracer_env
from tracer_env.exact import best_policy, build_tree, evaluate
from tracer_env.types import Role, Seat
from tracer_env.wrappers import scale_features

Policy = Callable[[Seat, str, NDArray[np.float32], tuple[bool, bool]], float]
"""P(SPEAK), given seat, information set, unscaled features of shape (F,) and the mask of (SKIP, SPEAK)."""

# Without a cost speaking is nearly free of harm. At 2 a thousand tokens neither always nor never speaking is good.
GAME: dict[str, Any] = {
    "rewards": tracer_env.OutcomeRewards(costs=tracer_env.Costs(per_1k_tokens=2.0)),
    "abstraction": "history",
}


def make_policy(speak_prob: Callable[[NDArray[np.float32]], float], role: Role | None = None) -> Policy:
    """Return the policy that decides by one function of the scaled features, shape (F,).

    Args:
        speak_prob: P(SPEAK) where both controls are free.
        role: who decides by it; the others always SPEAK. None: everybody does.
    """

    def policy(seat: Seat, key: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        decides = mask[0] and role in (None, seat.role)
        return float(speak_prob(scale_features(features))) if decides else 1.0

    return policy


def exact_returns(task: str, policy: Policy) -> dict[str, float]:
    """Return the exact expected team return of a policy and of those it is compared with.

    ``best`` is the best deterministic policy that sees the public events (the ``history`` information sets). On a
    recording a policy of the features can return more: they also tell log-probabilities and lengths.
    """
    tree = build_tree(tracer_env.Game(task, **GAME))
    compared: dict[str, float | Policy] = {"random": 0.5, "always speak": 1.0, "never speak": 0.0, "trained": policy}
    returns = {name: evaluate(tree, p).team_return for name, p in compared.items()}
    return {**returns, "best": best_policy(tree).team_return}


def run(train: Callable[[str, int, int], Policy], *, steps: int) -> None:
    """Train by the options of the command line, and print the table.

    Args:
        train: (task, seed, steps) -> policy.
        steps: default of ``--steps``; what a step is, the example says.
    """
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--task", default="simulated:default", help="'simulated:NAME' or 'recorded:NAME or path'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps, help="(default: %(default)s)")
    args = parser.parse_args()
    started = time.perf_counter()
    policy = train(args.task, args.seed, args.steps)
    print(f"trained {args.steps} steps in {time.perf_counter() - started:.1f} s; exact team return on {args.task}:")
    for name, value in exact_returns(args.task, policy).items():
        print(f"  {name:<12} {value:+.3f}")
