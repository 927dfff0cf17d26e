"""The rules of the game as pure functions over a frozen state: no randomness, no I/O, no prompts, no rewards.

A round is one step: ``advance`` takes one action for every seat that acts in it, so that a simultaneous round
is the general case and a round-robin round is the one with a single seat.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from tracer_env.answers import parse_verdict
from tracer_env.ballots import same_answer, tally
from tracer_env.errors import ActionError, ConfigError, UnknownNameError, check_integer
from tracer_env.tasks.base import Task
from tracer_env.types import (
    SILENCE,
    Action,
    Ballot,
    Control,
    DialogueState,
    JointAction,
    Proposal,
    Question,
    Role,
    Rules,
    Schedule,
    Seat,
    Turn,
    Verdict,
)

__all__ = [
    "SCHEDULES",
    "acting_seats",
    "advance",
    "check_ballot",
    "check_rules",
    "clean_text",
    "control_mask",
    "count_words",
    "initial_state",
    "is_last",
    "judged_proposal",
    "play_turn",
    "role_rounds_left",
    "round_role",
    "signed",
]

_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS = re.compile(r"\w+|[^\w\s]")


def signed(correct: bool) -> float:
    """Return +1.0 for right and -1.0 for wrong or missing (method: ``signed(a)``)."""
    return 1.0 if correct else -1.0


def count_words(text: str) -> int:
    """Count words and punctuation marks: the default estimate of a text's tokens.

    >>> count_words("17 + 5 = 22.")
    6
    """
    return sum(1 for _ in _WORDS.finditer(text))


def clean_text(text: str, max_chars: int) -> tuple[str, bool]:
    """Apply the text rule: lone surrogates become U+FFFD, and of a longer text both ends are kept.

    Args:
        text: any string.
        max_chars: the longest text allowed, at least 2.

    Returns:
        The clean text (at most ``max_chars`` characters) and whether anything was changed.
    """
    clean = text
    if len(clean) > max_chars:
        head = max_chars // 2
        clean = clean[:head] + clean[len(clean) - (max_chars - head) :]
    if not clean.isascii():
        clean = _SURROGATE.sub("\ufffd", clean)
    return clean, clean != text


# --- schedules -------------------------------------------------------------------------------------------------


def round_role(rules: Rules, round_index: int) -> Role:
    """Return which role acts in a round of a named schedule: even rounds (from 0) propose; all do without reviewers."""
    return Role.PROPOSER if rules.reviewers == 0 or round_index % 2 == 0 else Role.REVIEWER


def _round_robin(rules: Rules, state: DialogueState) -> tuple[Seat, ...]:
    index = state.round
    turn_of_role = index // 2 if rules.reviewers else index
    if index % 2 == 0 or not rules.reviewers:
        return (rules.seats_of[Role.PROPOSER][turn_of_role % rules.proposers],)
    seats = rules.seats_of[Role.REVIEWER]
    if len(seats) > 1 and state.standing is not None:
        author = state.standing.seat.index
        seats = tuple([seat for seat in seats if seat.index != author])
    return (seats[turn_of_role % len(seats)],)


def _simultaneous(rules: Rules, state: DialogueState) -> tuple[Seat, ...]:
    return rules.seats_of[round_role(rules, state.round)]


def _reference(rules: Rules, state: DialogueState) -> tuple[Seat, ...]:
    return (rules.seats_of[round_role(rules, state.round)][state.round % rules.proposers],)


SCHEDULES: Mapping[str, Schedule] = {
    "round_robin": _round_robin,
    "simultaneous": _simultaneous,
    "reference": _reference,
}


def check_rules(rules: Rules) -> None:
    """Check every setting of ``rules``.

    Raises:
        ConfigError: naming the setting, its value and what is allowed.
    """
    counts = {"proposers": 1, "reviewers": 0, "rounds": 1, "max_utterance_chars": 2}
    for name, least in counts.items():
        check_integer(name, getattr(rules, name), least)
    for name in ("stop_after_skips", "stop_at_votes", "token_budget"):
        value = getattr(rules, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be None or an integer of at least 1, not {value!r}.")
    if isinstance(rules.schedule, str):
        if rules.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", rules.schedule, SCHEDULES)
    elif not callable(rules.schedule):
        raise ConfigError(f"schedule must be a name or a callable (rules, state) -> seats, not {rules.schedule!r}.")
    if rules.schedule == "reference" and rules.proposers != rules.reviewers:
        raise ConfigError(
            f"schedule 'reference' pairs seats in bundles and needs as many proposers as reviewers, "
            f"not {rules.proposers} and {rules.reviewers}. Use 'round_robin'."
        )
    if rules.decide not in ("last", "ballot"):
        raise UnknownNameError("decide", rules.decide, ("last", "ballot"))
    if rules.on_invalid not in ("keep", "replace"):
        raise UnknownNameError("on_invalid", rules.on_invalid, ("keep", "replace"))
    if (rules.decide, rules.on_invalid) == ("ballot", "replace"):
        raise ConfigError("on_invalid='replace' has no meaning in a ballot: an unparsable proposal gets no ballot.")
    check_ballot(rules.ballot)
    if rules.count_tokens is not None and not callable(rules.count_tokens):
        raise ConfigError(f"count_tokens must be None or a callable text -> int, not {rules.count_tokens!r}.")


def check_ballot(ballot: Ballot) -> None:
    """Check the weights of a ballot.

    Raises:
        ConfigError: naming the weight, its value and what is allowed.
    """
    for name, least in (("prior", -math.inf), ("intercept", -math.inf), ("slope", 0.0), ("verdict", 0.0)):
        value = getattr(ballot, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
            raise ConfigError(f"ballot weight {name} must be a finite number of at least {least}, not {value!r}.")


# --- questions about a state -------------------------------------------------------------------------------------


def initial_state(question: Question) -> DialogueState:
    """Return the state before the first round."""
    return DialogueState(question=question)


def acting_seats(rules: Rules, state: DialogueState) -> tuple[Seat, ...]:
    """Return the seats that act in the current round, in acting order; empty when the game is over.

    Raises:
        ConfigError: if a user's schedule returns no seat, unknown or repeated seats, or mixes roles.
    """
    if state.over:
        return ()
    if isinstance(rules.schedule, str):
        return SCHEDULES[rules.schedule](rules, state)
    returned = rules.schedule(rules, state)
    seats = tuple(returned) if isinstance(returned, (tuple, list)) else ()
    if not seats or len(set(seats)) < len(seats) or not set(seats) <= set(rules.seats):
        raise ConfigError(
            f"schedule returned {returned!r}; it must return a tuple of different seats out of {rules.seats!r}."
        )
    if len({seat.role for seat in seats}) > 1:
        raise ConfigError(f"schedule returned {seats!r}; all seats of one round must have the same role.")
    return seats


def control_mask(state: DialogueState, seat: Seat) -> tuple[bool, bool]:
    """Return which controls (SKIP, SPEAK) an acting seat may play: a proposer may not SKIP while no answer stands."""
    return (seat.role is Role.REVIEWER or state.answer is not None, True)


def role_rounds_left(rules: Rules, state: DialogueState, role: Role) -> int:
    """Return how many rounds of ``role`` come after the current one (an upper bound under a user's schedule)."""
    return rules.rounds_left[role][state.round]


def is_last(rules: Rules, state: DialogueState) -> bool:
    """Return whether no proposal round comes after the current turn."""
    return rules.rounds_left[Role.PROPOSER][state.round] == 0


def judged_proposal(rules: Rules, state: DialogueState) -> Proposal | None:
    """Return what a reviewer judges: the standing answer, or in a ballot the newest proposal; None before the first."""
    if rules.decide == "last":
        return state.standing
    for turn in reversed(state.turns):
        if turn.spoke and turn.seat.role is Role.PROPOSER:
            return _proposal(turn)
    return None


def _proposal(turn: Turn) -> Proposal:
    return Proposal(turn.answer, bool(turn.correct), turn.index, turn.seat, turn.utterance)


# --- the transition ------------------------------------------------------------------------------------------------


def advance(rules: Rules, task: Task, state: DialogueState, actions: JointAction) -> DialogueState:
    """Play one round.

    Args:
        rules: the fixed rules.
        task: reads answers and compares them.
        state: a state that is not over.
        actions: one action for exactly the seats of ``acting_seats(rules, state)``.

    Returns:
        The state after the round; ``state`` is unchanged.

    Raises:
        ActionError: if the game is over, or seats are missing or do not act now.
    """
    seats = acting_seats(rules, state)
    if not seats:
        raise ActionError("the episode is over; call reset() before acting again.")
    if len(actions) != len(seats) or not all(map(actions.__contains__, seats)):
        raise ActionError(
            f"round {state.round} needs one action for each of {[s.name for s in seats]}, "
            f"got actions for {sorted(s.name for s in actions)}."
        )
    turns: tuple[Turn, ...] = ()
    for index, seat in enumerate(seats, len(state.turns)):
        turns += (play_turn(rules, task, state, seat, actions[seat], index),)
    standing, votes, margin = state.standing, state.votes, state.margin
    if rules.decide == "ballot":
        standing, votes, margin = _settle_ballot(rules, task, state, turns)
    elif seats[0].role is Role.PROPOSER:
        standing, votes = _settle_proposals(rules, task, state, turns)
    else:
        for turn in turns:
            votes += _VOTES[turn.verdict]
    return _after_round(rules, state, turns, standing, votes, margin)


_VOTES: Mapping[Verdict | None, int] = {Verdict.RIGHT: 1, Verdict.WRONG: -1, None: 0}


def play_turn(
    rules: Rules, task: Task, state: DialogueState, seat: Seat, action: Action, index: int | None = None
) -> Turn:
    """Judge one seat's move without playing the round: what a candidate would be worth as a turn.

    Args:
        rules: the fixed rules.
        task: reads answers and compares them.
        state: the state in which the seat acts.
        seat: who acts.
        action: what it does; a masked SKIP is played as SPEAK.
        index: position in the transcript; by default the next one.

    Returns:
        The turn, with its answer or verdict read and compared with the truth.
    """
    index = len(state.turns) if index is None else index
    proposes = seat.role is Role.PROPOSER
    may_skip, _ = control_mask(state, seat)
    judged = state.standing if proposes else judged_proposal(rules, state)
    standing_correct = None if judged is None or judged.answer is None else judged.correct
    if action.control is Control.SKIP and may_skip:
        return Turn(index, state.round, seat, Control.SKIP, SILENCE, standing_correct=standing_correct)
    text = action.utterance
    clean, clipped = clean_text(text, rules.max_utterance_chars)
    utterance = text if not clipped else text.with_text(clean)
    answer = verdict = None
    if proposes:
        answer = task.extract_answer(utterance)
        correct = task.answers_match(answer, state.question.gold)
    else:
        verdict = parse_verdict(utterance)
        correct = verdict is not None and (verdict is Verdict.RIGHT) == bool(standing_correct)
    tokens_out = utterance.tokens_out
    estimated = tokens_out is None
    counter: Callable[[str], int] = rules.count_tokens or count_words
    return Turn(
        index,
        state.round,
        seat,
        Control.SPEAK,
        utterance,
        answer,
        verdict,
        correct,
        standing_correct,
        utterance.tokens_in or 0,
        counter(utterance) if tokens_out is None else tokens_out,
        estimated,
        clipped,
        control_corrected=action.control is Control.SKIP,
    )


def _settle_proposals(
    rules: Rules, task: Task, state: DialogueState, turns: tuple[Turn, ...]
) -> tuple[Proposal | None, int]:
    """Count the round's ballots; return the standing answer and its votes (``decide="last"``)."""
    old = state.standing
    old_answer = None if old is None else old.answer
    if len(turns) == 1:  # the rule for many, without the count
        (turn,) = turns
        if not turn.control or (turn.answer is None and old_answer is not None and rules.on_invalid == "keep"):
            return old, state.votes
        unchanged = old is not None and same_answer(task, turn.answer, old_answer)
        return _proposal(turn), state.votes if unchanged else 0
    clusters: list[tuple[str | None, list[Turn]]] = []  # an answer and the ballots for it, in seat order
    for turn in turns:
        answer = turn.answer if turn.control else old_answer
        if answer is None and rules.on_invalid == "keep":
            continue  # flaw C16 of the public code: an unparsable proposal would erase a right answer
        for representative, ballots in clusters:
            if same_answer(task, answer, representative):
                ballots.append(turn)
                break
        else:
            clusters.append((answer, [turn]))
    if not clusters:
        if old_answer is not None:
            return old, state.votes
        clusters = [(None, list(turns))]  # nothing valid stands or was said: an invalid answer is pending
    winner, ballots = clusters[0]
    if len(clusters) > 1:
        winner, ballots = max(
            clusters,
            key=lambda c: (c[0] is not None, len(c[1]), old is not None and same_answer(task, c[0], old_answer)),
        )
    first = next((turn for turn in ballots if turn.spoke), None)
    if first is None:
        return old, state.votes
    unchanged = old is not None and same_answer(task, winner, old_answer)
    return _proposal(first), state.votes if unchanged else 0


def _settle_ballot(
    rules: Rules, task: Task, state: DialogueState, turns: tuple[Turn, ...]
) -> tuple[Proposal | None, int, float]:
    """Count the ballot over all proposals; return its leader, the votes on it and its margin (``decide="ballot"``)."""
    result = tally(rules.ballot, task, (*state.turns, *turns), standing=state.answer)
    if result is not None:
        return _proposal(result.leader), result.votes, result.margin
    proposals = [turn for turn in turns if turn.spoke and turn.seat.role is Role.PROPOSER]
    return _proposal(proposals[-1]) if proposals else state.standing, state.votes, state.margin


def _after_round(
    rules: Rules, before: DialogueState, turns: tuple[Turn, ...], standing: Proposal | None, votes: int, margin: float
) -> DialogueState:
    skips, tokens_in, tokens_spent, calls_spent = (
        before.skips_in_a_row, before.tokens_in, before.tokens_spent, before.calls_spent
    )  # fmt: skip
    for turn in turns:
        if turn.control:
            skips = 0
            calls_spent += 1
            tokens_in += turn.tokens_in
            tokens_spent += turn.tokens_out
        else:
            skips += 1
    next_round = before.round + 1
    ended = (
        next_round >= rules.rounds
        or (rules.stop_after_skips is not None and skips >= rules.stop_after_skips)
        or (rules.stop_at_votes is not None and abs(votes) >= rules.stop_at_votes)
    )
    truncated = not ended and rules.token_budget is not None and tokens_spent >= rules.token_budget
    return DialogueState(
        before.question,
        before.turns + turns,
        next_round,
        standing,
        votes,
        margin,
        skips,
        tokens_in,
        tokens_spent,
        calls_spent,
        ended or truncated,
        truncated,
    )
