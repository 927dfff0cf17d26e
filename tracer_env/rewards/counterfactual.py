"""Schemes that compare what happened with what would have happened: both play a branch of the game on.

On recorded and simulated games the branch is known. In a live game its texts have to be written, by a ``Continuation``
that is given at construction. Source: method.md, section 3 (ours, beyond the paper); the difference reward is that of
Wolpert & Tumer, "Optimal Payoff Functions for Members of Collectives" (2001), with silence as the default action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, groupby, product, repeat
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tracer_env.ballots import same_answer
from tracer_env.dialogue import acting_seats, advance, control_mask, initial_state, signed
from tracer_env.errors import ConfigError, check_integer
from tracer_env.infosets import feature_vector
from tracer_env.prompts import Prompt
from tracer_env.rewards.base import Costs, RewardKind, RewardScheme, charges, team_return
from tracer_env.tasks.base import ScriptedTask, Task
from tracer_env.types import Action, Control, DialogueState, Role, Rules, Seat, Turn, Utterance

__all__ = ["Continuation", "ContinuationScheme", "DifferenceRewards", "PotentialRewards", "SpeakPolicy"]

Continuation = Callable[[Prompt, Seat], Utterance]
"""Writes what a seat says after reading a prompt: how the branches of a live game go on."""

SpeakPolicy = Callable[[Seat, str, NDArray[np.float32], tuple[bool, bool]], float]
"""P(SPEAK) of a seat, given its information set, features and mask."""


class BoundGame(Protocol):
    """What a scheme needs of the game it pays for; ``tracer_env.Game`` has it."""

    rules: Rules
    task: Task
    script: ScriptedTask | None

    def prompt(self, state: DialogueState, seat: Seat) -> Prompt: ...
    def infoset(self, state: DialogueState, seat: Seat) -> str: ...


@runtime_checkable
class ContinuationScheme(RewardScheme, Protocol):
    """A scheme that plays branches on. ``Game`` binds it to itself and pays by what ``bind`` returns."""

    def bind(self, game: BoundGame) -> RewardScheme:
        """Return the scheme for one game.

        Raises:
            ConfigError: if the game cannot be played on.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Counterfactual:
    """What both schemes share. ``game`` is None until it is bound."""

    costs: Costs = Costs()
    continuation: Continuation | None = None
    kind: RewardKind = RewardKind.CONTINUATION
    game: BoundGame | None = None
    name: str = "counterfactual"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.costs, Costs):
            raise ConfigError(f"costs must be tracer_env.Costs(...), not {self.costs!r}.")
        if self.continuation is not None and not callable(self.continuation):
            raise ConfigError(
                f"continuation must be None or a callable (prompt, seat) -> Utterance, not {self.continuation!r}."
            )

    def turn_reward(self, before: DialogueState, turn: Turn) -> float:
        """There is no local reward.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"scheme {self.name!r} plays branches on; it cannot score a candidate from its text.")

    def _bound(self, game: BoundGame, what: str) -> Self:
        if game.script is None and self.continuation is None:
            raise ConfigError(
                f"rewards={self.name!r} has to know {what}. Play a 'recorded:' or 'simulated:' game, or pass "
                f"rewards={type(self).__name__}(continuation=...), a callable (prompt, seat) -> Utterance that writes "
                "the texts of a live game's branches."
            )
        return replace(self, game=game)

    def _game(self) -> BoundGame:
        if self.game is None:
            raise ConfigError(f"scheme {self.name!r} belongs to no game yet: pass it as rewards= of one.")
        return self.game

    def _say(self, state: DialogueState, seat: Seat) -> Utterance:
        game = self._game()
        if game.script is not None:
            return game.script.utterances(game.rules, state, seat)[0]
        assert self.continuation is not None  # bind has seen to it
        return self.continuation(game.prompt(state, seat), seat)

    def _play(self, state: DialogueState, controls: Mapping[Seat, Control]) -> DialogueState:
        """Play one round of controls; what is said is looked up or written."""
        game, actions = self._game(), {}
        for seat, control in controls.items():
            speaks = control is Control.SPEAK or not control_mask(state, seat)[0]
            actions[seat] = Action(Control.SPEAK, self._say(state, seat)) if speaks else Action(Control.SKIP)
        return advance(game.rules, game.task, state, actions)


def _rounds(state: DialogueState) -> list[list[Turn]]:
    return [list(turns) for _, turns in groupby(state.turns, key=lambda turn: turn.round)]


def _states(game: BoundGame, final: DialogueState) -> list[DialogueState]:
    """Return the state before each round of a transcript, and the one after the last."""
    states = [initial_state(final.question)]
    for turns in _rounds(final):
        actions = {turn.seat: Action(turn.control, turn.utterance) for turn in turns}
        states.append(advance(game.rules, game.task, states[-1], actions))
    return states


def _replaced(before: DialogueState, after: DialogueState) -> bool:
    """Return whether a proposal of the round in between has taken the place of the standing answer."""
    return after.standing is not None and after.standing.turn >= len(before.turns)


@dataclass(frozen=True, kw_only=True)
class PotentialRewards(_Counterfactual):
    """Pays by how the potential Φ = signed(standing answer), -1 while none stands, moves (method.md, section 3).

    The team increment Φ' - Φ of a round is split among those who spoke for the answer that then stands, less costs.
    The increments of an episode add up to signed(final) + 1 on every path. In a ballot reviews move the leader too;
    their increments go to all who spoke in that round.

    Beside that a reviewer is paid for its open critiques when a later proposal takes the standing answer's place: Φ
    then, less Φ had the open critiques been silent and everybody else's controls the same. Several share equally; a
    critique that is still open at the end is paid nothing.

    Attributes:
        costs: what speaking costs.
        continuation: writes the branches of a live game; not needed on recorded and simulated games, nor without
            reviewers.
    """

    name: str = "potential"

    def bind(self, game: BoundGame) -> PotentialRewards:
        """Return the scheme for one game; see ``ContinuationScheme.bind``."""
        if not game.rules.reviewers:
            return replace(self, game=game)
        return self._bound(game, "what would have been proposed without a review")

    def round_rewards(
        self, rules: Rules, before: DialogueState, turns: Sequence[Turn], after: DialogueState
    ) -> dict[Seat, float]:
        """Pay the increment and the reviews that it settles, and charge the costs."""
        pay = charges(self.costs, rules, turns)
        increment = signed(after.correct) - signed(before.correct)
        if increment:
            speakers = [turn for turn in turns if turn.spoke]
            winners = [turn for turn in speakers if self._stands(turn, after)] or speakers
            for turn in winners:
                pay[turn.seat] += increment / len(winners)
        if _replaced(before, after):
            for seat, value in self._reviews(after):
                pay[seat] += value
        return pay

    def _stands(self, turn: Turn, after: DialogueState) -> bool:
        return turn.seat.role is Role.PROPOSER and same_answer(self._game().task, turn.answer, after.answer)

    def _reviews(self, after: DialogueState) -> Iterator[tuple[Seat, float]]:
        """Yield what the open critiques are worth now that a proposal has taken the standing answer's place."""
        if not any(turn.spoke and turn.seat.role is Role.REVIEWER for turn in after.turns):
            return
        game, rounds, states = self._game(), _rounds(after), _states(self._game(), after)
        settled = next((r for r in range(len(rounds) - 1, 0, -1) if _replaced(states[r - 1], states[r])), 0)
        critiques = [t for turns in rounds[settled:] for t in turns if t.spoke and t.seat.role is Role.REVIEWER]
        if not critiques:
            return
        branch = states[critiques[0].round]
        for turns in rounds[branch.round :]:
            if branch.over:  # a stopping rule may end the branch earlier
                break
            controls = [Control.SKIP if turn in critiques else turn.control for turn in turns]
            # By position: who reviews may depend on who wrote the answer, which may differ in the branch. An own
            # schedule may even let more seats act there, which are silent, or fewer.
            padded = chain(controls, repeat(Control.SKIP))
            branch = self._play(branch, dict(zip(acting_seats(game.rules, branch), padded, strict=False)))
        worth = signed(after.correct) - signed(branch.correct)
        for turn in critiques:
            yield turn.seat, worth / len(critiques)


