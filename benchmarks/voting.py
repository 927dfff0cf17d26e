"""Voting methods and fitted policies of the ballot game, at matched tokens: the table of docs/results.md.

    python -m benchmarks.voting --out runs/voting.json                               # five minutes

The weights of the ballot and the policies are fitted on ``recorded:arithmetic-ballot-train``. All figures are exact on
``recorded:arithmetic-ballot-test``: expectations over its worlds, each a question with the next proposals of its pool,
in order. Intervals are a bootstrap over questions, all worlds of one together, with the same draws for every figure;
differences are paired. *Matched* is the accuracy at the same mean tokens, interpolated linearly between the methods of
a family (method.md, section 6); which of them are on a curve is chosen on test, and is so for every family.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison import matched
from benchmarks.controllers import measure_methods, replicates_of, tree_of
from tracer_agents.calibration import fit_ballot
from tracer_agents.fit import best_start
from tracer_agents.records import software
from tracer_env import Game
from tracer_env.exact import ControlTree, evaluate
from tracer_env.exact.evaluate import ExactFigures
from tracer_env.metrics import bootstrap_interval

TRAIN, TEST = "recorded:arithmetic-ballot-train", "recorded:arithmetic-ballot-test"
COST = 0.5
"""Of the returns that are reported, in reward units for a thousand generated tokens."""
FIT_COSTS = (0.0, 0.5, 2.0, 4.0, 8.0)
STARTS, ITERATIONS = 8, 300
MATCHED = (70.0, 80.0, 100.0)
FAMILIES = ("self_consistency", "adaptive_self_consistency", "best_of", "verdict_weighted", "policy")


def fitted_policies(trees: Mapping[float, ControlTree], test: ControlTree) -> dict[str, ExactFigures]:
    """Fit a policy on the tree of each cost; return by name what it does on ``test``."""
    found = {}
    for cost, tree in trees.items():
        fit, _ = best_start(tree, "regret_matching", starts=range(STARTS), iterations=ITERATIONS)
        found[f"policy_{cost:g}"] = evaluate(test, fit.greedy)
    return found


def with_interval(values: NDArray[np.float64], replicates: int) -> tuple[float, float, float]:
    """Return a mean over worlds with its 95 % interval over questions; always the same draws."""
    return float(values.mean()), *bootstrap_interval(values, replicates, np.random.default_rng(0))


def row(name: str, figures: ExactFigures, best: ExactFigures, replicates: int) -> dict[str, Any]:
    """Return one line of the table; ``behind`` is how far below ``best`` it is, in the same worlds."""
    return {
        "method": name,
        "accuracy": with_interval(figures.world_accuracy, replicates),
        "tokens": with_interval(figures.world_tokens, replicates),
        "team_return": with_interval(figures.world_return, replicates),
        "accuracy_behind": with_interval(best.world_accuracy - figures.world_accuracy, replicates),
        "return_behind": with_interval(best.world_return - figures.world_return, replicates),
    }


def curve_of(family: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the points of a family; each but the fitted policies begins with a single sample."""
    first = [] if family == "policy" else ["self_consistency_1"]
    return [
        {"tokens": r["tokens"][0], "accuracy": r["accuracy"][0]}
        for r in rows
        if r["method"].startswith(f"{family}_") or r["method"] in first
    ]


def print_rows(rows: Sequence[Mapping[str, Any]], reference: str) -> None:
    """Print all methods; of those of a family that play alike, the first."""

    def cell(figure: tuple[float, float, float], scale: float, form: str) -> str:
        mean, low, high = (format(scale * x + 1e-9, form) for x in figure)  # accuracies are often halves: upwards
        return f"{mean} ({low} to {high})"

    print(f"| method | accuracy % (95 %) | tokens (95 %) | U at cost {COST:g} (95 %) | {reference} minus it: accuracy, "
          "points (95 %) | U (95 %) |")  # fmt: skip
    print("|---" * 6 + "|")
    seen = set()
    for r in rows:
        alike = (r["method"].split("_lead_")[0], r["accuracy"], r["tokens"])
        if alike in seen:
            continue
        seen.add(alike)
        print(f"| {r['method']} | {cell(r['accuracy'], 100, '.1f')} | {cell(r['tokens'], 1, '.1f')} "
              f"| {cell(r['team_return'], 1, '.3f')} | {cell(r['accuracy_behind'], 100, '+.1f')} "
              f"| {cell(r['return_behind'], 1, '+.3f')} |")  # fmt: skip


def print_matched(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the accuracy of each family at equal tokens."""
    print("\n| family | " + " | ".join(f"accuracy at {t:g} tokens" for t in MATCHED) + " | at its most tokens |")
    print("|---" * (2 + len(MATCHED)) + "|")
    for family in FAMILIES:
        curve = curve_of(family, rows)
        at = [matched(curve, tokens) for tokens in MATCHED]
        cells = ["–" if a is None else f"{100 * a + 1e-9:.1f} %" for a in at]
        last = max(curve, key=lambda p: p["tokens"])
        cells.append(f"{100 * last['accuracy'] + 1e-9:.1f} % at {last['tokens']:.0f}")
        print(f"| {family} | " + " | ".join(cells) + " |")


def main() -> int:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    args = parser.parse_args()
    began = time.perf_counter()
    game = Game(TRAIN, abstraction="ballot")
    ballot = fit_ballot(game.task)  # type: ignore[arg-type]
    test = tree_of(TEST, COST, "ballot", ballot=ballot)
    policies = fitted_policies({cost: tree_of(TRAIN, cost, "ballot", ballot=ballot) for cost in FIT_COSTS}, test)
    figures = measure_methods(TEST, COST, game.rules, ballot, {ballot: test}) | policies
    replicates = replicates_of(test)
    reference = f"policy_{COST:g}"
    rows = [row(name, mine, policies[reference], replicates) for name, mine in figures.items()]
    print_rows(rows, reference)
    print_matched(rows)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        payload = {
            "software": software(),
            "ballot": asdict(ballot),
            "questions": len(test.world_ids) // replicates,
            "replicates": replicates,
            "seconds": round(time.perf_counter() - began, 1),
            "rows": rows,
        }
        args.out.write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
