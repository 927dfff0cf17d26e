"""Many games played together, so that one call of a generator serves every seat that must speak now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tracer_env.errors import ActionError, check_type
from tracer_env.game import Game
from tracer_env.types import Action, DialogueState, JointAction, Question, Seat

__all__ = ["Batch", "Transition"]


class Transition(NamedTuple):
    """One round of one game; ``Game.pay(*transition)`` is what it pays."""

    before: DialogueState
    after: DialogueState


class Batch:
    """Games of one configuration, by number. A branch is one more game.

    >>> import tracer_env
    >>> game = tracer_env.Game("simulated:default")
    >>> batch = tracer_env.Batch(game, [game.task.question(k) for k in range(3)])
    >>> while asked := batch.acting():
    ...     said = [game.utterances(batch.states[k], seat)[0] for k, seat in asked]  # one call for all of them
    ...     actions = {k: {} for k, _ in asked}
    ...     for (k, seat), utterance in zip(asked, said):
    ...         actions[k][seat] = tracer_env.Action(tracer_env.Control.SPEAK, utterance)
    ...     transitions = batch.step(actions)
    >>> [state.over for state in batch.states]
    [True, True, True]

    Attributes:
        game: the configuration.
        states: the current state of every game.
    """

    def __init__(self, game: Game, questions: Sequence[Question] = ()) -> None:
        """Start one game for each question.

        Raises:
            ConfigError: if these are not questions, or ``game`` is not a game.
        """
        check_type(game, Game, "make one with tracer_env.Game(task, ...), or take an environment's .game.")
        for question in questions:
            check_type(question, Question, "take game.task.question(index).")
        self.game = game
        self.states: list[DialogueState] = [game.start(question) for question in questions]

    def branch(self, state: DialogueState) -> int:
        """Let a game go on from a state, which other games may share.

        Returns:
            The number of the new game.
        """
        check_type(state, DialogueState, "take one of batch.states.")
        self.states.append(state)
        return len(self.states) - 1

    def live(self) -> list[int]:
        """Return the numbers of the games that are not over."""
        return [k for k, state in enumerate(self.states) if not state.over]

    def acting(self, games: Iterable[int] | None = None) -> list[tuple[int, Seat]]:
        """Return every seat that acts now, with the number of its game.

        Args:
            games: some games only; all by default.
        """
        numbers = range(len(self.states)) if games is None else games
        return [(k, seat) for k in numbers for seat in self.game.acting(self.states[k])]

    def step(self, actions: Mapping[int, JointAction]) -> dict[int, Transition]:
        """Play one round of the games named.

        Args:
            actions: for each of them, one action for every seat that acts now.

        Returns:
            The state of each before and after the round.

        Raises:
            ActionError: if a game is over or unknown, or actions are missing or malformed; then no game has moved.
        """
        for k, joint in actions.items():
            if k not in range(len(self.states)):
                raise ActionError(f"there is no game {k!r}; this batch has the games 0 to {len(self.states) - 1}.")
            if not isinstance(joint, Mapping) or not all(isinstance(action, Action) for action in joint.values()):
                raise ActionError(f"game {k} needs a dict of tracer_env.Action by Seat, not {joint!r:.200}.")
        moved = {k: Transition(self.states[k], self.game.advance(self.states[k], a)) for k, a in actions.items()}
        for k, transition in moved.items():
            self.states[k] = transition.after
        return moved
