"""Make the table of value estimators: bias, variance and cost of each against the exact values of a recording.

    python benchmarks/estimators.py --out runs/estimators.md

Dialogues on ``recorded:arithmetic-train`` are played under one fixed policy, and every decision that they visit is
valued by ``local``, ``rollout`` with M continuations, and ``exact``: v(SPEAK) - v(SKIP). The exact value at the very
same node, from ``tracer_env.exact.control_values``, is subtracted. What is left is the estimator's error: its mean in
an information set is the bias there. Worlds are drawn with replacement, and intervals are normal ones over dialogues,
as the visits of one dialogue belong together.

All estimators see the same dialogues. Everything but the seconds depends on the options only.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tracer_agents.estimators import ROUNDING, Visits, collect
from tracer_agents.interfaces import ControlValues
from tracer_agents.rollout import Player, Probing, play
from tracer_env import Costs, Game, OutcomeRewards, Seat, TracerRewards
from tracer_env.exact import ControlTree, best_policy, build_tree

TASK = "recorded:arithmetic-train"
FEWEST = 30  # dialogues that must visit a set, or a normal interval would mean little
HEAD = (
    "policy", "estimator", "largest bias [95 %, all sets at once]", "in set", "mean abs. bias", "if unbiased",
    "0 inside, sets", "variance per visit", "of it noise", "extra turns", "extra tokens", "s per 1,000",
)  # fmt: skip


class PolicyController:
    """Plays one seat of a policy that is given by (seat, key); SPEAK with 1/2 where the policy has no set."""

    def __init__(self, seat: Seat, policy: Mapping[tuple[Seat, str], float]) -> None:
        """Store both."""
        self.seat, self.policy = seat, policy

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        """Return the policy's probability; 1 when SKIP is masked."""
        return self.policy.get((self.seat, infoset), 0.5) if mask[0] else 1.0

    def update(self, values: Sequence[ControlValues]) -> None:
        """Learn nothing."""


def team_of(game: Game, policy: Mapping[tuple[Seat, str], float]) -> dict[Seat, Player]:
    """Return a policy as a team."""
    return {s: Player(policy=s.name, controller=PolicyController(s, policy)) for s in game.rules.seats}


