"""A recorded or simulated game as an OpenSpiel game, so that OpenSpiel's algorithms run on it.

Owns the translation of a control tree and of its policies, and no arithmetic of its own: what OpenSpiel computes on the
game checks what ``tracer_env.exact`` computes on the tree.

The seats are the players, in the order of ``rules.seats``; action 0 is SKIP, 1 is SPEAK. The game starts with a chance
move over the worlds, and what is said is a chance move wherever more than one thing may be said (one that has a single
outcome is left out). In a simultaneous round the seats move one after the other and none sees what the others did.

At the end every player is paid the team return U, whatever the reward scheme: the rewards of single turns are not in
it, and costs of ``scope="seat"`` are charged to all players alike, as U has them.

Source: the API is that of google-deepmind/open_spiel 2.0.2, ``open_spiel/python/games/kuhn_poker.py``.
"""

# mypy: disable-error-code="import-not-found, import-untyped", allow-subclassing-any
# OpenSpiel has no type information, and may be missing

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np

from tracer_env.errors import ConfigError, MissingExtraError
from tracer_env.exact.evaluate import Policy, speak_probs
from tracer_env.exact.tree import ControlTree
from tracer_env.types import Control, Seat

__all__ = ["from_policy", "register_game", "to_policy"]

# shape legend: I information sets, P places: the decision nodes, then the leaves, then the chance moves

_CHANCE, _TERMINAL = -1, -4
"""OpenSpiel's numbers for who moves at a chance move and at the end (``pyspiel.PlayerId``)."""

_NOWHERE = -1
_START = (_NOWHERE, 0)
"""Where no action leads, and by what (place, action) the game comes to its first place."""

_digests: dict[str, str] = {}
"""Digest of the tree behind each name that this process registered: OpenSpiel forgets no name either."""


def register_game(tree: ControlTree, name: str | None = None, *, imperfect_recall: bool = False) -> Any:
    """Register a tree as an OpenSpiel game and return the game.

    From then on ``pyspiel.load_game(name)`` gives it, too. Registered games stay until the process ends. Pickles of a
    game or a state hold its name and not the tree: register the tree before loading one in another process.

    Args:
        tree: a recorded or simulated game, as ``build_tree`` returns it.
        name: an identifier that no other game has. By default ``tracer_`` and a hash of the tree. The same tree may
            be registered again under its name; another tree may not take it.
        imperfect_recall: take a tree without perfect recall. On it OpenSpiel's ``policy_value`` is right; its CFR runs
            without its guarantee; and its best responses, with ``nash_conv``, are silently wrong, or crash where one
            path meets a set twice.

    Returns:
        A ``pyspiel.Game``; its attribute ``tree`` is the tree.

    Raises:
        MissingExtraError: if OpenSpiel is not installed.
        ConfigError: if the name is taken or none, or the tree's abstraction has imperfect recall.
    """
    game_class, spiel = _game_class(), _pyspiel()
    if not imperfect_recall and not tree.has_perfect_recall():
        raise ConfigError(
            f"abstraction {tree.abstraction!r} has imperfect recall here: OpenSpiel's CFR and best responses need "
            "perfect recall and do not check it. Build the tree of a game with abstraction='history', or pass "
            "imperfect_recall=True to evaluate policies only."
        )
    digest = _digest(tree)
    name = f"tracer_{digest[:16]}" if name is None else name
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
        raise ConfigError(f"the name of an OpenSpiel game must be letters, digits and underscores, not {name!r}.")
    if _digests.get(name) != digest:
        if name in spiel.registered_names():
            raise ConfigError(f"OpenSpiel has another game named {name!r} already; choose another name, or none.")
        places = _places_of(tree)
        game_type, game_info = _type_of(spiel, tree, places, name), _info_of(spiel, tree, places)
        # A class, not a closure: OpenSpiel lets go of it after Python has ended, which a class survives.
        attributes = {"tree": tree, "places": places, "game_type": game_type, "game_info": game_info}
        spiel.register_game(game_type, type(name, (game_class,), attributes))
        _digests[name] = digest
    return spiel.load_game(name)


