"""Measure the speed of the environments and of the exact evaluator, and print docs/performance.md's tables.

    python benchmarks/performance.py                    # about a minute
    python benchmarks/performance.py --out table.md     # also write them

Times are CPU times of this process (``time.process_time``): on a machine that others use as well, wall time measures
them too. What is compared is measured in turns in one process, repetition by repetition, and a ratio is the median of
the ratios of each repetition. Other libraries are optional (extra ``bench``): without them their rows are left out.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import count, cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tracer_env
from tracer_env import Game, Question, Utterance
from tracer_env.exact import ControlTree, build_tree, evaluate, sample_episodes
from tracer_env.infosets import feature_vector
from tracer_env.tasks.arithmetic import ArithmeticTask

ROUNDS = (5, 8, 16, 32, 64)
READY, NEW = "AEC, ready texts", "AEC, ready texts, all different"
clock = time.process_time

Actions = dict[str, Iterator[dict[str, Any]]]
"""What each agent plays, one after the other, without end."""


class Speed(NamedTuple):
    """One repetition: things done per second."""

    per_s: float
    live_per_s: float  # the same without the steps of agents whose episode has ended


class ListTask:
    """Arithmetic questions made beforehand, so that no question is written while the clock runs."""

    name, split, kind = "arithmetic-list", "train", "number"

    def __init__(self, size: int) -> None:
        """Write ``size`` questions."""
        self._source = ArithmeticTask()
        self._questions = [self._source.question(i) for i in range(size)]
        self.extract_answer = self._source.extract_answer
        self.answers_match = self._source.answers_match

    def num_questions(self) -> int:
        """Return how many there are."""
        return len(self._questions)

    def question(self, index: int) -> Question:
        """Return question ``index``."""
        return self._questions[index]


def said(text: str, tokens_out: int) -> dict[str, Any]:
    """Return an action that speaks."""
    return {"control": 1, "utterance": Utterance(text, tokens_in=80, tokens_out=tokens_out)}


def ready_actions(different: int) -> Actions:
    """Return what both agents do: ``different`` texts each, again and again; a reviewer skips every eighth turn."""
    proposals = [said(f"{i} + 5 = {i + 5}\n#### {i + 5}", 20) for i in range(different)]
    reviews = [said(f"Step {i} is {'right' if i % 2 else 'off'}.\n{('WRONG', 'RIGHT')[i % 2]}", 8)
               for i in range(different)]  # fmt: skip
    skip = {"control": 0, "utterance": ""}
    reviews = [skip if i % 8 == 7 else review for i, review in enumerate(reviews)]
    return {"proposer_0": cycle(proposals), "reviewer_0": cycle(reviews)}


def play_aec(env: Any, actions: Actions, steps: int, look: bool = True) -> Speed:
    """Step an environment of ours through whole episodes, with ``last()`` before each step or without."""
    done = dead = 0
    start = clock()
    while done < steps:
        env.reset()
        while env.agents:
            agent = env.agent_selection
            if look:
                _, _, terminated, truncated, _ = env.last()
            else:
                terminated, truncated = env.terminations[agent], env.truncations[agent]
            if terminated or truncated:
                env.step(None)
                dead += 1
            else:
                env.step(next(actions[agent]))
            done += 1
    seconds = clock() - start
    return Speed(done / seconds, (done - dead) / seconds)


def play_parallel(env: Any, actions: Actions, steps: int) -> Speed:
    """Step a parallel environment of ours; a step is a round."""
    done = 0
    rounds = cycle([{agent: next(turns) for agent, turns in actions.items()} for _ in range(8)])
    start = clock()
    while done < steps:
        env.reset()
        while env.agents:
            env.step(next(rounds))
            done += 1
    seconds = clock() - start
    return Speed(done / seconds, done / seconds)


def play_tictactoe(env: Any, sample: bool, steps: int) -> Speed:
    """Step PettingZoo's tic-tac-toe with sampled moves, or with the cells in order (always legal; 7 moves a game)."""
    done = dead = 0
    env.reset(seed=0)  # makes the action spaces
    start = clock()
    while done < steps:
        env.reset()
        cells = count()
        while env.agents:
            observation, _, terminated, truncated, _ = env.last()
            if terminated or truncated:
                env.step(None)
                dead += 1
            elif sample:
                env.step(env.action_space(env.agent_selection).sample(observation["action_mask"]))
            else:
                env.step(next(cells))
            done += 1
    seconds = clock() - start
    return Speed(done / seconds, (done - dead) / seconds)


def play_textarena(ta: Any, name: str, steps: int) -> Speed:
    """Step TextArena's iterated prisoner's dilemma.

    The environment is made anew for each episode, off the clock: its observation wrapper keeps the texts of earlier
    episodes, which would make it slower and slower.
    """
    done, seconds = 0, 0.0
    while done < steps:
        env = ta.make(name)
        start = clock()
        env.reset(num_players=2, seed=0)
        over = False
        while not over:
            env.get_observation()
            over, _ = env.step("[cooperate]")
            done += 1
        seconds += clock() - start
    return Speed(done / seconds, done / seconds)