def mixed(policy: Mapping[tuple[Seat, str], float], share: float) -> dict[tuple[Seat, str], float]:
    """Mix a policy with a share of the uniform one."""
    return {pair: (1.0 - share) * p + share * 0.5 for pair, p in policy.items()}


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What an estimator gets wrong, by information set.

    Attributes:
        sets: int64, shape (I,): rows of the tree's ``infosets``.
        visits: int64, shape (I,).
        bias: float64, shape (I,): mean of estimate - exact.
        error: float64, shape (I,): standard error of ``bias`` over dialogues.
        z: half-width of an interval in standard errors, such that all I intervals hold at once (Bonferroni).
        variance: of the estimates around their set's mean, weighted by visits.
        noise: of the estimates around the exact value of their node and the set's bias, likewise.
        left_out: sets with too few dialogues.
    """

    sets: NDArray[np.int64]
    visits: NDArray[np.int64]
    bias: NDArray[np.float64]
    error: NDArray[np.float64]
    z: float
    variance: float
    noise: float
    left_out: int

    @property
    def half_width(self) -> NDArray[np.float64]:
        """Half the width of each interval, shape (I,); never less than rounding."""
        return np.maximum(self.z * self.error, ROUNDING)

    @property
    def holds(self) -> NDArray[np.bool_]:
        """Whether the interval of each set holds 0, shape (I,)."""
        return np.abs(self.bias) <= self.half_width


def errors_of(visits: Visits, level: float = 0.95, fewest: int = FEWEST) -> Errors:
    """Measure an estimator: see ``Errors``.

    Args:
        visits: from ``collect``.
        level: probability with which all intervals hold the truth at once.
        fewest: dialogues that must visit a set. Where outcomes are rare (one in a hundred visits) a normal interval
            needs hundreds, or it is too narrow.
    """
    error = visits.value - visits.exact
    kept: list[tuple[int, int, float, float]] = []
    spread = noise = 0.0
    left_out = 0
    for row in np.unique(visits.infoset):
        here = visits.infoset == row
        count, mean = int(here.sum()), float(error[here].mean())
        _, dialogue = np.unique(visits.dialogue[here], return_inverse=True)
        sums = np.bincount(dialogue, weights=error[here] - mean)  # of each dialogue
        if len(sums) < fewest:
            left_out += 1
            continue
        kept.append((int(row), count, mean, float(np.sqrt((sums**2).sum())) / count))
        spread += count * float(visits.value[here].var())
        noise += count * float(error[here].var())
    if not kept:
        raise SystemExit(f"no information set was visited by {fewest} dialogues: play more of them.")
    sets, counts, means, standard = (np.array(column) for column in zip(*kept, strict=True))
    return Errors(
        sets=sets,
        visits=counts,
        bias=means,
        error=standard,
        z=NormalDist().inv_cdf(1.0 - (1.0 - level) / (2 * len(sets))),
        variance=spread / float(counts.sum()),
        noise=noise / float(counts.sum()),
        left_out=left_out,
    )


def line_of(name: str, estimator: str, tree: ControlTree, errors: Errors, cost: Sequence[float]) -> list[str]:
    """Return one line of the table; ``cost``: extra turns and tokens per dialogue, seconds per 1,000."""
    top = int(np.argmax(np.abs(errors.bias)))
    bias, half = errors.bias[top], errors.half_width[top]
    share = errors.visits / errors.visits.sum()
    by_chance = float(share @ errors.error) * math.sqrt(2.0 / math.pi)
    _, key = tree.infosets[errors.sets[top]]
    exact = bool(np.abs(errors.bias).max() <= ROUNDING)
    return [
        name,
        estimator,
        "0" if exact else f"{bias:+.3f} [{bias - half:+.3f}, {bias + half:+.3f}]",
        "" if exact else f"`{key}`".replace("|", "\\|"),
        f"{float(share @ np.abs(errors.bias)):.4f}",
        f"{by_chance:.4f}",
        f"{int(errors.holds.sum())} of {len(errors.sets)}",
        f"{errors.variance:.3f}",
        f"{errors.noise:.3f}",
        f"{cost[0]:.1f}",
        f"{cost[1]:.0f}",
        f"{cost[2]:.1f}",
    ]


def main() -> None:
    """Play, value, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default=TASK, help="a recording (default: %(default)s)")
    parser.add_argument("--dialogues", type=int, default=1500, help="under each policy (default: %(default)s)")
    parser.add_argument("--continuations", type=int, nargs="+", default=[1, 4, 16], metavar="M")
    parser.add_argument("--abstraction", default="paper")
    parser.add_argument("--per-1k-tokens", type=float, default=2.0, help="cost in the return (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    costs = Costs(per_1k_tokens=args.per_1k_tokens)
    game = Game(args.task, rewards=OutcomeRewards(costs=costs), abstraction=args.abstraction)
    tree = build_tree(game)  # reads every text once, so that no estimator pays for it
    worlds = np.random.default_rng(args.seed).integers(len(tree.world_ids), size=args.dialogues).tolist()
    questions = [game.task.question(world) for world in worlds]
    uniform = dict.fromkeys(tree.infosets, 0.5)
    policies = {"uniform": uniform, "best, 10 % uniform": mixed({**uniform, **best_policy(tree).policy}, 0.1)}
    estimators = [("local", 1), *(("rollout", m) for m in args.continuations), ("exact", 1)]
    head, left_out = [" | ".join(HEAD), "|".join(["---"] * len(HEAD))], {}
    lines = [f"| {head[0]} |", f"|{head[1]}|"]
    print("\n".join(lines), flush=True)
    for name, policy in policies.items():
        for estimator, m in estimators:
            probing = Probing(
                num_candidates=1, estimator=estimator, rewards=TracerRewards(costs=costs), continuations=m
            )
            began = time.perf_counter()
            episodes = play(game, team_of(game, policy), None, questions, seed=args.seed, probing=probing)
            seconds = time.perf_counter() - began
            errors = errors_of(collect(game, tree, policy, episodes, worlds))
            left_out[name] = errors.left_out
            cost = (
                sum(e.branch_turns for e in episodes) / len(episodes),
                sum(e.tokens_generated - e.state.tokens_spent for e in episodes) / len(episodes),
                1000 * seconds / len(episodes),
            )
            label = f"{estimator}, M = {m}" if estimator == "rollout" else estimator
            lines.append(f"| {' | '.join(line_of(name, label, tree, errors, cost))} |")
            print(lines[-1], flush=True)
    lines += ["", f"{args.dialogues} dialogues under each policy, seed {args.seed}, key `{args.abstraction}`, "
              f"{args.per_1k_tokens:g} per 1,000 tokens. Sets that fewer than {FEWEST} dialogues visit are left out: "
              + ", ".join(f"{count} under {name}" for name, count in left_out.items()) + "."]  # fmt: skip
    print("\n".join(lines[-2:]))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
