"""Teams of known probabilities: no texts worth reading, but every expectation can be computed.

What is said depends on the question only through right and wrong, so a simulated team is a small model of a real one
in which optima are known (method.md, section 7). The probabilities of a real team can be estimated from a recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final

from tracer_env.answers import extract_answer
from tracer_env.dialogue import judged_proposal
from tracer_env.errors import ConfigError, UnknownNameError, check_integer
from tracer_env.types import DialogueState, Proposal, Question, Role, Rules, Seat, Utterance, Verdict

__all__ = ["SIMULATED_TEAMS", "SimulatedTask", "SimulatedTeam", "last_verdict"]

_RIGHT, _COMMON_WRONG = "1", "2"
"""The right answer of every question, and the wrong one that is given again and again. Others are told by turn."""

_REVISED: Final = MappingProxyType(
    {
        (True, None): 0.80,
        (True, Verdict.RIGHT): 0.90,
        (True, Verdict.WRONG): 0.65,
        (False, None): 0.30,
        (False, Verdict.RIGHT): 0.20,
        (False, Verdict.WRONG): 0.45,
    }
)


@dataclass(frozen=True, kw_only=True)
class SimulatedTeam:
    """The probabilities of a team. All seats of a role are alike.

    Attributes:
        first_right: P(right) of a proposal while no valid answer stands, and of every proposal in a ballot.
        revised_right: P(the next proposal is right), by whether the standing answer is right and by the last verdict
            on it: ``{(standing right, verdict or None): probability}``, six entries.
        says_right_if_right: P(verdict RIGHT) about a right answer.
        says_wrong_if_wrong: P(verdict WRONG) about a wrong or missing answer.
        persistence: P(a further verdict on the same standing proposal repeats the last one); else it is drawn anew.
        common_wrong: P(a wrong proposal is the question's common wrong answer); else it is one never seen before.
        invalid: P(a proposal is unparsable).
        unparsable: P(a review is unparsable).
        proposal_tokens: generated tokens of a proposal.
        right_tokens: generated tokens of a review that says RIGHT.
        wrong_tokens: generated tokens of a review that says WRONG or cannot be parsed.
    """

    first_right: float = 0.62
    revised_right: Mapping[tuple[bool, Verdict | None], float] = field(default_factory=lambda: _REVISED)
    says_right_if_right: float = 0.80
    says_wrong_if_wrong: float = 0.80
    persistence: float = 0.50
    common_wrong: float = 0.30
    invalid: float = 0.02
    unparsable: float = 0.0
    proposal_tokens: int = 48
    right_tokens: int = 2
    wrong_tokens: int = 16

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        expected = {(right, verdict) for right in (True, False) for verdict in (None, *Verdict)}
        if set(self.revised_right) != expected:
            raise ConfigError(f"revised_right needs exactly the keys {sorted(map(str, expected))}.")
        object.__setattr__(self, "revised_right", MappingProxyType(dict(self.revised_right)))
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.endswith("_tokens"):
                check_integer(f.name, value, 0)
                continue
            for rate in value.values() if isinstance(value, Mapping) else (value,):
                if not 0.0 <= rate <= 1.0:
                    raise ConfigError(f"{f.name} must be a probability in [0, 1], not {rate!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as keyword arguments: a read-only mapping cannot be pickled."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return _rebuild_team, ({**settings, "revised_right": dict(self.revised_right)},)

    def proposal(self, standing: Proposal | None, verdict: Verdict | None) -> float:
        """Return P(right) of a parsable proposal, given what stands and the last verdict on it."""
        if standing is None or standing.answer is None:
            return self.first_right
        return self.revised_right[standing.correct, verdict]

    def verdict_rates(self, right: bool, last: Verdict | None) -> dict[Verdict | None, float]:
        """Return the probabilities of RIGHT, WRONG and unparsable (None), given the truth and the last verdict."""
        says_right = self.says_right_if_right if right else 1.0 - self.says_wrong_if_wrong
        fresh = {Verdict.RIGHT: says_right, Verdict.WRONG: 1.0 - says_right}
        repeat = 0.0 if last is None else self.persistence
        said = {v: repeat * (v is last) + (1.0 - repeat) * p for v, p in fresh.items()}
        return {**{v: (1.0 - self.unparsable) * p for v, p in said.items()}, None: self.unparsable}


def _rebuild_team(settings: Mapping[str, Any]) -> SimulatedTeam:
    return SimulatedTeam(**settings)


SIMULATED_TEAMS: Final[Mapping[str, SimulatedTeam]] = {
    "default": SimulatedTeam(),
    "weak-judge": SimulatedTeam(says_right_if_right=0.62, says_wrong_if_wrong=0.55, persistence=0.8),
    "good-judge": SimulatedTeam(says_right_if_right=0.95, says_wrong_if_wrong=0.95, persistence=0.0),
}
"""Simulated teams by name. ``default`` is about the small model of this project: 62 % right, a judge of 80/80."""


class SimulatedTask:
    """The questions of a simulated team: an endless stream, each with its own hidden draws.

    What a seat would say is a function of the question's index, the round and the seat, so that both controls of a
    decision can be played on under common random numbers.
    """

    split = "train"
    kind = "number"
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, team: SimulatedTeam | str = "default") -> None:
        """Take a team, or the name of one.

        Raises:
            UnknownNameError: if the name is not one of ``SIMULATED_TEAMS``.
        """
        if isinstance(team, str):
            if team not in SIMULATED_TEAMS:
                raise UnknownNameError("simulated team", team, SIMULATED_TEAMS)
            self.name, self.team = f"simulated:{team}", SIMULATED_TEAMS[team]
        else:
            self.name, self.team = "simulated", team

    def num_questions(self) -> int | None:
        """The stream is endless."""
        return None

    def question(self, index: int) -> Question:
        """Return question ``index``."""
        if index < 0:
            raise IndexError(f"questions of {self.name} have indices of at least 0, not {index}.")
        return Question(f"{self.name}/{index}", "A simulated question.", _RIGHT, self.kind)

    def extract_answer(self, text: str) -> str | None:
        """Return the stated number."""
        return _extract(text)

    def answers_match(self, prediction: str | None, gold: str) -> bool:
        """Return whether two answers are the same; they are written in one way only."""
        return prediction is not None and prediction == gold

    def worlds(self) -> Sequence[tuple[float, Question]]:
        """There is one kind of question."""
        return ((1.0, self.question(0)),)

    def outcomes(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[tuple[float, Utterance]]:
        """Return what a seat may say, with its probabilities; those of probability 0 are left out."""
        said = self._reviews(rules, state) if seat.role is Role.REVIEWER else self._proposals(rules, state, seat)
        return [(p, utterance) for p, utterance in said if p > 0.0]

    def utterances(self, rules: Rules, state: DialogueState, seat: Seat) -> Sequence[Utterance]:
        """Return what the seat says: drawn from ``outcomes`` by question, round and seat."""
        index = state.question.question_id.rpartition("/")[2]
        outcomes = self.outcomes(rules, state, seat)
        left = _uniform(f"{index}/{state.round}/{seat.name}")
        for probability, utterance in outcomes:
            left -= probability
            if left < 0.0:
                return (utterance,)
        return (outcomes[-1][1],)

    def _proposals(self, rules: Rules, state: DialogueState, seat: Seat) -> list[tuple[float, Utterance]]:
        standing = state.standing if rules.decide == "last" else None
        right = self.team.proposal(standing, last_verdict(rules, state))
        valid, tokens = 1.0 - self.team.invalid, self.team.proposal_tokens
        other = str(1000 * (state.round + 1) + seat.index)
        shares = {
            _RIGHT: valid * right,
            _COMMON_WRONG: valid * (1.0 - right) * self.team.common_wrong,
            other: valid * (1.0 - right) * (1.0 - self.team.common_wrong),
        }
        said = [(p, Utterance(f"#### {answer}", tokens_out=tokens)) for answer, p in shares.items()]
        return [*said, (self.team.invalid, Utterance("I do not know.", tokens_out=tokens))]

    def _reviews(self, rules: Rules, state: DialogueState) -> list[tuple[float, Utterance]]:
        judged = judged_proposal(rules, state)
        right = judged is not None and judged.correct
        texts = {
            Verdict.RIGHT: Utterance(Verdict.RIGHT.value, tokens_out=self.team.right_tokens),
            Verdict.WRONG: Utterance(Verdict.WRONG.value, tokens_out=self.team.wrong_tokens),
            None: Utterance("Perhaps.", tokens_out=self.team.wrong_tokens),
        }
        rates = self.team.verdict_rates(right, last_verdict(rules, state))
        return [(p, texts[verdict]) for verdict, p in rates.items()]


def last_verdict(rules: Rules, state: DialogueState) -> Verdict | None:
    """Return the last parsable verdict on the proposal that is judged now; None when there is none."""
    judged = judged_proposal(rules, state)
    since = -1 if judged is None else judged.turn
    for turn in reversed(state.turns[since + 1 :]):
        if turn.verdict is not None:
            return turn.verdict
    return None


@lru_cache(maxsize=4096)
def _extract(text: str) -> str | None:
    return extract_answer(text, SimulatedTask.kind)


def _uniform(key: str) -> float:
    """Return a number in [0, 1) that depends on the key only."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
