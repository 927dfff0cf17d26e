"""Re-make the figures of docs/results.md: every configuration and seed as a run of the main job, then the tables.

    python benchmarks/results.py --runs runs/results            # about an hour and a half on 2 cores
    python benchmarks/results.py --runs runs/results --table    # only the tables, from runs that are there

A finished run is kept and an interrupted one resumed, so the command can be given again at any time. A run made with
other settings than today's is an error: it is in no table, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tracer_agents.config import PRESETS, TrainConfig
from tracer_agents.errors import RunDirectoryError
from tracer_agents.records import RunDirectory, write_json
from tracer_agents.report import ROWS

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": dict(PRESETS["paper"]),
    "controllers only": {"layers": "controllers"},
    "generators only": {"layers": "generators"},
}
BOOTSTRAP_DRAWS = 10_000


def folder_of(runs: Path, name: str, seed: int) -> Path:
    """Return where a run is kept."""
    return runs / f"{name.replace(' ', '-')}-seed{seed}"


def settings_of(name: str, seed: int) -> TrainConfig:
    """Return what a configuration means today."""
    return TrainConfig.from_settings({**CONFIGURATIONS[name], "seed": seed})


def run_one(runs: Path, name: str, seed: int, threads: int) -> None:
    """Run or resume one configuration with one seed."""
    folder = folder_of(runs, name, seed)
    settings = runs / f"{folder.name}.settings.json"
    write_json(settings, settings_of(name, seed).to_json())
    command = [sys.executable, "examples/train_tracer.py", "--config", str(settings)]
    command += ["--run-dir", str(folder), "--resume", "--threads", str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(f"{folder}: exit {done.returncode}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], flush=True)


def problem_with(folder: Path, settings: TrainConfig) -> str | None:
    """Return why a run may not stand in a table, or None."""
    run = RunDirectory(folder)
    try:
        if run.summary is None:
            return "not finished"
        run.check_same(settings)
    except RunDirectoryError as error:
        return str(error)
    return None


def mean_and_range(values: Sequence[float | None], scale: float = 1.0, digits: int = 1) -> str:
    """Return ``mean (min to max)`` over seeds."""
    known = [v * scale for v in values if v is not None]
    if not known:
        return "–"
    return f"{sum(known) / len(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


@cache
def answers(folder: Path) -> dict[str, dict[str, bool]]:
    """Return by phase, for each question, whether the final answer was right."""
    right: dict[str, dict[str, bool]] = {}
    with open(folder / "episodes.jsonl", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            right.setdefault(record["phase"], {})[record["question_id"]] = record["correct"]
    return right


def paired_gain(folders: Sequence[Path], one: str, two: str) -> tuple[float, float, float]:
    """Return the gain in accuracy of phase ``two`` over ``one`` with its 95 % interval.

    Paired bootstrap over seeds x questions: all runs answer the same questions, so that both are drawn with replacement
    and crossed. With one seed it is the bootstrap over questions.
    """
    pairs = [(answers(folder)[one], answers(folder)[two]) for folder in folders]
    questions = list(pairs[0][0])
    gain = np.array([[float(after[q]) - float(before[q]) for q in questions] for before, after in pairs])  # (S, Q)
    rng = np.random.default_rng(0)
    draws = np.empty(BOOTSTRAP_DRAWS)
    for i in range(BOOTSTRAP_DRAWS):
        seeds = rng.integers(gain.shape[0], size=gain.shape[0])
        columns = rng.integers(gain.shape[1], size=gain.shape[1])
        draws[i] = gain[seeds].mean(axis=0)[columns].mean()
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)


def in_points(gain: tuple[float, float, float]) -> str:
    """Write a gain with its interval in percentage points."""
    mean, low, high = (100 * value for value in gain)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}) points"


def table(folders: Sequence[Path]) -> list[str]:
    """Return one configuration's table in Markdown."""
    summaries: list[dict[str, Any]] = [json.loads((f / "summary.json").read_text(encoding="utf-8")) for f in folders]
    lines = ["| | accuracy % | tokens | calls | correction % | preservation % |", "|---|---|---|---|---|---|"]
    for row, label in ROWS:
        if any(row not in s for s in summaries):
            continue  # generators only: there is no learned controller to show
        figures = [s[row] for s in summaries]
        lines.append(
            f"| {label} | {mean_and_range([f['accuracy'] for f in figures], 100)} "
            f"| {mean_and_range([f['tokens_per_question'] for f in figures])} "
            f"| {mean_and_range([f['calls_per_question'] for f in figures], 1, 2)} "
            f"| {mean_and_range([f['correction'] for f in figures], 100)} "
            f"| {mean_and_range([f['preservation'] for f in figures], 100)} |"
        )
    lines.append("")
    for summary, folder in zip(summaries, folders, strict=True):
        before, after = summary["before"]["accuracy_ci95"], summary["after"]["accuracy_ci95"]
        lines.append(
            f"* seed {summary['seed']}: before {100 * summary['before']['accuracy']:.1f} % "
            f"({100 * before[0]:.1f} to {100 * before[1]:.1f}), after {100 * summary['after']['accuracy']:.1f} % "
            f"({100 * after[0]:.1f} to {100 * after[1]:.1f}); paired gain "
            f"{in_points(paired_gain([folder], 'before', 'after'))}; {summary['wall_s']:.0f} s"
        )
    for one, two in (("before", "after"), ("always_speak", "after")):
        lines.append(f"* {two} over {one}, all seeds: {in_points(paired_gain(folders, one, two))}")
    return lines


def speak_table(folders: Sequence[Path]) -> list[str]:
    """Return the SPEAK rates of one configuration after training, a column per seed."""
    rates = [
        json.loads((folder / "summary.json").read_text(encoding="utf-8"))["after"]["speak_rates"] for folder in folders
    ]
    names = [folder.name.rpartition("-")[2] for folder in folders]
    lines = [f"| SPEAK rate (visits) | {' | '.join(names)} |", "|---" * (len(folders) + 1) + "|"]
    for key in sorted({key for rate in rates for key in rate}):
        cells = [f"{r[key]['speak_rate']:.2f} ({r[key]['visits']})" if key in r else "–" for r in rates]
        lines.append(f"| `{key.replace('|', ' · ')}` | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Make the runs that are missing, then print the tables; 1 when a run is missing from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each; 1 uses all cores")
    parser.add_argument("--table", action="store_true", help="make no runs")
    args = parser.parse_args()
    runs = args.runs.resolve()
    if not args.table:
        runs.mkdir(parents=True, exist_ok=True)
        threads = 2 if args.parallel == 1 else 1
        with ThreadPoolExecutor(args.parallel) as pool:
            jobs = [(name, seed) for name in args.only for seed in args.seeds]
            list(pool.map(lambda job: run_one(runs, job[0], job[1], threads), jobs))
    complete = True
    for name in args.only:
        problems = {s: problem_with(folder_of(runs, name, s), settings_of(name, s)) for s in args.seeds}
        folders = [folder_of(runs, name, s) for s in args.seeds if problems[s] is None]
        print(f"\n### {name} ({len(folders)} of {len(args.seeds)} seeds)\n")
        for seed, problem in problems.items():
            if problem is not None:
                complete = False
                print(f"* seed {seed} left out: {problem}")
        if folders:
            print("\n".join([*table(folders), "", *speak_table(folders)]))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
