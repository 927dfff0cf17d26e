"""Make the table of co-training: how controllers follow values that drift while the generators learn.

    python -m benchmarks.cotraining --runs runs/cotraining --seeds 0 1 2

A training run is recorded after every update of its generators: complete control trees of the same fresh questions,
written by each checkpoint in turn, and of held-out questions, the same for all seeds, by the last one. On this sequence
of games the controllers learn with exact values, some updates on each. *Played along* is the team return of what was
played while the games changed; *at the end* is the greedy average strategy on the last game. Then the generators stand
still and the controllers are learned anew: on the last recording with exact values, and from rollouts of fresh
dialogues, as a run does it with ``--refit live``.

Recordings that are there are kept, so an interrupted command goes on. The seconds apart, everything depends on the
options only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.controllers import tree_of
from benchmarks.results import mean_and_range
from tracer_agents.assembly import evaluation_questions, make_games, questions_of, seed_of
from tracer_agents.config import TrainConfig
from tracer_agents.controllers.minimisers import (
    GeometricRegretMatching,
    RegretMinimiser,
    RestartedRegretMatching,
    WindowedRegretMatching,
)
from tracer_agents.controllers.storage import load_controllers, save_controllers
from tracer_agents.controllers.table import FrozenController, TabularController
from tracer_agents.drift import dynamic_regret, increments_of_history, windowed_regret
from tracer_agents.fit import best_start, team_probs
from tracer_agents.record import GeneratorWriter, RecordPlan, record
from tracer_agents.records import RunDirectory, software, write_json
from tracer_agents.refit import ITERATIONS, STARTS
from tracer_env.exact import ControlTree, best_policy, control_values, evaluate

SCHEMES: Mapping[str, str | RegretMinimiser] = {
    "plain accumulation (regret_matching)": "regret_matching",
    "regret_matching_plus": "regret_matching_plus",
    "predictive": "predictive",
    "discounting (discounted: DCFR)": "discounted",
    "discounting (geometric, 0.8)": GeometricRegretMatching(factor=0.8),
    "window of 4 updates": WindowedRegretMatching(window=4),
    "window of 8 updates": WindowedRegretMatching(window=8),
    "reset at every checkpoint": RestartedRegretMatching(period=4),
}
STEPS = 4
"""Updates of the controllers on each game: the period of the resets."""


def record_run(folder: Path, config: TrainConfig, questions: int) -> list[Path]:
    """Train, and record after every update of the generators; return the files, the held-out one last."""
    files = [folder / f"checkpoint-{k}.npz" for k in range(config.updates + 1)] + [folder / "held-out.npz"]
    if all(path.exists() for path in files):
        RunDirectory(folder / "run").check_same(config)
        return files
    from tracer_agents.trainers.tracer import Training

    training = Training(config, RunDirectory(folder / "run"), resume=True)
    game, held_out = make_games(config)
    first = (config.updates + 1) * config.questions_per_update  # behind those that are trained on
    fresh = questions_of(game, seed_of(config.seed, "questions"), first, questions)
    others = evaluation_questions(held_out, questions)
    plan = RecordPlan(replicates=1, candidates=1, proposals=1, reviews=1, seed=config.seed)
    for update in range(training.done, config.updates + 1):
        if update > training.done:
            training.update(update)
        wrote = {"name": "shipped", "updates": update, "seed": config.seed}
        policies = {seat: seat.name for seat in game.rules.seats}
        record(game, GeneratorWriter(game, training.generator, policies), fresh, files[update], plan=plan, model=wrote)
        print(f"{files[update]}", flush=True)
    writer = GeneratorWriter(held_out, training.generator, policies)
    record(held_out, writer, others, files[-1], plan=plan, model=wrote)
    return files


def refit_live(folder: Path, config: TrainConfig) -> dict[str, TabularController]:
    """Return the controllers that a run re-fits from dialogues of its last team, by seat name."""
    path = folder / "refit-live.npz"
    if not path.exists():
        from tracer_agents.trainers.tracer import Training

        training = Training(config, RunDirectory(folder / "run"), resume=True)
        training.refit()
        save_controllers(path, training.controllers)
    return load_controllers(path)


def greedy(tree: ControlTree, controllers: Mapping[str, TabularController]) -> float:
    """Return the team return of the greedy average strategy."""
    return evaluate(tree, team_probs(tree, {n: FrozenController(c) for n, c in controllers.items()})).team_return


def learn(tree: ControlTree, controllers: Mapping[str, TabularController]) -> float:
    """Make one update of all controllers at once with exact values; return the team return of what was played."""
    speak = team_probs(tree, controllers)
    at = control_values(tree, speak)
    for k, seat in enumerate(tree.seats):
        nodes = np.flatnonzero(tree.may_skip & (tree.node_seat == k) & (at.reach > 0.0))
        keys = [tree.infosets[s][1] for s in tree.node_infoset[nodes]]
        controller = controllers[seat.name]
        controller.apply([controller.increments_of(keys, at.values[nodes], at.reach[nodes])])
    return evaluate(tree, speak).team_return


def follow(minimiser: str | RegretMinimiser, games: Sequence[ControlTree], held_out: ControlTree) -> dict[str, float]:
    """Let controllers learn on one game after the other; return the figures of a row."""
    controllers = {seat.name: TabularController(minimiser) for seat in games[0].seats}
    played = [learn(game, controllers) for game in games for _ in range(STEPS)]
    made = [increments_of_history(c.history) for c in controllers.values()]
    rounds = len(played)
    return {
        "played": float(np.mean(played)),
        "played_last_game": float(np.mean(played[-STEPS:])),
        "end": greedy(games[-1], controllers),
        "held_out": greedy(held_out, controllers),
        "dynamic": sum(float(dynamic_regret(m).sum()) for m in made) / rounds,
        "windowed": sum(float(np.maximum(windowed_regret(m, STEPS), 0.0).sum()) for m in made) / STEPS,
    }


def figures_of(
    files: Sequence[Path], live: Mapping[str, TabularController], abstraction: str, cost: float
) -> dict[str, Any]:
    """Return all rows of one run; ``live``: the controllers that were re-fitted from dialogues."""
    *games, held_out = [tree_of(f"recorded:{path}", cost, abstraction) for path in files]
    optima = [best_policy(game).team_return for game in games]
    refit = best_start(games[-1], starts=range(STARTS), iterations=ITERATIONS)[0].controllers()
    best_held_out = best_policy(held_out)
    return {
        "optima": optima,
        "schemes": {name: follow(minimiser, games, held_out) for name, minimiser in SCHEMES.items()},
        "refit": {
            name: {"end": greedy(games[-1], controllers), "held_out": greedy(held_out, controllers)}
            for name, controllers in (("recording", refit), ("live", live))
        },
        "held_out_optimum": best_held_out.team_return,
        "first_optimum_on_last": evaluate(games[-1], best_policy(games[0]).policy).team_return,
    }


def _cell(rows: Sequence[Mapping[str, float]], name: str) -> str:
    return mean_and_range([row.get(name) for row in rows], digits=3)


def table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table in Markdown: mean over runs (smallest to largest)."""
    columns = ("played", "played_last_game", "end", "held_out", "dynamic", "windowed")
    lines = [
        "| controllers | U, played along | U, played on the last game | U at the end, greedy average "
        "| the same, held out | dynamic regret per update | regret per update, worst stretch |",
        "|---" * 7 + "|",
    ]
    for name in SCHEMES:
        rows = [run["schemes"][name] for run in runs]
        lines.append(f"| {name} | " + " | ".join(_cell(rows, column) for column in columns) + " |")
    for kind, what in (("recording", "on the last recording"), ("live", "from fresh dialogues")):
        refits = [run["refit"][kind] for run in runs]
        lines.append(f"| **re-fitted {what}** | " + " | ".join(_cell(refits, c) for c in columns) + " |")
    optima = [
        {"played": float(np.mean(run["optima"])), "end": run["optima"][-1], "held_out": run["held_out_optimum"]}
        for run in runs
    ]
    lines.append("| best policy of each game | " + " | ".join(_cell(optima, column) for column in columns) + " |")
    return lines


def main() -> None:
    """Record what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cotraining"), help="where everything is kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--questions", type=int, default=256, help="of each recording (default: 256)")
    parser.add_argument("--updates", type=int, default=6, help="of the generators (default: 6)")
    parser.add_argument("--abstraction", default="paper", help="paper, round or history (default: paper)")
    parser.add_argument("--cost-per-1k-tokens", type=float, default=0.2, help="in the team return (default: 0.2)")
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        folder = args.runs / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        config = TrainConfig(
            seed=seed,
            updates=args.updates,
            abstraction=args.abstraction,
            cost_per_1k_tokens=args.cost_per_1k_tokens,
            refit="live",
        )
        files = record_run(folder, config, args.questions)
        live = refit_live(folder, config)
        runs.append(figures_of(files, live, args.abstraction, args.cost_per_1k_tokens))
        write_json(
            args.runs / "figures.json",
            {"code": software(), "options": vars(args) | {"runs": str(args.runs)}, "runs": runs},
        )
    print("\n".join(table(runs)))
    print(json.dumps([{k: run[k] for k in ("optima", "first_optimum_on_last")} for run in runs]))


if __name__ == "__main__":
    main()
