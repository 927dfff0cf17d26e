"""What a controller may see: information-set keys and a float feature vector.

Both are functions of the public transcript only: never of the gold answer, of rewards, or of texts that do not
exist yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tracer_env.dialogue import is_last, judged_proposal, role_rounds_left
from tracer_env.types import DialogueState, Role, Rules, Seat, Turn

__all__ = ["ABSTRACTIONS", "FEATURES", "Feature", "feature_vector", "infoset_key"]


def _pending(state: DialogueState) -> str:
    if state.standing is None:
        return "no_pending"
    if state.standing.answer is None:
        return "invalid_pending"
    return f"votes={state.votes:+d}" if state.votes else "votes=0"


def _paper_key(rules: Rules, state: DialogueState, seat: Seat) -> str:
    time = "last" if is_last(rules, state) else "not_last"
    return f"{seat.role}|{_pending(state)}|{time}"


def _round_key(rules: Rules, state: DialogueState, seat: Seat) -> str:
    return f"{_paper_key(rules, state, seat)}|left={role_rounds_left(rules, state, seat.role)}"


def _history_key(rules: Rules, state: DialogueState, seat: Seat) -> str:
    """Name answers by order of first appearance, so that a key tells agreement but not the answer itself."""
    letters: dict[str, int] = {}
    events = []
    for turn in state.turns:
        who = f"{turn.seat.role.value[0]}{turn.seat.index}"
        events.append(f"{who}:{_event(turn, letters)}")
    return f"{seat.name}|{','.join(events) or 'start'}"


def _event(turn: Turn, letters: dict[str, int]) -> str:
    if not turn.spoke:
        return "skip"
    if turn.seat.role is Role.REVIEWER:
        return "unparsable" if turn.verdict is None else turn.verdict.value.lower()
    if turn.answer is None:
        return "invalid"
    return f"a{letters.setdefault(turn.answer, len(letters))}"


def _ballot_key(rules: Rules, state: DialogueState, seat: Seat) -> str:
    """The leader's margin in whole log-odds from 0 to 5, ballots cast, the last verdict, rounds left."""
    stands = _pending(state) if state.answer is None else f"margin={min(max(math.floor(state.margin), 0), 5)}"
    cast = sum(turn.answer is not None for turn in state.turns)
    last = next((turn for turn in reversed(state.turns) if turn.spoke), None)
    verdict = "none" if last is None or last.seat.role is Role.PROPOSER else _event(last, {})
    left = role_rounds_left(rules, state, seat.role)
    return f"{seat.role.value}|{stands}|ballots={cast}|verdict={verdict}|left={left}"


ABSTRACTIONS: Final[Mapping[str, Callable[[Rules, DialogueState, Seat], str]]] = {
    "paper": _paper_key,
    "round": _round_key,
    "history": _history_key,
    "ballot": _ballot_key,
}
"""Information-set abstractions by name.

* ``paper``: role, pending bucket (no_pending, invalid_pending or the vote score), last or not. Imperfect recall; one
  path can meet the same key twice (from five rounds on: a review round skipped, no new answer, a review round).
* ``round``: adds the number of rounds of the own role left, so that no path meets a key twice.
* ``history``: all public events in order, answers named by first appearance (perfect recall).
* ``ballot``: for ``decide="ballot"``: the leader's margin, ballots cast, the newest proposal's verdict, rounds left.
"""


def infoset_key(rules: Rules, state: DialogueState, seat: Seat, abstraction: str = "paper") -> str:
    """Return the key of the information set in which ``seat`` decides in ``state``.

    Raises:
        KeyError: if the abstraction is unknown (constructors check the name beforehand).
    """
    return ABSTRACTIONS[abstraction](rules, state, seat)


@dataclass(frozen=True, slots=True)
class Feature:
    """One entry of the feature vector.

    Attributes:
        name: its name.
        low: smallest value.
        high: largest value.
        meaning: what it measures, with its unit. An unknown value is 0 and its ``*_known`` flag is 0.
    """

    name: str
    low: float
    high: float
    meaning: str


_INF = float("inf")
FEATURES: Final[tuple[Feature, ...]] = (
    Feature("is_reviewer", 0, 1, "1 for a reviewer, 0 for a proposer"),
    Feature("answer_stands", 0, 1, "1 when a valid answer stands"),
    Feature("invalid_pending", 0, 1, "1 when only an unparsable proposal is pending"),
    Feature("votes", -_INF, _INF, "vote score of the standing answer"),
    Feature("rounds_left", 0, _INF, "rounds after this one"),
    Feature("is_last", 0, 1, "1 when no proposal round comes after this turn"),
    Feature("agreement", 0, 1, "share of the valid proposals so far whose answer text is the standing one"),
    Feature("proposals", 0, _INF, "valid proposals so far"),
    Feature("length", 0, _INF, "generated tokens of the standing solution"),
    Feature("mean_logprob", -_INF, 0, "mean token log-probability of the standing solution, nats"),
    Feature("min_logprob", -_INF, 0, "smallest token log-probability of the standing solution, nats"),
    Feature("logprob_known", 0, 1, "1 when both log-probabilities are known"),
    Feature("p_right", 0, 1, "P(RIGHT) of the last review of what is judged now"),
    Feature("p_right_known", 0, 1, "1 when that probability is known"),
    Feature("tokens_spent", 0, _INF, "generated tokens of the episode so far"),
)


def feature_vector(rules: Rules, state: DialogueState, seat: Seat) -> NDArray[np.float32]:
    """Return the features of ``FEATURES`` for ``seat`` in ``state``.

    Returns:
        float32, shape (len(FEATURES),).
    """
    standing, turns = state.standing, state.turns
    answer, length, mean_logprob, min_logprob = None, 0, None, None
    if standing is not None:
        answer = standing.answer
        length = turns[standing.turn].tokens_out
        mean_logprob, min_logprob = standing.utterance.mean_logprob, standing.utterance.min_logprob
    logprob_known = mean_logprob is not None and min_logprob is not None
    valid = [turn.answer for turn in turns if turn.answer is not None]
    p_right = _last_p_right(rules, state)
    return np.array(
        (
            seat.role is Role.REVIEWER,
            answer is not None,
            standing is not None and answer is None,
            state.votes,
            max(rules.rounds - 1 - state.round, 0),
            is_last(rules, state),
            valid.count(answer) / len(valid) if valid and answer is not None else 0.0,
            len(valid),
            length,
            mean_logprob if logprob_known else 0.0,
            min_logprob if logprob_known else 0.0,
            logprob_known,
            0.0 if p_right is None else p_right,
            p_right is not None,
            state.tokens_spent,
        ),
        np.float32,
    )


def _last_p_right(rules: Rules, state: DialogueState) -> float | None:
    judged = state.standing if rules.decide == "last" else judged_proposal(rules, state)
    since = -1 if judged is None else judged.turn
    for turn in reversed(state.turns):
        if turn.index == since:
            break
        if turn.control and turn.seat.role is Role.REVIEWER:
            return turn.utterance.p_right
    return None
