"""The nouns of the game: questions, seats, actions, turns and the frozen dialogue state.

Owns data only. The rules that move a state forward are in ``dialogue.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "SILENCE",
    "Action",
    "Ballot",
    "Control",
    "DialogueState",
    "Proposal",
    "Question",
    "Role",
    "Rules",
    "Schedule",
    "Seat",
    "Turn",
    "Utterance",
    "Verdict",
]


class Control(IntEnum):
    """What a seat decides at its turn."""

    SKIP = 0
    SPEAK = 1


class Role(StrEnum):
    """What a seat does when it speaks."""

    PROPOSER = "proposer"
    REVIEWER = "reviewer"

    __hash__ = str.__hash__  # equal to the string, and five times as fast as Enum's own: every step looks roles up


class Verdict(StrEnum):
    """A reviewer's judgement of the standing answer."""

    RIGHT = "RIGHT"
    WRONG = "WRONG"

    __hash__ = str.__hash__


class Seat:
    """One chair at the table; bundle ``index`` is the pair of seats that share the index.

    Equal seats are one object, so that looking one up costs next to nothing: every step does it many times.

    Attributes:
        role: what it does.
        index: its number within the role, from 0.
        name: the PettingZoo agent id, for example ``proposer_0``.
    """

    __slots__ = ("index", "name", "role")
    _seats: ClassVar[dict[tuple[str, int], Seat]] = {}

    role: Role
    index: int
    name: str

    def __new__(cls, role: Role, index: int) -> Seat:
        """Return the one seat with this role and index."""
        seat = cls._seats.get((role, index))
        if seat is None:
            seat = super().__new__(cls)
            object.__setattr__(seat, "role", Role(role))
            object.__setattr__(seat, "index", int(index))
            object.__setattr__(seat, "name", f"{Role(role).value}_{index}")
            seat = cls._seats.setdefault((seat.role, seat.index), seat)
        return seat

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a seat cannot be changed: {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Stay the one seat through ``copy`` and multiprocessing."""
        return Seat, (self.role, self.index)

    def __repr__(self) -> str:
        return f"Seat({self.role.value!r}, {self.index})"


@dataclass(frozen=True, slots=True)
class Question:
    r"""One question with its gold answer.

    Attributes:
        question_id: unique within its task, stable between runs.
        text: what the team reads.
        gold: the gold answer, already reduced to the answer itself (``"18"``, ``"\frac{1}{2}"``, ``"C"``).
        kind: the answer kind (``number``, ``latex``, ``choice`` or a task's own).
    """

    question_id: str
    text: str
    gold: str
    kind: str = "number"


class Utterance(str):
    """Text with what its generator knows about it. The environments take a plain ``str`` as well.

    Every attribute is None when unknown.

    Attributes:
        tokens_in: prompt tokens read to write it.
        tokens_out: tokens generated, end-of-text included.
        mean_logprob: mean log-probability of its tokens, at most 0.
        min_logprob: smallest log-probability of its tokens, at most 0.
        p_right: probability that the verdict is RIGHT rather than WRONG, in [0, 1].
        truncated: True when generation stopped at its length limit.
    """

    tokens_in: int | None
    tokens_out: int | None
    mean_logprob: float | None
    min_logprob: float | None
    p_right: float | None
    truncated: bool | None

    def __new__(
        cls,
        text: str = "",
        *,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        mean_logprob: float | None = None,
        min_logprob: float | None = None,
        p_right: float | None = None,
        truncated: bool | None = None,
    ) -> Utterance:
        """Wrap ``text``; see the class for the fields."""
        self = super().__new__(cls, text)
        self.tokens_in = tokens_in
        self.tokens_out = tokens_out
        self.mean_logprob = mean_logprob
        self.min_logprob = min_logprob
        self.p_right = p_right
        self.truncated = truncated
        return self

    def with_text(self, text: str) -> Utterance:
        """Return the same facts around another text (used when a text is clipped)."""
        return Utterance(text, **self.facts())

    def facts(self) -> dict[str, Any]:
        """Return the generator's facts as keyword arguments."""
        return {
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "mean_logprob": self.mean_logprob,
            "min_logprob": self.min_logprob,
            "p_right": self.p_right,
            "truncated": self.truncated,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the facts through ``copy`` and multiprocessing."""
        return (_rebuild_utterance, (str(self), self.facts()))


def _rebuild_utterance(text: str, facts: dict[str, Any]) -> Utterance:
    return Utterance(text, **facts)


SILENCE = Utterance()
"""What a seat says that does not speak."""


class Action(NamedTuple):
    """What one acting seat does: a control, and a text that is used only when the control is SPEAK."""

    control: Control
    utterance: Utterance = SILENCE


class Turn(NamedTuple):
    """One seat's move as it stands in the transcript. ``correct`` and ``standing_correct`` are hidden from the players.

    A named tuple, as every step makes one: a frozen dataclass takes four times as long.

    Attributes:
        index: position in the transcript, from 0.
        round: round number, from 0 (even rounds propose when there are reviewers).
        seat: who moved.
        control: what was played, after the mask was applied.
        utterance: the text after clipping; empty for SKIP.
        answer: a proposal's parsed answer; None when unparsable, for reviews and for SKIP.
        verdict: a review's verdict; None when unparsable, for proposals and for SKIP.
        correct: for a spoken proposal, is the answer right; for a spoken review, does the verdict agree with
            the truth about the standing answer (False when unparsable); None for SKIP.
        standing_correct: whether the answer that stood before the turn was right (hidden as well); None when no
            valid answer stood. For a review under ``decide="ballot"``, of the newest proposal, which it judges.
        tokens_in: prompt tokens (0 when unknown).
        tokens_out: tokens generated, counted by ``count_tokens`` when the generator does not say.
        tokens_estimated: True when ``tokens_out`` was counted from the text.
        clipped: the text broke the text rule and was cut or repaired.
        control_corrected: SKIP was asked for while masked and SPEAK was played.
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which means nothing here
    round: int
    seat: Seat
    control: Control
    utterance: Utterance
    answer: str | None = None
    verdict: Verdict | None = None
    correct: bool | None = None
    standing_correct: bool | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_estimated: bool = False
    clipped: bool = False
    control_corrected: bool = False

    @property
    def spoke(self) -> bool:
        """True when the seat spoke."""
        return self.control is Control.SPEAK

    @property
    def invalid(self) -> bool:
        """True when the seat spoke and no answer or verdict could be read from its text."""
        return self.spoke and self.answer is None and self.verdict is None


class Proposal(NamedTuple):
    """The standing answer: what would be final if the game stopped now.

    Attributes:
        answer: the parsed answer; None only under ``on_invalid="replace"``.
        correct: whether it is right (hidden from the players).
        turn: index of the turn that wrote it.
        seat: its author.
        utterance: the solution text.
    """

    answer: str | None
    correct: bool
    turn: int
    seat: Seat
    utterance: Utterance


Schedule = Callable[["Rules", "DialogueState"], tuple[Seat, ...]]
"""Given the rules and a state that is not over, the seats that act in the current round (never empty)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """How proposals and verdicts weigh under ``decide="ballot"``, in log-odds (natural logarithm).

    The score of an answer is the sum over its proposals of ``prior`` plus, for each verdict on one of them,
    ``intercept + slope * log(p / (1 - p))`` with p the P(RIGHT) of the verdict, clipped to [0.001, 0.999]; or plus or
    minus ``verdict`` when it is unknown. An unparsable verdict weighs nothing.

    Attributes:
        prior: weight of a proposal, the log-odds that a fresh one is right. The default is 62 % right.
        intercept: calibration of P(RIGHT), additive.
        slope: calibration of P(RIGHT), multiplicative, at least 0.
        verdict: weight of a verdict without P(RIGHT), at least 0. The default is a judge that is right in 80 %.
    """

    prior: float = 0.49
    intercept: float = 0.0
    slope: float = 1.0
    verdict: float = 1.39


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything about the game that does not change during an episode. Checked by ``dialogue.check_rules``.

    Attributes:
        proposers: number of proposers ``P``, at least 1.
        reviewers: number of reviewers ``R``, at least 0.
        rounds: number of rounds ``T``, at least 1.
        schedule: ``"round_robin"``, ``"simultaneous"``, ``"reference"`` or a ``Schedule``.
        decide: how the standing answer is chosen: ``"last"`` (the last proposed answer) or ``"ballot"`` (the leader
            of a weighted ballot over all proposals, each a fresh solution; reviewers judge the newest one).
        on_invalid: what an unparsable proposal does to a valid standing answer: ``"keep"`` or ``"replace"``.
        ballot: weights of the ballot; used by ``decide="ballot"`` only.
        stop_after_skips: end after this many consecutive SKIPs; None never does.
        stop_at_votes: end when the absolute vote score reaches this; None never does.
        token_budget: truncate once this many generated tokens are spent; None never does.
        max_utterance_chars: texts longer than this are clipped.
        count_tokens: counts the tokens of a text whose generator does not say.
    """

    proposers: int = 1
    reviewers: int = 1
    rounds: int = 5
    schedule: str | Schedule = "round_robin"
    decide: str = "last"
    on_invalid: str = "keep"
    ballot: Ballot = Ballot()
    stop_after_skips: int | None = None
    stop_at_votes: int | None = None
    token_budget: int | None = None
    max_utterance_chars: int = 32_768
    count_tokens: Callable[[str], int] | None = None

    @cached_property
    def seats(self) -> tuple[Seat, ...]:
        """All seats: proposers first, then reviewers."""
        return self.seats_of[Role.PROPOSER] + self.seats_of[Role.REVIEWER]

    @cached_property
    def rounds_left(self) -> Mapping[Role, tuple[int, ...]]:
        """How many rounds of each role come after each round, and after the end: shape (T + 1,).

        Upper bounds under a user's schedule, which may give any round to either role.
        """
        after = (*range(self.rounds - 1, -1, -1), 0)
        if not isinstance(self.schedule, str):
            return dict.fromkeys(Role, after)
        propose = [self.reviewers == 0 or r % 2 == 0 for r in range(self.rounds)]
        left = tuple(sum(propose[r + 1 :]) for r in range(self.rounds + 1))
        return {Role.PROPOSER: left, Role.REVIEWER: tuple(n - k for n, k in zip(after, left, strict=True))}

    @cached_property
    def seats_of(self) -> Mapping[Role, tuple[Seat, ...]]:
        """The seats of each role, by index."""
        counts = {Role.PROPOSER: self.proposers, Role.REVIEWER: self.reviewers}
        return {role: tuple(Seat(role, k) for k in range(count)) for role, count in counts.items()}


class DialogueState(NamedTuple):
    """A running or finished game. Immutable: branching a game is keeping a reference. A named tuple, as ``Turn`` is.

    Attributes:
        question: what is being answered.
        turns: the transcript so far.
        round: the round about to be played, from 0; ``rounds`` when all have been played.
        standing: the standing answer, or None.
        votes: +1 per RIGHT and -1 per WRONG on the standing answer.
        margin: under ``decide="ballot"``, by how much the standing answer leads the next one, or its own score when
            there is no other, in log-odds; else 0.
        skips_in_a_row: consecutive SKIPs at the end of the transcript.
        tokens_in: prompt tokens of all played utterances.
        tokens_spent: generated tokens of all played utterances.
        calls_spent: number of utterances played.
        over: no seat acts any more.
        truncated: it ended because the token budget was spent.
    """

    question: Question
    turns: tuple[Turn, ...] = ()
    round: int = 0
    standing: Proposal | None = None
    votes: int = 0
    margin: float = 0.0
    skips_in_a_row: int = 0
    tokens_in: int = 0
    tokens_spent: int = 0
    calls_spent: int = 0
    over: bool = False
    truncated: bool = False

    @property
    def answer(self) -> str | None:
        """The standing answer; None while no valid one stands."""
        return None if self.standing is None else self.standing.answer

    @property
    def correct(self) -> bool:
        """True when the standing answer is right; no answer is not right."""
        return self.standing is not None and self.standing.correct


JointAction = Mapping[Seat, Action]
"""One action for every acting seat of a round."""