def to_policy(game: Any, policy: Policy) -> Any:
    """Return a policy of ours as OpenSpiel's table.

    Args:
        game: a game of ``register_game``.
        policy: the controllers of all seats, with one probability in all of an information set.

    Returns:
        An ``open_spiel.python.policy.TabularPolicy``.

    Raises:
        ConfigError: if the policy does not fit the tree, or differs within an information set (one that reads the
            features may).
    """
    tree, places = _check_game(game).tree, game.places
    speak = speak_probs(tree, policy)
    by_set = np.empty(len(tree.infosets))
    by_set[tree.node_infoset] = speak  # any of them: all must be the same
    differs = speak != by_set[tree.node_infoset]
    if differs.any():
        seat, key = tree.infosets[tree.node_infoset[differs.argmax()]]
        raise ConfigError(
            f"the policy of {seat.name} has several probabilities in the information set {key!r}; OpenSpiel's table "
            "holds one for each set."
        )
    from open_spiel.python.policy import TabularPolicy

    table = TabularPolicy(game)
    for label, p in zip(places.labels, by_set, strict=True):
        table.policy_for_key(label)[:] = (1.0 - p, p)
    return table


def from_policy(game: Any, policy: Any) -> dict[tuple[Seat, str], float]:
    """Return an OpenSpiel policy as ``evaluate`` takes it.

    Args:
        game: a game of ``register_game``.
        policy: has OpenSpiel's ``action_probabilities(state)``: a ``TabularPolicy``, a solver's average policy.

    Returns:
        P(SPEAK) by (seat, key) for every set with a choice.
    """
    tree, places = _check_game(game).tree, game.places
    probs: dict[tuple[Seat, str], float] = {}
    choices = np.flatnonzero(tree.may_skip)
    for infoset, row in zip(*np.unique(tree.node_infoset[choices], return_index=True), strict=True):
        # OpenSpiel's policies are asked with a state: any of the set does.
        state = _replay(game.game_type.short_name, [action for _, action in places.path(choices[row])])
        probs[tree.infosets[infoset]] = float(policy.action_probabilities(state).get(Control.SPEAK, 0.0))
    return probs


def _check_game(game: Any) -> Any:
    if not isinstance(game, _game_class()):
        raise ConfigError(f"{game} is not a game of tracer_env.open_spiel.register_game.")
    return game


# --- the tree as a game --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Places:
    """The tree as plain lists: a state of the game is a number, and a move looks up the next one.

    Attributes:
        first: where the game starts.
        player: P numbers: who moves.
        after: P lists: where each action leads; -1 where it is masked.
        chance: P lists: probabilities of the outcomes of a chance move; empty elsewhere.
        came_by: P pairs: the place before and the action that leads here; (-1, 0) at the start.
        pays: P numbers: the team return at a leaf; 0 elsewhere.
        infoset: the information set of each decision, a row of ``labels``.
        labels: I strings: what OpenSpiel calls the set: its key, or seat and key where seats share keys.
    """

    first: int
    player: list[int]
    after: list[list[int]]
    chance: list[list[float]]
    came_by: list[tuple[int, int]]
    pays: list[float]
    infoset: list[int]
    labels: list[str]

    def label(self, decision: int) -> str:
        """Return what OpenSpiel calls the information set of a decision."""
        return self.labels[self.infoset[decision]]

    def path(self, place: int) -> list[tuple[int, int]]:
        """Return the (place, action) pairs that lead to a place, from the start."""
        steps = []
        while place != self.first:
            steps.append(self.came_by[place])
            place = steps[-1][0]
        return steps[::-1]


