"""All controllers on one recorded game, at matched tokens: the table and the plot of docs/results.md.

    python benchmarks/comparison.py --out runs/comparison.json --plot docs/images/controllers.svg

Every controller is fitted on ``recorded:arithmetic-train`` at each of several costs of tokens, and measured exactly on
``recorded:arithmetic-test``: so each has a curve of accuracy against generated tokens. *Matched* is the accuracy at the
same mean tokens, interpolated linearly between the curve's points (method.md, section 6).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tracer_agents.controllers.fixed import GreedyController, make_fixed
from tracer_agents.controllers.minimisers import NO_REGRET
from tracer_agents.controllers.neural import AdvantageNetwork, RegretRegression, SnapshotAverage
from tracer_agents.controllers.ppo import PPOController
from tracer_agents.controllers.q_learning import QLearningController
from tracer_agents.controllers.reference import ReferenceController, ReferenceGreedy
from tracer_agents.controllers.reinforce import ReinforceController
from tracer_agents.controllers.thresholds import THRESHOLD_FEATURES, fit_threshold
from tracer_agents.fit import best_start, fit_sampled, policy_of_controllers, team_probs
from tracer_agents.interfaces import Controller
from tracer_agents.records import software
from tracer_env import Costs, Game, OutcomeRewards
from tracer_env.exact import ControlTree, best_policy, build_tree, evaluate
from tracer_env.exact.evaluate import ExactFigures, Policy

TRAIN, TEST = "recorded:arithmetic-train", "recorded:arithmetic-test"
COST_SETTINGS = (0.0, 0.5, 1.0, 2.0, 4.0)
MATCHED = (60.0, 80.0, 110.0)
UPDATES, EPISODES = 60, 256

Fit = Callable[[ControlTree, int], Callable[[ControlTree], Policy]]
"""Fits on a tree with a seed; returns what is played on any tree."""


def sampled(make: Callable[[int], Controller], shared: bool = False, values: bool = True, deploy: Any = None) -> Fit:
    """Fit controllers from drawn episodes: one for each seat, or one for all."""

    def fit(tree: ControlTree, seed: int) -> Callable[[ControlTree], Policy]:
        one = make(seed)
        team = {s.name: one if shared else make(seed + k) for k, s in enumerate(tree.seats)}
        fit_sampled(tree, team, updates=UPDATES, episodes=EPISODES, seed=seed, values=values)
        played = {name: c if deploy is None else deploy(c) for name, c in team.items()}
        return lambda other: team_probs(other, played)

    return fit


def minimised(name: str) -> Fit:
    """Fit a regret minimiser with exact values from eight starts."""

    def fit(tree: ControlTree, seed: int) -> Callable[[ControlTree], Policy]:
        policy = best_start(tree, name, starts=range(8 * seed, 8 * seed + 8), iterations=200)[0].greedy
        return lambda other: policy

    return fit


def thresholded(feature: str) -> Fit:
    """Fit a threshold on one feature."""

    def fit(tree: ControlTree, seed: int) -> Callable[[ControlTree], Policy]:
        controller = fit_threshold(tree, feature).controller
        return lambda other: policy_of_controllers({seat.name: controller for seat in other.seats})

    return fit


def optimal(tree: ControlTree, seed: int) -> Callable[[ControlTree], Policy]:
    """Take the best deterministic policy."""
    policy = best_policy(tree).policy
    return lambda other: policy


LEARNERS: Mapping[str, tuple[str, Fit]] = {
    "best policy (paper)": ("paper", optimal),
    "best policy (history)": ("history", optimal),
    **{name: ("paper", minimised(name)) for name in NO_REGRET},
    "regret_matching (history)": ("history", minimised("regret_matching")),
    "advantage network": ("paper", sampled(lambda seed: AdvantageNetwork(seed=seed), shared=True)),
    "advantage network, average": (
        "paper",
        sampled(lambda seed: AdvantageNetwork(seed=seed), shared=True, deploy=SnapshotAverage),
    ),
    "regret regression": ("paper", sampled(lambda seed: RegretRegression())),
    "PPO, shared": ("paper", sampled(lambda seed: PPOController(seed=seed), shared=True, values=False)),
    "PPO, per seat": ("paper", sampled(lambda seed: PPOController(seed=seed), values=False)),
    "Q-learning": ("paper", sampled(lambda seed: QLearningController(), values=False, deploy=GreedyController)),
    "REINFORCE": ("paper", sampled(lambda seed: ReinforceController(), values=False)),
    "reference update": ("paper", sampled(lambda seed: ReferenceController(), deploy=ReferenceGreedy)),
    **{f"threshold on {feature}": ("paper", thresholded(feature)) for feature in THRESHOLD_FEATURES},
}
RANDOMISED = ("advantage network", "advantage network, average", "PPO, shared", "PPO, per seat", "Q-learning",
              "REINFORCE", "reference update", "regret regression")  # fmt: skip


def point(figures: ExactFigures, fitted: ExactFigures, cost: float, seed: int, seconds: float) -> dict[str, float]:
    """Return one point of a curve."""
    return {
        "cost": cost,
        "seed": seed,
        "team_return": figures.team_return,
        "team_return_train": fitted.team_return,
        "accuracy": figures.accuracy,
        "tokens": figures.tokens_per_question,
        "seconds": seconds,
    }


def self_consistency(test: str, votes: Sequence[int]) -> list[dict[str, float]]:
    """Return the accuracy of voting among n independent first proposals, exactly over all subsets of the pool.

    The most frequent answer wins; a tie is shared.
    """
    recording = Game(test).task.recording  # type: ignore[attr-defined]
    pool, each = recording.proposals, recording.manifest["proposals"]
    points = []
    for n in votes:
        right, tokens = [], []
        for q in range(len(recording.questions)):
            rows = range(q * each, (q + 1) * each)
            good = {pool.answer[row] for row in rows if pool.correct[row]}
            tokens.append(n * float(np.mean(pool.tokens_out[rows.start : rows.stop])))
            won = []
            for subset in combinations(rows, n):
                votes_of = Counter(pool.answer[row] for row in subset if pool.answer[row] is not None)
                leaders = [a for a, count in votes_of.items() if count == max(votes_of.values())]
                won.append(sum(a in good for a in leaders) / max(len(leaders), 1))
            right.append(float(np.mean(won)))
        points.append({"n": n, "accuracy": float(np.mean(right)), "tokens": float(np.mean(tokens))})
    return points


def matched(points: Sequence[Mapping[str, float]], tokens: float) -> float | None:
    """Return the best accuracy within so many tokens on the curve's upper envelope; None where all points cost more.

    Between two points stands their mixture; a budget may be left unspent.
    """
    ordered = sorted((p["tokens"], p["accuracy"]) for p in points)
    x, y = np.array([p[0] for p in ordered]), np.maximum.accumulate([p[1] for p in ordered])
    return float(np.interp(tokens, x, y)) if x[0] <= tokens else None


def plot(
    curves: Mapping[str, Sequence[Mapping[str, float]]], voting: Sequence[Mapping[str, float]], path: Path
) -> None:
    """Draw accuracy against tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    shown = {n: p for n, p in curves.items() if n == "regret_matching" or n not in NO_REGRET}  # else one on the other
    for k, (name, points) in enumerate(shown.items()):
        ordered = sorted(points, key=lambda p: p["tokens"])
        marker, style = ("o", "-") if k < 10 else ("^", "--")
        axes.plot([p["tokens"] for p in ordered], [100 * p["accuracy"] for p in ordered], style, marker=marker,
                  markersize=3.5, linewidth=1.2, color=f"C{k % 10}", label=name)  # fmt: skip
    axes.plot([p["tokens"] for p in voting], [100 * p["accuracy"] for p in voting], ":", marker="x", color="black",
              label="self-consistency 1, 3, 5")  # fmt: skip
    axes.set(xlabel="generated tokens per question", ylabel="accuracy, % (exact, on the test recording)")
    axes.grid(alpha=0.3, linewidth=0.4)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def print_table(curves: Mapping[str, Sequence[Mapping[str, float]]], voting: Sequence[Mapping[str, float]]) -> None:
    """Print the team return of every controller, and its accuracy within equal tokens."""
    heads = [f"U at cost {cost:g}" for cost in COST_SETTINGS] + [f"accuracy within {t:g} tokens" for t in MATCHED]
    print("| controller | " + " | ".join(heads) + " |")
    print("|---" * (1 + len(heads)) + "|")
    for name, points in curves.items():
        cells = []
        for cost in COST_SETTINGS:
            returns = [p["team_return"] for p in points if p["cost"] == cost]
            spread = f" ({min(returns):.3f} to {max(returns):.3f})" if len(returns) > 1 else ""
            cells.append(f"{np.mean(returns):.3f}{spread}")
        at = [matched(points, tokens) for tokens in MATCHED]
        print(f"| {name} | " + " | ".join(cells + ["–" if a is None else f"{100 * a:.1f} %" for a in at]) + " |")
    at = [matched(voting, tokens) for tokens in MATCHED]
    print("| self-consistency 1, 3, 5 |" + " – |" * len(COST_SETTINGS) + " | ".join(
        [""] + ["–" if a is None else f"{100 * a:.1f} %" for a in at])[2:] + " |")  # fmt: skip


