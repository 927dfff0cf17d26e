"""Make the table of learners in docs/results.md: fitted on one recording, measured exactly on the other.

    python benchmarks/learners.py --out runs/learners.json

Every learner decides when to speak on ``recorded:arithmetic-train``; its exact expected figures are those on
``recorded:arithmetic-test``, with a bootstrap over the 1,000 questions (both replicates of a question together).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

import tracer_env
from tracer_agents.fit import fit_exact
from tracer_env.exact import best_policy, build_tree, evaluate
from tracer_env.exact.evaluate import ExactFigures, Policy
from tracer_env.metrics import bootstrap_interval

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "learners"))

FIT, TEST = "recorded:arithmetic-train", "recorded:arithmetic-test"
PPO = {  # an example and its steps
    "sb3_ppo": 16_000,
    "sb3_maskable_ppo": 16_000,
    "cleanrl_ppo": 24_000,
    "torchrl_mappo": 8_000,
    "tianshou_ppo": 12_000,
}


def row(name: str, seed: int | None, figures: ExactFigures, fitted: ExactFigures, seconds: float) -> dict[str, object]:
    """Return one line of the table."""
    rng = np.random.default_rng(0)
    return {
        "learner": name,
        "seed": seed,
        "return_fit": fitted.team_return,
        "return": figures.team_return,
        "return_ci95": bootstrap_interval(figures.world_return, 2, rng),
        "accuracy": figures.accuracy,
        "accuracy_ci95": bootstrap_interval(figures.world_accuracy, 2, rng),
        "tokens": figures.tokens_per_question,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of regret matching (default: %(default)s)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from comparison import GAME

    costs = GAME["rewards"]
    trees = {
        key: [build_tree(tracer_env.Game(task, rewards=costs, abstraction=key)) for task in (FIT, TEST)]
        for key in ("paper", "history")
    }
    rows = []

    def add(name: str, seed: int | None, policy: Policy, seconds: float, key: str = "history") -> None:
        fit, test = trees[key]
        rows.append(row(name, seed, evaluate(test, policy), evaluate(fit, policy), seconds))
        print(json.dumps(rows[-1]), flush=True)

    for name, policy in {"random": 0.5, "always speak": 1.0, "never speak": 0.0}.items():
        add(name, None, policy, 0.0)
    for key in trees:
        began = time.perf_counter()
        best = best_policy(trees[key][0])
        add(f"best exact ({key})", None, best.policy, time.perf_counter() - began, key)
        began = time.perf_counter()
        learned = fit_exact(trees[key][0], "regret_matching", iterations=args.iterations).average
        add(f"regret matching ({key})", None, learned, time.perf_counter() - began, key)
    for name, steps in PPO.items():
        for seed in range(args.seeds):
            began = time.perf_counter()
            learned = importlib.import_module(name).train(FIT, seed, steps)
            add(name, seed, learned, time.perf_counter() - began)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"fit": FIT, "test": TEST, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