def _places_of(tree: ControlTree) -> _Places:
    decisions, leaves = tree.num_nodes, tree.num_leaves
    prob = np.concatenate([tree.node_prob, tree.leaf_prob]).tolist()
    parent = np.concatenate([tree.node_parent, tree.leaf_parent])
    control = np.where(parent == _NOWHERE, 0, np.concatenate([tree.node_control, tree.leaf_control]))
    came_by: list[tuple[int, int]] = list(zip(parent.tolist(), control.tolist(), strict=True))
    player = tree.node_seat.tolist() + [_TERMINAL] * leaves
    after = [[_NOWHERE] * len(Control) for _ in range(decisions)] + [[] for _ in range(leaves)]
    chance: list[list[float]] = [[] for _ in player]
    pays = [0.0] * decisions + tree.leaf_return.tolist()
    ways = defaultdict(list)
    for place, step in enumerate(came_by):
        ways[step].append(place)
    for step, outcomes in ways.items():
        target = outcomes[0]
        if len(outcomes) > 1:
            target = len(player)
            player.append(_CHANCE)
            after.append(outcomes)
            chance.append([prob[place] for place in outcomes])
            came_by.append(step)
            pays.append(0.0)
            for outcome, place in enumerate(outcomes):
                came_by[place] = (target, outcome)
        if step != _START:
            after[step[0]][step[1]] = target
    keys = [key for _, key in tree.infosets]
    shared = len(set(keys)) < len(keys)
    return _Places(
        first=came_by.index(_START),
        player=player,
        after=after,
        chance=chance,
        came_by=came_by,
        pays=pays,
        infoset=tree.node_infoset.tolist(),
        labels=[f"{seat.name}: {key}" if shared else key for seat, key in tree.infosets],
    )


def _digest(tree: ControlTree) -> str:
    """Return a hash of all that the tree holds but its rules, which it follows from."""
    digest = sha256()
    for field in fields(tree):
        value = getattr(tree, field.name)
        if field.name != "rules":
            digest.update(field.name.encode())
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def _type_of(spiel: Any, tree: ControlTree, places: _Places, name: str) -> Any:
    modes, players = spiel.GameType.ChanceMode, len(tree.seats)
    return spiel.GameType(
        short_name=name,
        long_name=f"TRACER control tree (worlds: {len(tree.world_ids)}, abstraction: {tree.abstraction})",
        dynamics=spiel.GameType.Dynamics.SEQUENTIAL,
        chance_mode=modes.EXPLICIT_STOCHASTIC if _CHANCE in places.player else modes.DETERMINISTIC,
        information=spiel.GameType.Information.IMPERFECT_INFORMATION,
        utility=spiel.GameType.Utility.IDENTICAL,
        reward_model=spiel.GameType.RewardModel.TERMINAL,
        max_num_players=players,
        min_num_players=players,
        provides_information_state_string=True,
        provides_information_state_tensor=False,
        provides_observation_string=False,
        provides_observation_tensor=False,
    )


def _info_of(spiel: Any, tree: ControlTree, places: _Places) -> Any:
    low, high = float(tree.leaf_return.min()), float(tree.leaf_return.max())
    return spiel.GameInfo(
        num_distinct_actions=len(Control),
        max_chance_outcomes=max(map(len, places.chance)),
        num_players=len(tree.seats),
        min_utility=low,
        max_utility=high if low < high else low + 1.0,  # OpenSpiel wants a range, also of a team that is always right
        utility_sum=None,  # the payoff is common: it has no constant sum
        max_game_length=len(tree.depth_slices),  # decisions; OpenSpiel counts chance moves apart
    )


# --- OpenSpiel's side: imported only when it is asked for -----------------------------------------------------------


def _pyspiel() -> Any:
    try:
        import pyspiel
    except ImportError as error:
        raise MissingExtraError("open_spiel", "interop", "exporting a game to OpenSpiel") from error
    return pyspiel


def _registered(name: str) -> Any:
    """Return a registered game: what a pickle of it holds."""
    if name not in _digests:
        raise ConfigError(
            f"the OpenSpiel game {name!r} is not registered in this process; call register_game(tree, {name!r}) first."
        )
    return _pyspiel().load_game(name)