def value_nodes(tree: ControlTree, decisions: int) -> Speed:
    """Evaluate a policy exactly, again and again; counts the decision nodes valued."""
    policy = np.random.default_rng(0).random(tree.num_nodes)
    repeats = max(1, decisions // tree.num_nodes)
    start = clock()
    for _ in range(repeats):
        evaluate(tree, policy)
    per_s = repeats * tree.num_nodes / (clock() - start)
    return Speed(per_s, per_s)


def draw_episodes(tree: ControlTree, decisions: int) -> Speed:
    """Play many episodes at once; counts the decisions made."""
    policy = np.random.default_rng(0).random(tree.num_nodes)
    episodes = max(1, decisions // len(tree.depth_slices))
    start = clock()
    _, nodes, _ = sample_episodes(tree, policy, episodes, np.random.default_rng(1))
    per_s = int((nodes >= 0).sum()) / (clock() - start)
    return Speed(per_s, per_s)


def import_seconds() -> float:
    """Return the CPU seconds of ``import tracer_env`` in a fresh process."""
    program = "import time; t = time.process_time(); import tracer_env; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def in_turns(measures: dict[str, Callable[[], Speed]], repetitions: int) -> dict[str, list[Speed]]:
    """Repeat all measures one after the other, again and again; a first round warms up and is not counted.

    What was made beforehand is kept out of the garbage collector's sight, so that its size is in nobody's time.
    """
    gc.collect()
    gc.freeze()
    figures: dict[str, list[Speed]] = {name: [] for name in measures}
    for repetition in range(repetitions + 1):
        for name, measure in measures.items():
            speed = measure()
            if repetition:
                figures[name].append(speed)
    gc.unfreeze()
    return figures


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Write the median and the range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def speed_table(scale: float, repetitions: int) -> list[str]:
    """Return the table of steps and decisions per second."""
    steps, decisions = max(1, round(10_000 * scale)), max(1, round(2_000_000 * scale))
    few, many = ready_actions(8), ready_actions(steps * (repetitions + 1))  # an agent has less than every step
    ready, fresh = (tracer_env.raw_env(ListTask(200)) for _ in range(2))
    recorded = "recorded:arithmetic-train"
    trees = {name: build_tree(Game(name)) for name in (recorded, "simulated:default")}
    measures: dict[str, Callable[[], Speed]] = {
        READY: partial(play_aec, ready, few, steps),
    }
    skipped = []
    if find_spec("pygame"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        from pettingzoo.classic import tictactoe_v3

        board = tictactoe_v3.raw_env()
        measures["tic-tac-toe, moves sampled"] = partial(play_tictactoe, board, True, steps)
        measures["tic-tac-toe, moves ready"] = partial(play_tictactoe, board, False, steps)
    else:
        skipped.append("Skipped: tic-tac-toe needs pygame; pip install 'tracer-env[bench]'.")
    if find_spec("textarena"):
        import textarena as ta

        for name in ("IteratedPrisonersDilemma-v0", "IteratedPrisonersDilemma-v0-raw"):
            measures[name] = partial(play_textarena, ta, name, steps)
    else:
        skipped.append("Skipped: TextArena's game needs textarena; pip install 'tracer-env[bench]'.")
    measures["recorded game, AEC"] = partial(play_aec, tracer_env.raw_env(recorded), few, steps)
    measures["recorded game, parallel (a step is a round)"] = partial(
        play_parallel, tracer_env.parallel_env(recorded), few, steps
    )
    for name, tree in trees.items():
        measures[f"evaluate, {name}"] = partial(value_nodes, tree, decisions)
        measures[f"sample_episodes, {name}"] = partial(draw_episodes, tree, decisions)
    figures = in_turns(measures, repetitions)
    # New texts push the others out of the memory for texts already read, so they have a series of their own.
    others = [name for name in measures if name.startswith(("tic-tac-toe", "Iterated"))]
    new_texts = {NEW: partial(play_aec, fresh, many, steps)}
    beside_new = in_turns({**new_texts, **{name: measures[name] for name in others}}, repetitions)
    figures = {READY: figures.pop(READY), NEW: beside_new[NEW], **figures}

    lines = ["| what | per second | target | ratio to target |", "|---|---|---|---|"]
    for name, speeds in figures.items():
        values = [speed.per_s for speed in speeds]
        target = 20_000 if name.startswith("recorded") else 1_000_000 if name.startswith(("evaluate", "sample_")) else 0
        cells = [f"{target:,}", f"{statistics.median(values) / target:.2f}"] if target else ["–", "–"]
        unit = "decisions" if target > 20_000 else "steps"
        lines.append(f"| {name} | {spread(values)} {unit} | {cells[0]} | {cells[1]} |")
    lines += ["", "| ratio | all steps | without steps of ended agents | target |", "|---|---|---|---|"]
    for other, wanted in (
        ("tic-tac-toe, moves sampled", "1.0"),
        ("tic-tac-toe, moves ready", "–"),
        ("IteratedPrisonersDilemma-v0", "0.5"),
        ("IteratedPrisonersDilemma-v0-raw", "–"),
    ):
        for own, series in ((READY, figures), (NEW, beside_new)):
            if other in figures:
                pairs = list(zip(series[own], series[other], strict=True))
                every = spread([a.per_s / b.per_s for a, b in pairs], 2)
                live = spread([a.live_per_s / b.live_per_s for a, b in pairs], 2)
                lines.append(f"| {own} ÷ {other} | {every} | {live} | {wanted} |")
    lines += ["", *skipped] if skipped else []
    imports = [import_seconds() for _ in range(repetitions + 1)][1:]
    lines += ["", f"`import tracer_env` in a fresh process: best {min(imports):.2f} s of CPU time, "
              f"all {spread(imports, 2)} s; target 0.5 s."]  # fmt: skip
    return lines


def rounds_table(scale: float, repetitions: int, rounds: Sequence[int] = ROUNDS) -> list[str]:
    """Return the table of the cost of a step against the length of an episode, with straight lines through it."""
    few, steps = ready_actions(8), max(1, round(5_000 * scale))
    envs = {length: tracer_env.raw_env(ListTask(200), rounds=length) for length in rounds}
    figures = in_turns(
        {f"{n} {look}": partial(play_aec, envs[n], few, steps, look) for n in rounds for look in (True, False)},
        repetitions,
    )
    lines = ["| rounds | `last` and `step`, µs | `step` alone, µs |", "|---|---|---|"]
    costs = {name: [1e6 / speed.per_s for speed in speeds] for name, speeds in figures.items()}
    lines += [f"| {n} | {spread(costs[f'{n} True'], 1)} | {spread(costs[f'{n} False'], 1)} |" for n in rounds]
    lines.append("")
    for look, what in ((True, "`last` and `step`"), (False, "`step` alone")):
        medians = np.array([statistics.median(costs[f"{n} {look}"]) for n in rounds])
        slope, base = np.polyfit(np.array(rounds, dtype=float), medians, 1)
        left = medians - (base + slope * np.array(rounds))
        explained = 1.0 - float(left @ left) / float(((medians - medians.mean()) ** 2).sum())
        lines.append(f"* {what}: {base:.1f} µs + {slope:.3f} µs for each round of the episode (R² {explained:.3f}), "
                     f"off the line by at most {np.abs(left).max():.1f} µs")  # fmt: skip
    return lines


def parts_table(scale: float, repetitions: int) -> list[str]:
    """Return what the parts of a turn cost, each measured alone on the same turns of five-round episodes."""
    game, few = Game(ListTask(200)), ready_actions(8)
    visited = []  # (state, seat, action dict, parsed action, state after)
    for i in range(max(1, round(200 * scale))):
        state = game.start(game.task.question(i % 200))
        while seats := game.acting(state):
            (seat,) = seats
            action = next(few[seat.name])
            parsed = game.parse_action(seat.name, action)
            after = game.advance(state, {seat: parsed})
            visited.append((state, seat, action, parsed, after))
            state = after
    parts: dict[str, Callable[..., Any]] = {
        "observation: prompt": lambda s, seat, a, p, n: game.prompt(s, seat),
        "observation: features": lambda s, seat, a, p, n: feature_vector(game.rules, s, seat),
        "observation: mask": lambda s, seat, a, p, n: game.mask(s, seat),
        "info": lambda s, seat, a, p, n: game.info(s, seat, True),
        "reading the action": lambda s, seat, a, p, n: game.parse_action(seat.name, a),
        "transition": lambda s, seat, a, p, n: game.advance(s, {seat: p}),
        "rewards": lambda s, seat, a, p, n: game.pay(s, n),
        "nothing": lambda s, seat, a, p, n: None,
    }

    def cost(part: Callable[..., Any]) -> Speed:
        start = clock()
        for _ in range(5):
            for turn in visited:
                part(*turn)
        per_s = 5 * len(visited) / max(clock() - start, 1e-9)
        return Speed(per_s, per_s)

    figures = in_turns({name: partial(cost, part) for name, part in parts.items()}, repetitions)
    empty = statistics.median(1e6 / s.per_s for s in figures.pop("nothing"))
    costs = {name: statistics.median(1e6 / s.per_s for s in speeds) - empty for name, speeds in figures.items()}
    total = sum(costs.values())
    lines = ["| part of a turn | µs | share |", "|---|---|---|"]
    lines += [f"| {name} | {cost_of:.1f} | {cost_of / total:.0%} |" for name, cost_of in costs.items()]
    return [*lines, f"| together | {total:.1f} | |"]


def head() -> str:
    """Return what was measured and where."""
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                           text=True)  # fmt: skip
    commit = shown.stdout.strip() or "unknown"
    return f"commit {commit}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, NumPy {np.__version__}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="how much is done in a repetition")
    args = parser.parse_args()
    lines = [f"{head()}; median (range) of {args.repetitions} repetitions"]
    for table in (speed_table, rounds_table, parts_table):
        lines += ["", *table(args.scale, args.repetitions)]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