@dataclass(frozen=True, kw_only=True)
class DifferenceRewards(_Counterfactual):
    """Pays every turn what it added to the team return, at the end (method.md, section 3).

    A turn is paid E[U given the history and its action] - E[U given the history and SKIP at this turn only], both
    continued under ``policy``; the others' actions of the same round are what they were. So SKIP is paid 0, and so is
    a turn whose SKIP was masked. Costs are part of U and are not charged again.

    On recorded and simulated games the expectations are exact, at the price of about 2 to the number of turns left for
    each turn. Live they are means over ``branches`` continuations under common controls.

    Attributes:
        costs: what speaking costs; the scope must be ``"team"``.
        continuation: writes the branches of a live game; not needed on recorded and simulated games.
        policy: the controllers that both go on by, or one P(SPEAK) for all. A callable is asked again at
            every payment, so that a learner's current strategy can be passed.
        branches: continuations of each alternative in a live game, at least 1.
        seed: of the controls of these continuations.
    """

    name: str = "difference"
    policy: SpeakPolicy | float = 0.5
    branches: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.costs.scope != "team":
            raise ConfigError("scheme 'difference' pays shares of the common return: its cost scope must be 'team'.")
        if not (callable(self.policy) or (isinstance(self.policy, (int, float)) and 0.0 <= self.policy <= 1.0)):
            raise ConfigError(
                "policy must be a probability of SPEAK or a callable (seat, infoset, features, mask) -> P(SPEAK), "
                f"not {self.policy!r}."
            )
        for name, least in (("branches", 1), ("seed", 0)):
            check_integer(name, getattr(self, name), least)

    def bind(self, game: BoundGame) -> DifferenceRewards:
        """Return the scheme for one game; see ``ContinuationScheme.bind``."""
        return self._bound(game, "how the game goes on after a SKIP")

    def round_rewards(
        self, rules: Rules, before: DialogueState, turns: Sequence[Turn], after: DialogueState
    ) -> dict[Seat, float]:
        """Pay nothing before the end, then every turn of the episode."""
        pay = dict.fromkeys(rules.seats, 0.0)
        if after.over:
            for turn, value in self.turn_values(after):
                pay[turn.seat] += value
        return pay

    def turn_values(self, final: DialogueState) -> list[tuple[Turn, float]]:
        """Return what every turn of a finished game added.

        Args:
            final: the state after the last round.
        """
        game, values = self._game(), []
        states = _states(game, final)
        for turns, before, after in zip(_rounds(final), states, states[1:], strict=False):
            actions = {turn.seat: Action(turn.control, turn.utterance) for turn in turns}
            for turn in turns:
                value = 0.0
                if turn.spoke and control_mask(before, turn.seat)[0]:
                    silent = advance(game.rules, game.task, before, {**actions, turn.seat: Action(Control.SKIP)})
                    value = self._value(after, turn.index) - self._value(silent, turn.index)
                values.append((turn, value))
        return values

    def _value(self, state: DialogueState, turn: int) -> float:
        """Return E[U] from a state on."""
        if self._game().script is not None:
            return self._expected(state)
        return sum(self._sampled(state, (turn, k)) for k in range(self.branches)) / self.branches

    def _expected(self, state: DialogueState) -> float:
        if state.over:
            return team_return(state, self.costs)
        game, script = self._game(), self._game().script
        assert script is not None
        choices: list[list[tuple[float, Action]]] = []  # of each acting seat: what it may do, with its probability
        for seat in acting_seats(game.rules, state):
            speak = self._speak_prob(state, seat)
            said = script.outcomes(game.rules, state, seat) if speak > 0.0 else ()
            moves = [(speak * p, Action(Control.SPEAK, utterance)) for p, utterance in said]
            choices.append(moves if speak == 1.0 else [(1.0 - speak, Action(Control.SKIP)), *moves])
        total = 0.0
        for joint in product(*choices):
            actions = dict(zip(acting_seats(game.rules, state), (action for _, action in joint), strict=True))
            total += math.prod(p for p, _ in joint) * self._expected(advance(game.rules, game.task, state, actions))
        return total

    def _sampled(self, state: DialogueState, key: tuple[int, ...]) -> float:
        """Play on once. Both alternatives of a turn have the same key, hence the same draws."""
        rules = self._game().rules
        draws = np.random.default_rng([self.seed, _number(state.question.question_id), *key])
        uniform = draws.random((rules.rounds, len(rules.seats)))
        while not state.over:
            controls = {
                seat: Control(int(uniform[state.round, rules.seats.index(seat)] < self._speak_prob(state, seat)))
                for seat in acting_seats(rules, state)
            }
            state = self._play(state, controls)
        return team_return(state, self.costs)

    def _speak_prob(self, state: DialogueState, seat: Seat) -> float:
        game, mask = self._game(), control_mask(state, seat)
        if not mask[0]:
            return 1.0
        if not callable(self.policy):
            return float(self.policy)
        prob = self.policy(seat, game.infoset(state, seat), feature_vector(game.rules, state, seat), mask)
        if not 0.0 <= prob <= 1.0:
            raise ConfigError(f"the policy of scheme 'difference' gave {seat.name} the probability {prob!r}.")
        return float(prob)


def _number(text: str) -> int:
    """Return a number that depends on the text only."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