def _replay(name: str, actions: list[int]) -> Any:
    """Return the state of a registered game after some actions: what a pickle of it holds."""
    state = _registered(name).new_initial_state()
    for action in actions:
        state.apply_action(action)
    return state


@cache
def _game_class() -> Any:
    """Return the class of our OpenSpiel games; its bases exist only where OpenSpiel is installed."""
    _pyspiel()  # says what is missing
    import pyspiel

    class TreeState(pyspiel.State):
        """A place in the tree. OpenSpiel copies and pickles what is in ``__dict__``: only the place is."""

        __slots__ = ("__dict__", "_places")

        _places: _Places
        place: int

        def __init__(self, game: TreeGame) -> None:
            super().__init__(game)
            self._places = game.places
            self.place = game.places.first

        def current_player(self) -> int:
            return self._places.player[self.place]

        def _legal_actions(self, player: int) -> list[int]:
            return [action for action, target in enumerate(self._places.after[self.place]) if target != _NOWHERE]

        def chance_outcomes(self) -> list[tuple[int, float]]:
            return list(enumerate(self._places.chance[self.place]))

        def _apply_action(self, action: int) -> None:
            targets = self._places.after[self.place]
            if not 0 <= action < len(targets) or targets[action] == _NOWHERE:
                raise ValueError(f"action {action} is not legal here; legal are {self.legal_actions()}.")
            self.place = targets[action]

        def is_terminal(self) -> bool:
            return self._places.player[self.place] == _TERMINAL

        def returns(self) -> list[float]:
            return [self._places.pays[self.place]] * self.num_players()

        def information_state_string(self, player: int | None = None) -> str:
            game: TreeGame = self.get_game()
            return game.information_of(self.place, self.current_player() if player is None else player)

        def _action_to_string(self, player: int, action: int) -> str:
            game: TreeGame = self.get_game()
            return game.name_of_action(self.place, action)

        def __reduce__(self) -> tuple[Any, ...]:
            return _replay, (self.get_game().game_type.short_name, self.history())

        def __str__(self) -> str:
            game: TreeGame = self.get_game()
            return ", ".join(game.name_of_action(*step) for step in self._places.path(self.place)) or "start"

    class TreeGame(pyspiel.Game):
        """A control tree; each registered one is a subclass that holds its own."""

        tree: ControlTree
        places: _Places
        game_type: Any
        game_info: Any

        def __init__(self, params: Any = None) -> None:
            super().__init__(self.game_type, self.game_info, params or {})

        def __reduce__(self) -> tuple[Any, ...]:
            return _registered, (self.game_type.short_name,)

        def new_initial_state(self) -> TreeState:
            return TreeState(self)

        def max_chance_nodes_in_history(self) -> int:
            return len(self.tree.depth_slices) + 1  # the world, and one after each decision at most

        def make_py_observer(self, iig_obs_type: Any = None, params: Any = None) -> Any:
            return SimpleNamespace(  # what OpenSpiel's C++ side asks for information states; there is no tensor
                tensor=None,
                dict={},
                set_from=lambda state, player: None,
                string_from=lambda state, player: state.information_state_string(player),
            )

        def information_of(self, place: int, player: int) -> str:
            """Return what a player knows: the set it decides in, or between its turns its last one and what it did."""
            if not 0 <= player < len(self.tree.seats):
                raise ValueError(f"player {player} is none of the {len(self.tree.seats)} seats.")
            places = self.places
            if places.player[place] == player:
                return places.label(place)
            for before, action in reversed(places.path(place)):
                if places.player[before] == player:
                    return f"{places.label(before)} {Control(action).name}"
            return f"{self.tree.seats[player].name} before its first turn"

        def name_of_action(self, place: int, action: int) -> str:
            player = self.places.player[place]
            if player >= 0:
                return f"{self.tree.seats[player].name} {Control(action).name}"
            return f"world {self.tree.world_ids[action]}" if place == self.places.first else f"outcome {action}"

    return TreeGame
