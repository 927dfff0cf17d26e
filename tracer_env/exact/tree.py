"""The control tree of a recorded or simulated game as arrays: built once, then every expectation is a few numpy calls.

A decision is one seat's choice between SKIP and SPEAK. In a simultaneous round the acting seats decide one after the
other, each with the information set it has at the start of the round. Parents stand before their children, one depth
(number of decisions made before) after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tracer_env.dialogue import advance
from tracer_env.errors import ConfigError, check_type
from tracer_env.game import Game
from tracer_env.infosets import FEATURES, feature_vector, infoset_key
from tracer_env.metrics import EpisodeMetrics
from tracer_env.types import Action, Control, DialogueState, Question, Rules, Seat, Utterance

__all__ = ["ControlTree", "build_tree"]

# shape legend: N decision nodes, L leaves, W worlds, F features, I information sets


@dataclass(frozen=True, kw_only=True)
class ControlTree:
    """All decisions and endings of a scripted game.

    Attributes:
        rules: the game's rules.
        abstraction: the information-set abstraction of the keys.
        seats: all seats; ``node_seat`` and ``infosets`` refer to them.
        infosets: (seat, key) of each information set, in order of first appearance.
        depth_slices: the nodes of each depth, in order.
        node_parent: int64, shape (N,): the decision before; -1 for a first decision.
        node_control: int8, shape (N,): the control of the parent that leads here (unused for a first decision).
        node_prob: float64, shape (N,): probability of the chance move on the way from the parent; of the world for a
            first decision.
        node_seat: int64, shape (N,): who decides.
        node_infoset: int64, shape (N,): row of ``infosets``.
        node_public: int64, shape (N,): what everybody has seen, as a number: the public history.
        may_skip: bool, shape (N,): False where SPEAK is the only control.
        features: float32, shape (N, F): the feature vectors.
        leaf_parent, leaf_control, leaf_prob: as for nodes, shape (L,).
        leaf_world: int64, shape (L,): the world.
        leaf_return: float64, shape (L,): the team return U.
        leaf_correct, leaf_first_right, leaf_first_wrong: bool, shape (L,): the final answer, and the first proposal.
        leaf_tokens, leaf_tokens_in, leaf_calls: int64, shape (L,): generated tokens, prompt tokens, utterances.
        world_ids: question ids, W of them; those of a recording end in the number of the replicate.
        world_prob: float64, shape (W,).
    """

    rules: Rules
    abstraction: str
    seats: tuple[Seat, ...]
    infosets: tuple[tuple[Seat, str], ...]
    depth_slices: tuple[slice, ...]
    node_parent: NDArray[np.int64]
    node_control: NDArray[np.int8]
    node_prob: NDArray[np.float64]
    node_seat: NDArray[np.int64]
    node_infoset: NDArray[np.int64]
    node_public: NDArray[np.int64]
    may_skip: NDArray[np.bool_]
    features: NDArray[np.float32]
    leaf_parent: NDArray[np.int64]
    leaf_control: NDArray[np.int8]
    leaf_prob: NDArray[np.float64]
    leaf_world: NDArray[np.int64]
    leaf_return: NDArray[np.float64]
    leaf_correct: NDArray[np.bool_]
    leaf_first_right: NDArray[np.bool_]
    leaf_first_wrong: NDArray[np.bool_]
    leaf_tokens: NDArray[np.int64]
    leaf_tokens_in: NDArray[np.int64]
    leaf_calls: NDArray[np.int64]
    world_ids: tuple[str, ...]
    world_prob: NDArray[np.float64]

    @property
    def num_nodes(self) -> int:
        """Return N."""
        return len(self.node_parent)

    @property
    def num_leaves(self) -> int:
        """Return L."""
        return len(self.leaf_parent)

    def absent_minded(self) -> tuple[tuple[Seat, str], ...]:
        """Return the information sets that one path meets twice: there a deterministic policy need not be optimal."""
        ancestor, repeated = self.node_parent.copy(), np.zeros(self.num_nodes, dtype=np.bool_)
        choice = self.may_skip
        while (alive := ancestor >= 0).any():
            rows = np.flatnonzero(alive)
            above = ancestor[rows]
            repeated[rows] |= choice[rows] & choice[above] & (self.node_infoset[rows] == self.node_infoset[above])
            ancestor[rows] = self.node_parent[above]
        return tuple(self.infosets[k] for k in np.unique(self.node_infoset[repeated]))

    def has_perfect_recall(self) -> bool:
        """Return whether every information set tells its seat all its own information sets and controls so far.

        It does when the set is always entered from the same own decision by the same control: by induction the whole
        sequence is then the same. Decisions where SKIP is masked count as well.
        """
        entered = np.full(self.num_nodes, -1, dtype=np.int64)  # own decision before: 2 x information set + control
        ancestor, control = self.node_parent.copy(), self.node_control.astype(np.int64)
        while (searching := ancestor >= 0).any():
            rows = np.flatnonzero(searching)
            above = ancestor[rows]
            own = self.node_seat[above] == self.node_seat[rows]
            entered[rows[own]] = 2 * self.node_infoset[above[own]] + control[rows[own]]
            control[rows] = self.node_control[above]
            ancestor[rows] = np.where(own, -1, self.node_parent[above])
        one_entry = np.empty(len(self.infosets), dtype=np.int64)
        one_entry[self.node_infoset] = entered  # any of them: all must be the same
        return bool((entered == one_entry[self.node_infoset]).all())


@dataclass(frozen=True, slots=True)
class _Opening:
    """A state on its way into the tree, with the edge that leads there."""

    state: DialogueState
    world: int
    parent: int
    control: int
    prob: float
    public: int


@dataclass(slots=True)
class _Nodes:
    """The columns of the decision nodes so far, and the numbering of information sets and public histories."""

    parent: list[int] = field(default_factory=list)
    control: list[int] = field(default_factory=list)
    prob: list[float] = field(default_factory=list)
    seat: list[int] = field(default_factory=list)
    infoset: list[int] = field(default_factory=list)
    public: list[int] = field(default_factory=list)
    may_skip: list[bool] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    depths: list[slice] = field(default_factory=list)
    infosets: dict[tuple[Seat, str], int] = field(default_factory=dict)
    publics: dict[object, int] = field(default_factory=dict)

    def number_of_public(self, key: object) -> int:
        return self.publics.setdefault(key, len(self.publics))


def build_tree(game: Game, questions: Sequence[Question] | None = None) -> ControlTree:
    """Play every control of every world of a recorded or simulated game.

    Args:
        game: a game whose task brings its utterances. Its abstraction gives the information sets, its rewards the
            costs in the team return; its stopping rules prune the tree.
        questions: some of the task's questions, equally likely; all its worlds by default.

    Returns:
        The tree. It grows as 2 to the number of turns (4 to 5 for simulated teams, whose outcomes are chance moves).

    Raises:
        ConfigError: if the task needs a generator, or there is no question.
    """
    check_type(game, Game, "make one with tracer_env.Game(task, ...), or take an environment's .game.")
    if game.script is None:
        raise ConfigError(
            f"task {game.task.name!r} needs a generator; exact values exist for 'recorded:' and 'simulated:' games. "
            "Record it with: tracer record"
        )
    worlds = game.script.worlds() if questions is None else [(1.0 / len(questions), q) for q in questions]
    if not worlds:
        raise ConfigError("a control tree needs at least one question.")
    nodes, leaves = _Nodes(), []
    frontier = [_Opening(game.start(q), w, -1, 0, p, -1) for w, (p, q) in enumerate(worlds)]
    while frontier:  # one round at a time; a round of m seats spans m depths
        leaves += [opening for opening in frontier if opening.state.over]
        frontier = _play_round(game, [opening for opening in frontier if not opening.state.over], nodes)
    return _tree(game, worlds, nodes, leaves)


def _play_round(game: Game, live: Sequence[_Opening], nodes: _Nodes) -> list[_Opening]:
    """Add the decisions of one round of every live state, and return the states after it."""
    partial: list[tuple[_View, int, int, float, tuple[Control, ...]]] = [
        (_look(game, opening, nodes), opening.parent, opening.control, opening.prob, ()) for opening in live
    ]
    after: list[_Opening] = []
    while partial:
        first, ahead = len(nodes.parent), []  # a seat of the round decides, then the next one
        for view, parent, control, prob, chosen in partial:
            position = len(chosen)
            node = len(nodes.parent)
            nodes.parent.append(parent)
            nodes.control.append(control)
            nodes.prob.append(prob)
            nodes.seat.append(game.rules.seats.index(view.seats[position]))
            nodes.infoset.append(view.infosets[position])
            nodes.public.append(nodes.number_of_public((view.public, chosen)))
            nodes.may_skip.append(view.may_skip[position])
            nodes.features.append(view.features[position])
            for choice in (Control.SKIP, Control.SPEAK) if view.may_skip[position] else (Control.SPEAK,):
                controls = (*chosen, choice)
                if len(controls) < len(view.seats):
                    ahead.append((view, node, int(choice), 1.0, controls))
                else:
                    after += _outcomes(game, view, node, controls)
        nodes.depths.append(slice(first, len(nodes.parent)))
        partial = ahead
    return after


@dataclass(frozen=True, slots=True)
class _View:
    """What the acting seats of a round see when it begins."""

    opening: _Opening
    public: int
    seats: tuple[Seat, ...]
    infosets: tuple[int, ...]
    may_skip: tuple[bool, ...]
    features: tuple[NDArray[np.float32], ...]


def _look(game: Game, opening: _Opening, nodes: _Nodes) -> _View:
    state = opening.state
    seats = game.acting(state)
    keys = tuple(game.infoset(state, seat) for seat in seats)
    # A public history is all events, and every key that depends on more than the events (a ballot's margin does).
    events = infoset_key(game.rules, state, seats[0], "history")
    return _View(
        opening=opening,
        public=nodes.number_of_public((opening.public, events, keys)),
        seats=seats,
        infosets=tuple(nodes.infosets.setdefault(pair, len(nodes.infosets)) for pair in zip(seats, keys, strict=True)),
        may_skip=tuple(game.mask(state, seat)[0] for seat in seats),
        features=tuple(feature_vector(game.rules, state, seat) for seat in seats),
    )


def _outcomes(game: Game, view: _View, node: int, controls: tuple[Control, ...]) -> Iterator[_Opening]:
    """Play one combination of controls; what is said may be a chance move."""
    assert game.script is not None
    state = view.opening.state
    said = [
        game.script.outcomes(game.rules, state, seat) if control is Control.SPEAK else _NOTHING
        for seat, control in zip(view.seats, controls, strict=True)
    ]
    for joint in product(*said):
        prob = math.prod(p for p, _ in joint)
        actions = {
            seat: Action(control, utterance)
            for seat, control, (_, utterance) in zip(view.seats, controls, joint, strict=True)
        }
        after = advance(game.rules, game.task, state, actions)
        yield _Opening(after, view.opening.world, node, int(controls[-1]), prob, view.public)


_NOTHING: Sequence[tuple[float, Utterance]] = ((1.0, Utterance()),)


def _tree(
    game: Game, worlds: Sequence[tuple[float, Question]], nodes: _Nodes, leaves: Sequence[_Opening]
) -> ControlTree:
    final = [leaf.state for leaf in leaves]
    first = [EpisodeMetrics.of(state).first for state in final]
    return ControlTree(
        rules=game.rules,
        abstraction=game.abstraction,
        seats=game.rules.seats,
        infosets=tuple(nodes.infosets),
        depth_slices=tuple(nodes.depths),
        node_parent=np.array(nodes.parent, dtype=np.int64),
        node_control=np.array(nodes.control, dtype=np.int8),
        node_prob=np.array(nodes.prob, dtype=np.float64),
        node_seat=np.array(nodes.seat, dtype=np.int64),
        node_infoset=np.array(nodes.infoset, dtype=np.int64),
        node_public=np.array(nodes.public, dtype=np.int64),
        may_skip=np.array(nodes.may_skip, dtype=np.bool_),
        features=np.array(nodes.features, dtype=np.float32).reshape(-1, len(FEATURES)),
        leaf_parent=np.array([leaf.parent for leaf in leaves], dtype=np.int64),
        leaf_control=np.array([leaf.control for leaf in leaves], dtype=np.int8),
        leaf_prob=np.array([leaf.prob for leaf in leaves], dtype=np.float64),
        leaf_world=np.array([leaf.world for leaf in leaves], dtype=np.int64),
        leaf_return=np.array([game.team_return(state) for state in final]),
        leaf_correct=np.array([state.correct for state in final], dtype=np.bool_),
        leaf_first_right=np.array([kind == "right" for kind in first], dtype=np.bool_),
        leaf_first_wrong=np.array([kind == "wrong" for kind in first], dtype=np.bool_),
        leaf_tokens=np.array([state.tokens_spent for state in final], dtype=np.int64),
        leaf_tokens_in=np.array([state.tokens_in for state in final], dtype=np.int64),
        leaf_calls=np.array([state.calls_spent for state in final], dtype=np.int64),
        world_ids=tuple(question.question_id for _, question in worlds),
        world_prob=np.array([prob for prob, _ in worlds]),
    )
