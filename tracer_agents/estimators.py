"""The certificate of a value estimator: its error against exact values, on a recorded or simulated game.

Dialogues are played, every decision on the way is valued by the estimator, and the exact value of the very same node
is subtracted. What is left is the error; its mean in an information set is the bias there, with an interval over
dialogues, as the visits of one dialogue belong together. An unbiased estimator's intervals hold 0, all at once, but
with the small probability that they were made with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

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

__all__ = ["Errors", "EstimatorRow", "Nodes", "Visits", "certify_estimators", "collect", "errors_of"]

ROUNDING = 1e-9
"""Half the width of an interval is never less: two ways to add up a value differ by so much."""

# shape legend: V visited decisions, I information sets that were visited by enough dialogues, N nodes


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


def errors_of(visits: Visits, level: float = 0.95, fewest: int = 30) -> Errors:
    """Measure an estimator: see ``Errors``.

    Args:
        visits: from ``collect``.
        level: probability with which all intervals hold the truth at once.
        fewest: dialogues that must visit a set. Where outcomes are rare (one in a hundred visits) a normal interval
            needs hundreds, or it is too narrow.

    Raises:
        CertificateError: if no set has so many.
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
        raise CertificateError(f"no information set was visited by {fewest} dialogues: play more of them.")
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


@dataclass(frozen=True, kw_only=True)
class EstimatorRow:
    """What was found about one estimator.

    Attributes:
        estimator: ``"local"``, ``"rollout"`` or ``"exact"``.
        continuations: M of ``rollout``; 1 else.
        promised: whether it is unbiased for E[U]; ``local`` is not, as it values a turn and not what follows.
        bias: mean error in the information set whose interval is farthest from holding 0, in units of the team return.
        half_width: of that interval.
        seat: the seat of that set.
        infoset: its key.
        sets: how many sets were looked at.
        contain_zero: in how many of them the interval holds 0.
        left_out: sets that too few dialogues visited.
    """

    estimator: str
    continuations: int
    promised: bool
    bias: float
    half_width: float
    seat: str
    infoset: str
    sets: int
    contain_zero: int
    left_out: int

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
    dialogues: int = 1500,
    continuations: int = 1,
    share: float = 0.2,
    level: float = 0.999,
    fewest: int = 150,
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
        level: of the intervals of all sets at once: an unbiased estimator fails with one minus this probability.
        fewest: dialogues that must visit a set.
        seed: of everything.

    Raises:
        CertificateError: if no set is visited often enough.
    """
    check_integer("dialogues", dialogues)
    team: dict[str, Controller] = {name: _Explorer(c, share) for name, c in controllers.items()}
    players = {seat: Player(policy=seat.name, controller=team[seat.name]) for seat in game.rules.seats}
    size = game.task.num_questions()
    worlds = np.random.default_rng(seed).integers(len(tree.world_ids), size=dialogues).tolist()
    questions = [game.task.question(k if size is None else world) for k, world in enumerate(worlds)]
    speak = team_probs(tree, team)
    rows = []
    for estimator in ESTIMATORS:
        m = continuations if estimator == "rollout" else 1
        rewards = TracerRewards(costs=game.rewards.costs)
        probing = Probing(num_candidates=1, estimator=estimator, rewards=rewards, continuations=m)
        episodes = play(game, players, None, questions, seed=seed, probing=probing)
        errors = errors_of(collect(game, tree, speak, episodes, worlds), level, fewest)
        worst = int(np.argmax(np.abs(errors.bias) / errors.half_width))
        seat, infoset = tree.infosets[errors.sets[worst]]
        rows.append(
            EstimatorRow(
                estimator=estimator,
                continuations=m,
                promised=estimator != "local",
                bias=float(errors.bias[worst]),
                half_width=float(errors.half_width[worst]),
                seat=seat.name,
                infoset=infoset,
                sets=len(errors.sets),
                contain_zero=int(errors.holds.sum()),
                left_out=errors.left_out,
            )
        )
    return rows
