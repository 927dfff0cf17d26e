"""The certificate of a value estimator: its error against exact values, on a recorded or simulated game.

Dialogues are played, every decision on the way is valued by the estimator, and the exact value of the very same node
is subtracted. What is left is the error; its mean in an information set is the bias there, with an interval over
dialogues, as the visits of one dialogue belong together. An unbiased estimator's intervals hold 0, all at once, but
with the small probability that they were made with. ``exact`` must be right at every node.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer_agents.errors import CertificateError
from tracer_agents.fit import team_probs
from tracer_agents.interfaces import Controller, ControlValues
from tracer_agents.rollout import ESTIMATORS, Episode, Player, Probing, play
from tracer_env import Action, Game, Seat, TracerRewards
from tracer_env.errors import check_integer
from tracer_env.exact import ControlTree, control_values
from tracer_env.exact.evaluate import Policy

__all__ = ["Bias", "EstimatorRow", "Nodes", "Visits", "biases_of", "certify_estimators", "collect"]

ROUNDING = 1e-9
"""Two ways to add up a value differ by so much."""

# shape legend: V visited decisions


class Nodes:
    """Finds the nodes of a control tree that a dialogue has visited. For games that only end after the last round."""

    def __init__(self, game: Game, tree: ControlTree) -> None:
        """Index the children of every node."""
        self.game = game
        self.roots = np.flatnonzero(tree.node_parent < 0)
        self.children: dict[tuple[int, int], list[int]] = defaultdict(list)
        edges = zip(tree.node_parent.tolist(), tree.node_control.tolist(), strict=True)
        for node, edge in enumerate(edges):
            self.children[edge].append(node)

    def of(self, episode: Episode, world: int) -> dict[tuple[int, Seat], int]:
        """Return the node of every turn, by (round, seat).

        Args:
            episode: a finished dialogue.
            world: position of its question among those the tree was built on.
        """
        game, found = self.game, {}
        script, state = game.script, game.start(episode.state.question)
        assert script is not None
        node = int(self.roots[world])
        while True:
            turns = [turn for turn in episode.state.turns if turn.round == state.round]
            outcome = 0  # its number among the chance moves of the round
            for turn in turns:
                found[turn.round, turn.seat] = node
                if turn.spoke:
                    texts = [text for _, text in script.outcomes(game.rules, state, turn.seat)]
                    outcome = outcome * len(texts) + texts.index(turn.utterance)
                if turn is not turns[-1]:
                    (node,) = self.children[node, int(turn.control)]
            state = game.advance(state, {turn.seat: Action(turn.control, turn.utterance) for turn in turns})
            if state.over:
                return found
            node = self.children[node, int(turns[-1].control)][outcome]


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Every valued decision of many dialogues.

    Attributes:
        dialogue: int64, shape (V,).
        infoset: int64, shape (V,): row of the tree's ``infosets``.
        value: float64, shape (V,): estimated v(SPEAK) - v(SKIP), times the visit's weight.
        exact: float64, shape (V,): the exact one at the node.
    """

    dialogue: NDArray[np.int64]
    infoset: NDArray[np.int64]
    value: NDArray[np.float64]
    exact: NDArray[np.float64]