def main() -> int:
    """Fit, measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of learners that draw episodes (default: 3)")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw accuracy against tokens (png, svg or pdf)")
    args = parser.parse_args()

    def tree_of(task: str, cost: float, abstraction: str) -> ControlTree:
        scheme = OutcomeRewards(costs=Costs(per_1k_tokens=cost))
        return build_tree(Game(task, rewards=scheme, abstraction=abstraction))

    curves: dict[str, list[dict[str, float]]] = {}
    for cost in COST_SETTINGS:
        trees = {a: (tree_of(TRAIN, cost, a), tree_of(TEST, cost, a)) for a in ("paper", "history")}
        train, test = trees["paper"]
        for name in ("always", "never", "random", "propose_review_revise"):
            team = {seat.name: make_fixed(name) for seat in test.seats}
            ours, fitted = (evaluate(tree, team_probs(tree, team)) for tree in (test, train))
            curves.setdefault(name, []).append(point(ours, fitted, cost, 0, 0.0))
        for name, (abstraction, fit) in LEARNERS.items():
            train, test = trees[abstraction]
            for seed in range(args.seeds if name in RANDOMISED else 1):
                began = time.perf_counter()
                play = fit(train, seed)
                ours, fitted = (evaluate(tree, play(tree)) for tree in (test, train))
                curves.setdefault(name, []).append(point(ours, fitted, cost, seed, time.perf_counter() - began))
            print(cost, name, json.dumps(curves[name][-1]), file=sys.stderr, flush=True)
    voting = self_consistency(TEST, (1, 3, 5))

    print_table(curves, voting)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        payload = {"software": software(), "curves": curves, "self_consistency": voting}
        args.out.write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        plot(curves, voting, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
