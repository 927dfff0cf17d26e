"""Transcripts of the arithmetic game, written by simulated learners and an exact judge.

The tiny model is meant to be improvable, so the corpus imitates text of mixed quality. First solutions hold slips
at the rates of ``Slips``; two kinds of sentence are misread more often than not, so that greedy decoding is wrong
there as well. What the judge is trained to say is always true; what *stands in the transcript* as a review is
sometimes mistaken, so that a proposer learns not to follow every review.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tracer_env.dialogue import acting_seats, advance, control_mask, initial_state
from tracer_env.prompts import Prompt, build_prompt
from tracer_env.tasks.arithmetic import ArithmeticTask, Plan, Step
from tracer_env.types import Action, Control, DialogueState, Question, Role, Rules, Seat, Turn, Utterance, Verdict

__all__ = [
    "Example",
    "Slips",
    "first_failing_line",
    "first_solution",
    "review",
    "solution_lines",
    "transcripts",
    "true_lines",
]


@dataclass(frozen=True, kw_only=True)
class Slips:
    """The learners' habits, all probabilities.

    Attributes:
        misread: per construct: the sentence is misread (see ``_misread``).
        overlooked: a sentence of gaining or losing is left out.
        miscalculated: an equation's result is wrong (mostly a forgotten carry or borrow).
        second_look: factor on all of these in a solution written after a review.
        follow_true: after a justified WRONG the named line is taken over.
        follow_mistaken: after a mistaken WRONG its line is taken over (otherwise the solution is kept).
        false_wrong: a review in the transcript calls a right answer WRONG.
        false_right: a review in the transcript calls a wrong answer RIGHT.
    """

    misread: Mapping[str, float] = field(
        default_factory=lambda: {
            "reversed_more": 0.72, "reversed_fewer": 0.72, "fewer": 0.02, "more": 0.02,
            "times": 0.1, "groups_in": 0.1, "groups_out": 0.1, "share": 0.1,
        }
    )  # fmt: skip
    overlooked: float = 0.015
    miscalculated: float = 0.01
    second_look: float = 0.35
    follow_true: float = 0.9
    follow_mistaken: float = 0.12
    false_wrong: float = 0.13
    false_right: float = 0.13


@dataclass(frozen=True)
class Example:
    """What a seat reads and what the model learns to write there."""

    prompt: Prompt
    utterance: str
    role: Role


# --- solutions -----------------------------------------------------------------------------------------------------


def true_lines(plan: Plan) -> list[str]:
    """Return the right solution, one line per equation and the answer line.

    >>> true_lines(Plan(17, (Step("gain", 38), Step("loss", 19))))
    ['17 + 38 = 55', '55 - 19 = 36', '#### 36']
    """
    return [f"{a} {op} {b} = {c}" for a, op, b, c in plan.equations()] + [f"#### {plan.answer}"]


def solution_lines(
    plan: Plan, slips: Slips, rng: np.random.Generator, *, scale: float = 1.0, given: tuple[str, ...] = ()
) -> list[str]:
    """Let a learner write a solution.

    Args:
        plan: the question.
        slips: the learner's habits.
        rng: source of randomness.
        scale: factor on the slip rates.
        given: the first equations, taken as they are.

    Returns:
        The lines, the answer line last.
    """
    lines: list[str] = []
    value = plan.start
    for step in plan.steps:
        true = step.equations(value)
        if len(lines) >= len(given) and step.construct in ("gain", "loss") and rng.random() < scale * slips.overlooked:
            continue
        misread = rng.random() < scale * slips.misread.get(step.construct, 0.0)
        operand, op, other, _ = true[0]
        if misread:
            op = _misread(step, op)
        result = _write(lines, given, operand, op, other, rng, scale * slips.miscalculated)
        if step.size:
            result = _write(lines, given, value, true[1][1], result, rng, scale * slips.miscalculated)
        value = result
    return [*lines, f"#### {value}"]


def _misread(step: Step, op: str) -> str:
    """More and fewer are swapped; times and groups are added instead; a share is taken away."""
    return {"+": "-", "-": "+", "*": "+", "/": "-"}[op]


_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def _write(
    lines: list[str], given: tuple[str, ...], a: int, op: str, b: int, rng: np.random.Generator, slip_rate: float
) -> int:
    if len(lines) < len(given):
        lines.append(given[len(lines)])
        return int(lines[-1].rsplit("= ", 1)[1])
    if op == "-" and a < b:
        a, b = b, a  # learners know no negative numbers: the smaller is taken from the larger
    result = _OPERATORS[op](a, b)
    if rng.random() < slip_rate:
        result = _miscalculate(a, op, b, result, rng)
    lines.append(f"{a} {op} {b} = {result}")
    return result


def _miscalculate(a: int, op: str, b: int, result: int, rng: np.random.Generator) -> int:
    if op == "+" and a % 10 + b % 10 >= 10:
        return result - 10  # forgotten carry
    if op == "-" and a % 10 < b % 10:
        return result + 10  # forgotten borrow
    off = {"+": 1, "-": 1, "*": b, "/": 1}[op]
    return result - off if result > off and rng.random() < 0.5 else result + off


def first_failing_line(plan: Plan, solution: str) -> int | None:
    """Return the index of the first line that differs from the right solution, or None."""
    lines = [line.strip() for line in solution.strip().split("\n")]
    for i, line in enumerate(true_lines(plan)):
        if i >= len(lines) or lines[i] != line:
            return i
    return None


# --- reviews ---------------------------------------------------------------------------------------------------------


def review(plan: Plan, solution: str, correct: bool) -> str:
    """Return the true review: a verdict and, after WRONG, the first failing line put right."""
    if correct:
        return Verdict.RIGHT.value
    failing = first_failing_line(plan, solution)
    line = true_lines(plan)[-1 if failing is None else failing]
    return _critique(0 if failing is None else failing, line)


def _critique(index: int, line: str) -> str:
    line = line.replace("#### ", "the answer is ")
    return f"{Verdict.WRONG.value}\nStep {index + 1}: {line}"


def _mistaken_critique(plan: Plan, slips: Slips, rng: np.random.Generator) -> str:
    """Name a line of the right solution and give a slip for it."""
    true = true_lines(plan)
    for scale in (1.0, 2.0, 4.0, 8.0, 40.0):
        wrong = solution_lines(plan, slips, rng, scale=scale)
        index = first_failing_line(plan, "\n".join(wrong))
        if index is not None and index < len(true) - 1 and index < len(wrong) - 1:
            return _critique(index, wrong[index])
    return Verdict.WRONG.value


# --- what a seat writes ----------------------------------------------------------------------------------------------


def _last_review(state: DialogueState) -> Turn | None:
    """Return the last review of the standing solution that has a verdict."""
    if state.standing is None:
        return None
    reviews = [t for t in state.turns[state.standing.turn + 1 :] if t.spoke and t.seat.role is Role.REVIEWER]
    return next((t for t in reversed(reviews) if t.verdict is not None), None)


def _propose(plan: Plan, state: DialogueState, slips: Slips, rng: np.random.Generator) -> str:
    verdict = _last_review(state)
    if verdict is None or state.standing is None:
        return "\n".join(solution_lines(plan, slips, rng))
    standing = str(state.standing.utterance)
    if verdict.verdict is Verdict.RIGHT:
        return standing
    true = true_lines(plan)
    if state.standing.correct:
        named = _named_line(str(verdict.utterance))
        if named is None or rng.random() >= slips.follow_mistaken:
            return standing
        given = (*true[: named[0]], named[1])
    else:
        failing = first_failing_line(plan, standing)
        given = tuple(true[:failing])
        if failing is not None and _justified(plan, standing, verdict) and rng.random() < slips.follow_true:
            given = (*given, true[failing])
    return "\n".join(solution_lines(plan, slips, rng, scale=slips.second_look, given=given))


def _justified(plan: Plan, standing: str, verdict: Turn) -> bool:
    return str(verdict.utterance) == review(plan, standing, False)


def _named_line(text: str) -> tuple[int, str] | None:
    """Read ``Step <k>: <equation>`` from a critique."""
    head, _, line = text.partition("\n")[2].partition(": ")
    if not head.startswith("Step ") or " = " not in line:
        return None
    return int(head.removeprefix("Step ")) - 1, line


def _transcript_review(plan: Plan, state: DialogueState, slips: Slips, rng: np.random.Generator) -> str:
    """What is played: the true review, or at the stated rates a mistaken one."""
    assert state.standing is not None
    if state.standing.correct:
        return _mistaken_critique(plan, slips, rng) if rng.random() < slips.false_wrong else Verdict.RIGHT.value
    if rng.random() < slips.false_right:
        return Verdict.RIGHT.value
    return review(plan, str(state.standing.utterance), False)


# --- games -----------------------------------------------------------------------------------------------------------

_SHAPES = (  # share, rules
    (0.30, Rules(rounds=5)),
    (0.30, Rules(rounds=3)),
    (0.10, Rules(rounds=7)),
    (0.08, Rules(reviewers=0, rounds=3)),
    (0.08, Rules(proposers=2, reviewers=1, rounds=5)),
    (0.08, Rules(proposers=2, reviewers=2, rounds=5)),
    (0.06, Rules(proposers=1, reviewers=2, rounds=5)),
)


def _play(
    task: ArithmeticTask,
    question: Question,
    plan: Plan,
    rules: Rules,
    speak_prob: float,
    slips: Slips,
    rng: np.random.Generator,
    first: str | None,
) -> list[Example]:
    examples: list[Example] = []
    state = initial_state(question)
    while not state.over:
        actions: dict[Seat, Action] = {}
        for seat in acting_seats(rules, state):
            may_skip = control_mask(state, seat)[0]
            if may_skip and rng.random() >= speak_prob:
                actions[seat] = Action(Control.SKIP)
                continue
            prompt = build_prompt(state, seat, task.kind)
            if seat.role is Role.PROPOSER:
                taught = played = _propose(plan, state, slips, rng)
                if first is not None and not state.turns:
                    played = first
            elif state.standing is None or state.standing.answer is None:
                taught = played = Verdict.WRONG.value
            else:
                taught = review(plan, str(state.standing.utterance), state.correct)
                played = _transcript_review(plan, state, slips, rng)
            examples.append(Example(prompt, taught, seat.role))
            actions[seat] = Action(Control.SPEAK, Utterance(played))
        state = advance(rules, task, state, actions)
    return examples


def first_solution(task: ArithmeticTask, index: int, slips: Slips, rng: np.random.Generator) -> list[Example]:
    """Return a question's first proposal alone, the shortest game of all."""
    return _play(task, task.question(index), task.plan(index), Rules(rounds=1), 1.0, slips, rng, None)


def transcripts(
    task: ArithmeticTask,
    index: int,
    slips: Slips,
    rng: np.random.Generator,
    firsts: tuple[str, ...] = (),
) -> tuple[list[Example], list[Example]]:
    """Play two games of one question: one of a random shape with random controls, one of three spoken turns.

    Args:
        task: where the question comes from.
        index: which question.
        slips: the writers' habits.
        rng: source of randomness.
        firsts: if given, one of these stands as the first proposal of each game in turn (the model's own samples);
            what is *taught* as a first proposal is always a learner's.

    Returns:
        The examples of each game.
    """
    question, plan = task.question(index), task.plan(index)
    rules = _SHAPES[int(rng.choice(len(_SHAPES), p=[share for share, _ in _SHAPES]))][1]
    own: tuple[str | None, str | None] = (firsts[0], firsts[-1]) if firsts else (None, None)
    return (
        _play(task, question, plan, rules, 0.85, slips, rng, own[0]),
        _play(task, question, plan, Rules(rounds=3), 1.0, slips, rng, own[1]),
    )