def collect(
    game: Game,
    tree: ControlTree,
    policy: Policy,
    episodes: Sequence[Episode],
    worlds: Sequence[int],
) -> Visits:
    """Lay the decisions of dialogues beside the exact values of their nodes.

    A decision that was not probed counts with value 0, as the weights of those that were make up for it.

    Args:
        game: what was played.
        tree: of the same game.
        policy: what played.
        episodes: the dialogues.
        worlds: of each dialogue, the position of its question among those of the tree.
    """
    nodes, exact = Nodes(game, tree), np.diff(control_values(tree, policy).values, axis=1)[:, 0]
    rows: list[tuple[int, int, float, float]] = []
    for number, (episode, world) in enumerate(zip(episodes, worlds, strict=True)):
        visited = nodes.of(episode, world)
        for d in episode.decisions:
            node = visited[d.round, d.seat]
            value = 0.0 if d.values is None else d.values.weight * (d.values.speak - d.values.skip)
            rows.append((number, int(tree.node_infoset[node]), value, float(exact[node])))
    dialogue, infoset, values, known = zip(*rows, strict=True)
    return Visits(dialogue=np.array(dialogue), infoset=np.array(infoset), value=np.array(values), exact=np.array(known))


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The mean error of an estimator in one information set.

    Attributes:
        infoset: row of the tree's ``infosets``.
        bias: mean of estimate - exact over the visits.
        half_width: of its interval.
    """

    infoset: int
    bias: float
    half_width: float

    @property
    def contains_zero(self) -> bool:
        """Whether the interval holds 0."""
        return abs(self.bias) <= self.half_width


def biases_of(visits: Visits, tree: ControlTree, miss: float) -> list[Bias]:
    """Return the bias of every set that two dialogues have visited, with empirical Bernstein intervals.

    These hold for any distribution of a bounded error, rare outcomes included, where a normal interval is far too
    narrow (Maurer & Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", 2009, theorem 4). With m
    dialogues, their sums of errors in [-c, c] and sample variance V::

        |mean of the sums - expected one| <= sqrt(2 V L / m) + 7 (2 c) L / (3 (m - 1)),    L = ln(4 / miss)

    Args:
        visits: from ``collect``.
        tree: of the same game: what its leaves pay bounds an error.
        miss: probability with which a single interval may miss the truth.
    """
    most = 2.0 * float(np.ptp(tree.leaf_return))  # a difference of two values, less another one
    depths = np.zeros(len(tree.infosets), dtype=np.int64)
    for depth in tree.depth_slices:
        depths[np.unique(tree.node_infoset[depth])] += 1
    factor, error, found = math.log(4.0 / miss), visits.value - visits.exact, []
    for row in np.unique(visits.infoset):
        here = visits.infoset == row
        _, dialogue = np.unique(visits.dialogue[here], return_inverse=True)
        sums = np.bincount(dialogue, weights=error[here])
        m, c = len(sums), int(depths[row]) * most  # a dialogue meets a set at most once at each depth
        if m < 2:
            continue
        width = math.sqrt(2.0 * sums.var(ddof=1) * factor / m) + 14.0 * c * factor / (3.0 * (m - 1))
        count = int(here.sum())
        found.append(Bias(infoset=int(row), bias=float(sums.sum()) / count, half_width=width * m / count))
    return found


@dataclass(frozen=True, kw_only=True)
class EstimatorRow:
    """What was found about one estimator.

    Attributes:
        estimator: ``"local"``, ``"rollout"`` or ``"exact"``.
        continuations: M of ``rollout``; 1 else.
        promised: whether it is unbiased for E[U]; ``local`` is not, as it values a turn and not what follows.
        bias: mean error in the information set whose interval is farthest from holding 0, in units of the team return.
        half_width: of that interval.
        level: with this probability the intervals of all promised estimators in all sets hold the truth at once.
        seat: the seat of that set.
        infoset: its key.
        sets: how many sets were looked at.
        contain_zero: in how many of them the interval holds 0.
    """

    estimator: str
    continuations: int
    promised: bool
    bias: float
    half_width: float
    level: float
    seat: str
    infoset: str
    sets: int
    contain_zero: int

    @property
    def holds(self) -> bool:
        """False when an estimator that promises to be unbiased is not."""
        return not self.promised or self.contain_zero == self.sets


class _Explorer:
    """A controller that is uniform in a share of all decisions, so that dialogues come by everywhere."""

    def __init__(self, controller: Controller, share: float) -> None:
        self._controller, self._share = controller, share

    def speak_prob(self, infoset: str, features: NDArray[np.float32], mask: tuple[bool, bool]) -> float:
        prob = self._controller.speak_prob(infoset, features, mask)
        return (1.0 - self._share) * prob + self._share * 0.5 if mask[0] else prob

    def update(self, values: Sequence[ControlValues]) -> None:
        raise NotImplementedError("a certificate does not learn.")


def certify_estimators(
    game: Game,
    tree: ControlTree,
    controllers: Mapping[str, Controller],
    *,
    dialogues: int = 3000,
    continuations: int = 1,
    share: float = 0.2,
    level: float = 0.999,
    seed: int = 0,
) -> list[EstimatorRow]:
    """Check every estimator on a game under a team's strategies.

    Args:
        game: a recorded or simulated game.
        tree: of the same game.
        controllers: by seat name.
        dialogues: how many are played, with questions drawn with replacement, at least 1; the same for all estimators.
        continuations: M of ``rollout``.
        share: of decisions in which the uniform strategy is played instead.
        level: of all intervals at once: an unbiased estimator fails with at most one minus this probability.
        seed: of everything.

    Raises:
        CertificateError: if no seat has a choice, or no set is visited twice.
        ConfigError: if ``dialogues`` is out of range.
    """
    check_integer("dialogues", dialogues)
    if not tree.may_skip.any():
        raise CertificateError("no seat has a choice in this game, so that there is nothing to estimate.")
    team: dict[str, Controller] = {name: _Explorer(c, share) for name, c in controllers.items()}
    players = {seat: Player(policy=seat.name, controller=team[seat.name]) for seat in game.rules.seats}
    size = game.task.num_questions()
    worlds = np.random.default_rng(seed).integers(len(tree.world_ids), size=dialogues).tolist()
    questions = [game.task.question(k if size is None else world) for k, world in enumerate(worlds)]
    speak = team_probs(tree, team)
    free = len(np.unique(tree.node_infoset[tree.may_skip]))
    rows = []
    for estimator in ESTIMATORS:
        m = continuations if estimator == "rollout" else 1
        rewards = TracerRewards(costs=game.rewards.costs)
        probing = Probing(num_candidates=1, estimator=estimator, rewards=rewards, continuations=m)
        episodes = play(game, players, None, questions, seed=seed, probing=probing)
        visits = collect(game, tree, speak, episodes, worlds)
        found = biases_of(visits, tree, (1.0 - level) / free)
        if not found:
            raise CertificateError("no information set was visited by two dialogues: play more of them.")
        if estimator == "exact":  # not a mean: every single value must be right
            found = [_largest_error(visits, row) for row in np.unique(visits.infoset).tolist()]
        worst = max(found, key=lambda each: abs(each.bias) / each.half_width)
        seat, infoset = tree.infosets[worst.infoset]
        rows.append(
            EstimatorRow(
                estimator=estimator,
                continuations=m,
                promised=estimator != "local",
                bias=worst.bias,
                half_width=worst.half_width,
                level=level,
                seat=seat.name,
                infoset=infoset,
                sets=len(found),
                contain_zero=sum(each.contains_zero for each in found),
            )
        )
    return rows


def _largest_error(visits: Visits, row: int) -> Bias:
    error = (visits.value - visits.exact)[visits.infoset == row]
    return Bias(infoset=row, bias=float(error[np.argmax(np.abs(error))]), half_width=ROUNDING)
