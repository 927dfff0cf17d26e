"""Re-make the figures of docs/results.md: every configuration and seed as a run of the main job, then the tables.

    python benchmarks/results.py --runs runs/results            # about an hour and a half on 2 cores
    python benchmarks/results.py --runs runs/results --table    # only the tables, from runs that are there

A finished run is kept and an interrupted one resumed, so the command can be given again at any time.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tracer_agents.report import ROWS

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATIONS = {
    "recommended": [],
    "paper": ["--preset", "paper"],
    "controllers only": ["--layers", "controllers"],
    "generators only": ["--layers", "generators"],
}


def run_one(runs: Path, name: str, seed: int, threads: int) -> Path:
    """Run or resume one configuration with one seed; return its folder."""
    folder = runs / f"{name.replace(' ', '-')}-seed{seed}"
    command = [sys.executable, "examples/train_tracer.py", *CONFIGURATIONS[name], "--seed", str(seed)]
    command += ["--run-dir", str(folder), "--resume", "--threads", str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(f"{folder}: exit {done.returncode}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], flush=True)
    return folder


def mean_and_range(values: Sequence[float | None], scale: float = 1.0, digits: int = 1) -> str:
    """Return ``mean (min to max)`` over seeds."""
    known = [v * scale for v in values if v is not None]
    if not known:
        return "–"
    return f"{sum(known) / len(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def paired_gain(folder: Path, one: str, two: str) -> tuple[float, float]:
    """Return mean and 95 % half-width of the paired difference in correctness, ``two`` minus ``one``, one seed.

    Normal approximation over questions of one run: both phases answer the same questions.
    """
    right: dict[str, dict[str, bool]] = {one: {}, two: {}}
    with open(folder / "episodes.jsonl", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record["phase"] in right:
                right[record["phase"]][record["question_id"]] = record["correct"]
    differences = [right[two][q] - right[one][q] for q in right[one]]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, 1.96 * math.sqrt(variance / n)


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
        gain, half = paired_gain(folder, "before", "after")
        before, after = summary["before"]["accuracy_ci95"], summary["after"]["accuracy_ci95"]
        lines.append(
            f"* seed {summary['seed']}: before {100 * summary['before']['accuracy']:.1f} % "
            f"({100 * before[0]:.1f} to {100 * before[1]:.1f}), after {100 * summary['after']['accuracy']:.1f} % "
            f"({100 * after[0]:.1f} to {100 * after[1]:.1f}); paired gain {100 * gain:+.1f} ± {100 * half:.1f} points; "
            f"{summary['wall_s']:.0f} s"
        )
    return lines


def speak_table(folders: Sequence[Path]) -> list[str]:
    """Return the SPEAK rates of one configuration after training, mean over seeds."""
    rates: dict[str, list[float]] = {}
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for key, rate in summary["after"]["speak_rates"].items():
            if rate["visits"] >= 20:
                rates.setdefault(key, []).append(rate["speak_rate"])
    lines = ["| seat / information set (at least 20 visits) | SPEAK rate per seed |", "|---|---|"]
    return lines + [
        f"| `{key.replace('|', ' · ')}` | {', '.join(f'{v:.2f}' for v in values)} |" for key, values in rates.items()
    ]


def main() -> None:
    """Make the runs that are missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each; 1 uses all cores")
    parser.add_argument("--table", action="store_true", help="make no runs")
    args = parser.parse_args()
    jobs = [(name, seed) for name in args.only for seed in args.seeds]
    if not args.table:
        threads = 2 if args.parallel == 1 else 1
        with ThreadPoolExecutor(args.parallel) as pool:
            list(pool.map(lambda job: run_one(args.runs.resolve(), *job, threads), jobs))
    for name in args.only:
        folders = [args.runs / f"{name.replace(' ', '-')}-seed{seed}" for seed in args.seeds]
        folders = [f for f in folders if (f / "summary.json").exists()]
        if folders:
            print(f"\n### {name}\n")
            print("\n".join([*table(folders), "", *speak_table(folders)]))


if __name__ == "__main__":
    main()
