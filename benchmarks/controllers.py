"""How close learned controllers come to the exact optimum: the tables of docs/results.md, section controllers.

    python benchmarks/controllers.py --out runs/controllers.json                     # some minutes
    python benchmarks/controllers.py --ballot-train FILE --ballot-test FILE          # ballot recordings, too
    python benchmarks/controllers.py --starts-needed                                 # how many starts random teams need

Three parts, all exact, no model: regret minimisers on recordings (fitted on train, best of eight random starts chosen
on train, then the same on test); on random simulated teams; and the time of one update of a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tracer_agents.calibration import fit_ballot
from tracer_agents.controllers.fixed import FIXED_CONTROLLERS, make_fixed
from tracer_agents.controllers.minimisers import NO_REGRET
from tracer_agents.controllers.table import TabularController
from tracer_agents.controllers.voting import voting_methods
from tracer_agents.fit import best_start, team_probs
from tracer_agents.records import software, write_json
from tracer_env import Costs, Game, OutcomeRewards, Rules, Verdict
from tracer_env.errors import ConfigError
from tracer_env.exact import (
    BestPolicy,
    ControlTree,
    best_policy,
    build_tree,
    deviation_gains,
    evaluate,
    pure_equilibria,
)
from tracer_env.exact.evaluate import ExactFigures
from tracer_env.metrics import bootstrap_interval
from tracer_env.tasks.simulated import SimulatedTask, SimulatedTeam
from tracer_env.types import Ballot

STARTS, ITERATIONS = 8, 300
COST_SETTINGS = (0.0, 0.5, 2.0)
"""Reward units for a thousand generated tokens."""


def tree_of(task: object, cost: float, abstraction: str, **rules: Any) -> ControlTree:
    """Return the tree of a game with a cost of generated tokens."""
    scheme = OutcomeRewards(costs=Costs(per_1k_tokens=cost))
    return build_tree(Game(task, rewards=scheme, abstraction=abstraction, **rules))  # type: ignore[arg-type]


def equilibria_of(tree: ControlTree) -> dict[str, Any]:
    """Return how many deterministic policies are agent-form equilibria, and their returns, where all can be tried."""
    try:
        found = pure_equilibria(tree)
    except ConfigError:
        return {"number": None, "returns": None}  # too many policies to try
    return {"number": len(found.returns), "returns": [round(float(x), 4) for x in found.distinct]}


def replicates_of(tree: ControlTree) -> int:
    """Return how many worlds of a recorded tree belong to one question."""
    return len(tree.world_ids) // len({i.rsplit("/", 1)[0] for i in tree.world_ids})


def fit_row(
    minimiser: str, train: ControlTree, optimum: BestPolicy, test: ControlTree | None, test_optimum: BestPolicy | None
) -> dict[str, Any]:
    """Fit one minimiser on a tree, and measure the best of its starts there and on another one."""
    began = time.perf_counter()
    fit, returns = best_start(train, minimiser, starts=range(STARTS), iterations=ITERATIONS)
    row: dict[str, Any] = {
        "minimiser": minimiser,
        "seconds": time.perf_counter() - began,
        "starts": [float(x) for x in returns],
        "gap": optimum.team_return - max(returns),
        "bound_gap": optimum.upper_bound - max(returns),
        "deviation_gain": float(deviation_gains(train, fit.last).max()),
        "last_gap": optimum.team_return - evaluate(train, fit.last).team_return,
        "average_gap": optimum.team_return - evaluate(train, fit.average).team_return,
    }
    if test is not None and test_optimum is not None:
        mine, best = evaluate(test, fit.greedy), test_optimum.figures
        replicates = replicates_of(test)
        row["test"] = {
            "team_return": mine.team_return,
            "accuracy": mine.accuracy,
            "tokens": mine.tokens_per_question,
            "gap_to_test_optimum": best.team_return - mine.team_return,
            "gap_ci95": bootstrap_interval(best.world_return - mine.world_return, replicates, np.random.default_rng(0)),
        }
    return row


def measure_methods(
    task: str, cost: float, rules: Rules, fitted: Ballot, trees: Mapping[Ballot, ControlTree]
) -> dict[str, ExactFigures]:
    """Return by name what each voting method does on a recorded pool, in the game with its own weights.

    Args:
        task: the recorded pool.
        cost: of a thousand generated tokens, in reward units.
        rules: of the ballot game.
        fitted: calibrated weights.
        trees: of that pool and cost, by weights; those that are missing are built.
    """
    known, found = dict(trees), {}
    for method in voting_methods(rules, fitted):
        if method.ballot not in known:
            known[method.ballot] = tree_of(task, cost, "ballot", ballot=method.ballot)
        found[method.name] = evaluate(known[method.ballot], method.controller)
    return found


def on_recordings(train_task: str, test_task: str, abstraction: str, cost: float) -> dict[str, Any]:
    """Fit on the first recording and report on both; then fit on the second as well."""
    game = Game(train_task, abstraction=abstraction)
    ballot = fit_ballot(game.task) if game.rules.decide == "ballot" else None  # type: ignore[arg-type]
    rules = {} if ballot is None else {"ballot": ballot}
    train, test = (tree_of(task, cost, abstraction, **rules) for task in (train_task, test_task))
    optima = best_policy(train), best_policy(test)
    figures = []
    for task, tree in ((train_task, train), (test_task, test)):
        teams = {name: {seat.name: make_fixed(name) for seat in tree.seats} for name in FIXED_CONTROLLERS}
        figures.append({name: evaluate(tree, team_probs(tree, team)) for name, team in teams.items()})
        if ballot is not None:
            figures[-1] |= measure_methods(task, cost, game.rules, ballot, {ballot: tree})
    fixed = {name: [found[name].team_return for found in figures] for name in figures[0]}
    return {
        "task": train_task,
        "abstraction": abstraction,
        "cost_per_1k_tokens": cost,
        "sets": len(np.unique(train.node_infoset[train.may_skip])),
        "optimum": [best.team_return for best in optima],
        "upper_bound": [best.upper_bound for best in optima],
        "method": [best.method for best in optima],
        "is_optimum": [best.is_optimum for best in optima],
        "train_optimum_on_test": evaluate(test, optima[0].policy).team_return,
        "fixed": fixed,
        "equilibria": [equilibria_of(train), equilibria_of(test)],
        "fits": [fit_row(name, train, optima[0], test, optima[1]) for name in NO_REGRET],
        "fits_on_test": [fit_row(name, test, optima[1], None, None) for name in NO_REGRET],
    }


def random_team(seed: int) -> SimulatedTeam:
    """Return a team whose probabilities are drawn: from helpless to good."""
    rng = np.random.default_rng([seed, 2605])
    return SimulatedTeam(
        first_right=rng.uniform(0.3, 0.9),
        revised_right={
            (right, verdict): rng.uniform(0.1, 0.95) for right in (True, False) for verdict in (None, *Verdict)
        },
        says_right_if_right=rng.uniform(0.5, 0.98),
        says_wrong_if_wrong=rng.uniform(0.5, 0.98),
        persistence=rng.uniform(0.0, 0.9),
        common_wrong=rng.uniform(0.0, 0.6),
        invalid=rng.uniform(0.0, 0.1),
        unparsable=rng.uniform(0.0, 0.1),
    )


def on_simulated_teams(count: int, abstraction: str, cost: float = 0.5) -> dict[str, Any]:
    """Fit on random teams, and compare with the best policy of the abstraction."""
    gaps: dict[str, list[float]] = {name: [] for name in NO_REGRET}
    single: dict[str, list[float]] = {name: [] for name in NO_REGRET}
    deviations: dict[str, list[float]] = {name: [] for name in NO_REGRET}
    for seed in range(count):
        tree = tree_of(SimulatedTask(random_team(seed)), cost, abstraction, rounds=5)
        optimum = best_policy(tree)
        assert optimum.proven
        for name in NO_REGRET:
            fit, returns = best_start(tree, name, starts=range(STARTS), iterations=ITERATIONS)
            gaps[name].append(optimum.team_return - max(returns))
            single[name] += [optimum.team_return - x for x in returns]
            deviations[name].append(float(deviation_gains(tree, fit.last).max()))
    return {
        "abstraction": abstraction,
        "teams": count,
        "rows": [
            {
                "minimiser": name,
                "gap_mean": float(np.mean(gaps[name])),
                "gap_worst": float(np.max(gaps[name])),
                "within_0.01": float(np.mean(np.array(gaps[name]) <= 0.01)),
                "single_gap_mean": float(np.mean(single[name])),
                "single_gap_worst": float(np.max(single[name])),
                "deviation_gain_worst": float(np.max(deviations[name])),
            }
            for name in NO_REGRET
        ],
    }


def starts_needed(count: int, abstraction: str, most: int = 32, cost: float = 0.5) -> list[dict[str, Any]]:
    """Return how good the best of n random starts of regret matching is on random teams, for n = 8, 16 … ``most``.

    Every group of n starts that follow one another counts, so that a small n is judged by several groups.
    """
    gaps = np.empty((count, most))
    for seed in range(count):
        tree = tree_of(SimulatedTask(random_team(seed)), cost, abstraction, rounds=5)
        _, returns = best_start(tree, starts=range(most), iterations=ITERATIONS)
        gaps[seed] = best_policy(tree).team_return - np.array(returns)
    rows = []
    for n in (8, 16, 32):
        if n <= most:
            groups = gaps[:, : most // n * n].reshape(count, most // n, n).min(axis=2)
            within = (groups <= 0.01).mean(axis=0)
            rows.append(
                {
                    "abstraction": abstraction,
                    "starts": n,
                    "groups": most // n,
                    "gap_mean": float(groups.mean()),
                    "gap_worst": float(groups.max()),
                    "within_0.01": [float(within.min()), float(within.max())],
                }
            )
    return rows


def dictionary_update(
    table: dict[str, list[float]], infosets: list[str], values: list[list[float]], weights: list[float]
) -> None:
    """Make the same update of regret matching in plain Python: what the time of the table is compared with."""
    batch: dict[str, list[float]] = {}
    for key, (skip, speak), weight in zip(infosets, values, weights, strict=True):
        row = table.setdefault(key, [0.0] * 9)
        positive = [max(row[0], 0.0), max(row[1], 0.0)]
        total = sum(positive)
        strategy = [p / total for p in positive] if total > 0 else [0.5, 0.5]
        value = strategy[0] * skip + strategy[1] * speak
        seen = batch.setdefault(key, [0.0, 0.0, 0.0, 0.0, *strategy])
        seen[0] += weight * (skip - value)
        seen[1] += weight * (speak - value)
        seen[2] += weight
        seen[3] += 1.0
    for key, (skip, speak, weight, visits, p_skip, p_speak) in batch.items():
        row = table[key]
        row[0] += skip
        row[1] += speak
        row[2] += skip
        row[3] += speak
        row[4] += weight * p_skip
        row[5] += weight * p_speak
        row[6] += skip * skip + speak * speak
        row[7] += visits
        row[8] += 1.0


def update_time(repetitions: int = 15) -> dict[str, float]:
    """Time one update of 10,000 visits of 1,000 information sets, in turns with the plain dictionary."""
    rng = np.random.default_rng(0)
    keys = [f"proposer|votes={k % 7 - 3:+d}|margin={k // 7}|left={k % 5}" for k in range(1000)]
    infosets = [keys[k] for k in rng.integers(1000, size=10_000)]
    values, weights = rng.normal(size=(10_000, 2)), np.ones(10_000)
    listed, ones = values.tolist(), weights.tolist()
    controller, table = TabularController(), dict[str, list[float]]()
    ours, theirs = [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        controller.apply([controller.increments_of(infosets, values, weights)])
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        dictionary_update(table, infosets, listed, ones)
        theirs.append(time.perf_counter() - began)
    rows = controller.column("regret")
    assert np.allclose(rows, [table[key][:2] for key in controller.infosets], atol=1e-9)
    return {
        "table_ms": 1e3 * float(np.median(ours[1:])),
        "table_best_ms": 1e3 * min(ours),
        "dictionary_ms": 1e3 * float(np.median(theirs[1:])),
        "ratio": float(np.median(np.array(theirs[1:]) / np.array(ours[1:]))),
    }


def print_recording(result: Mapping[str, Any]) -> None:
    """Print the tables of one recording, abstraction and cost."""
    train, test = result["optimum"]
    print(f"\n### {result['task']}, key {result['abstraction']}, {result['cost_per_1k_tokens']} per 1,000 tokens\n")
    print(f"{result['sets']} sets with a choice; best of the abstraction {train:.4f} (train), {test:.4f} (test), "
          f"{result['method'][0]}; the train one on test {result['train_optimum_on_test']:.4f}")  # fmt: skip
    name, (on_train, on_test) = max(result["fixed"].items(), key=lambda item: item[1][0])
    print(f"the best fixed protocol of {len(result['fixed'])}, chosen on train: {name}, {on_train:.4f} (train), "
          f"{on_test:.4f} (test)")  # fmt: skip
    for split, found in zip(("train", "test"), result["equilibria"], strict=True):
        if found["number"] is not None:
            print(f"{split}: {found['number']} pure agent-form equilibria, returns {found['returns']}")
    print("\n| minimiser | gap, best of 8 | single starts: gap mean (worst) | deviation gain | average: gap | on test "
          "| gap to the test optimum (95 %) | fitted on test: gap |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for row, again in zip(result["fits"], result["fits_on_test"], strict=True):
        single = [train - x for x in row["starts"]]
        low, high = row["test"]["gap_ci95"]
        print(f"| {row['minimiser']} | {row['gap']:.4f} | {np.mean(single):.4f} ({max(single):.4f}) "
              f"| {row['deviation_gain']:.1e} | {row['average_gap']:.4f} | {row['test']['team_return']:.4f} "
              f"| {row['test']['gap_to_test_optimum']:.4f} ({low:+.4f} to {high:+.4f}) "
              f"| {again['gap']:.4f} |")  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ballot-train", metavar="FILE", help="a ballot recording to fit on")
    parser.add_argument("--ballot-test", metavar="FILE", help="one to report on")
    parser.add_argument("--teams", type=int, default=100, help="random simulated teams (default: 100)")
    parser.add_argument("--starts-needed", action="store_true", help="only measure how many starts random teams need")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    args = parser.parse_args()
    if args.starts_needed:
        rows = [row for abstraction in ("paper", "round") for row in starts_needed(args.teams, abstraction)]
        print("\n".join(map(json.dumps, rows)))
        if args.out is not None:
            write_json(args.out, {"software": software(), "rows": rows})
        return 0
    results: dict[str, Any] = {"software": software(), "recordings": [], "simulated": [], "update": update_time()}
    print(json.dumps(results["update"]))
    tasks = [("recorded:arithmetic-train", "recorded:arithmetic-test", key) for key in ("paper", "round")]
    if args.ballot_train and args.ballot_test:
        tasks.append((f"recorded:{args.ballot_train}", f"recorded:{args.ballot_test}", "ballot"))
    for train, test, abstraction in tasks:
        for cost in COST_SETTINGS:
            results["recordings"].append(on_recordings(train, test, abstraction, cost))
            print_recording(results["recordings"][-1])
            sys.stdout.flush()
    for abstraction in ("paper", "round"):
        result = on_simulated_teams(args.teams, abstraction)
        results["simulated"].append(result)
        print(f"\n### {args.teams} random simulated teams, key {abstraction}\n")
        print(
            "| minimiser | gap mean | worst | teams within 0.01 | single starts: mean (worst) | deviation gain, worst |"
        )
        print("|---|---|---|---|---|---|")
        for row in result["rows"]:
            print(f"| {row['minimiser']} | {row['gap_mean']:.5f} | {row['gap_worst']:.4f} | {row['within_0.01']:.0%} "
                  f"| {row['single_gap_mean']:.4f} ({row['single_gap_worst']:.4f}) "
                  f"| {row['deviation_gain_worst']:.1e} |")  # fmt: skip
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
