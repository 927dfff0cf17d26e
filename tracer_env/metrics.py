"""What is measured from finished episodes (method.md, section 6), and its intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer_env.types import DialogueState, Role

__all__ = ["EpisodeMetrics", "accuracy_interval", "bootstrap_interval", "summarize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeMetrics:
    """The figures of one finished episode.

    Attributes:
        correct: the final answer is right.
        first: what the first proposal was: ``"right"``, ``"wrong"`` or ``"unparsable"``; None when nobody proposed.
        final_invalid: no valid answer stands at the end.
        tokens_out: tokens generated.
        tokens_in: prompt tokens read (0 when the generator does not say).
        calls: utterances.
        judged_right: reviews of a right standing answer.
        said_right: of these, verdict RIGHT (true positives).
        judged_wrong: reviews of a wrong standing answer; those made while no valid answer stood count nowhere.
        said_wrong: of these, verdict WRONG (true negatives).
        unparsable: utterances from which nothing could be read.
    """

    correct: bool
    first: str | None
    final_invalid: bool
    tokens_out: int
    tokens_in: int
    calls: int
    judged_right: int
    said_right: int
    judged_wrong: int
    said_wrong: int
    unparsable: int

    @classmethod
    def of(cls, state: DialogueState) -> EpisodeMetrics:
        """Measure one finished episode."""
        proposals = [t for t in state.turns if t.spoke and t.seat.role is Role.PROPOSER]
        reviews = [t for t in state.turns if t.spoke and t.seat.role is Role.REVIEWER]
        right = [t for t in reviews if t.standing_correct]
        wrong = [t for t in reviews if t.standing_correct is False]  # and not: nothing stood
        first = None
        if proposals:
            first = "unparsable" if proposals[0].answer is None else "right" if proposals[0].correct else "wrong"
        return cls(
            correct=state.correct,
            first=first,
            final_invalid=state.answer is None,
            tokens_out=state.tokens_spent,
            tokens_in=state.tokens_in,
            calls=state.calls_spent,
            judged_right=len(right),
            said_right=sum(bool(t.correct) for t in right),
            judged_wrong=len(wrong),
            said_wrong=sum(bool(t.correct) for t in wrong),
            unparsable=sum(t.invalid for t in state.turns),
        )


def accuracy_interval(num_right: int, num_questions: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Args:
        num_right: successes.
        num_questions: trials, at least 1.
        z: normal quantile; the default gives 95 %.

    Returns:
        Lower and upper bound, in [0, 1].

    Source: Wilson (1927).

    >>> tuple(round(x, 4) for x in accuracy_interval(50, 100))
    (0.4038, 0.5962)
    """
    if num_questions < 1:
        raise ValueError("an interval needs at least one question.")
    share, n = num_right / num_questions, num_questions
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: NDArray[np.float64], replicates: int, rng: np.random.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a mean, by drawing questions with all their replicates together.

    Args:
        values: one number for each world of a recording, shape (questions x replicates,), replicates side by side.
        replicates: of each question, at least 1.
        rng: draws the questions.
        draws: bootstrap samples.
    """
    by_question = values.reshape(-1, replicates).mean(axis=1)
    counts = rng.multinomial(len(by_question), np.full(len(by_question), 1.0 / len(by_question)), size=draws)
    low, high = np.quantile(counts @ by_question / len(by_question), [0.025, 0.975])
    return float(low), float(high)


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def summarize(episodes: Iterable[DialogueState | EpisodeMetrics]) -> dict[str, Any]:
    """Sum up finished episodes; a rate whose condition never occurred is None.

    Args:
        episodes: at least one finished state, or figures of one.

    Returns:
        ``num_questions``, ``accuracy``, ``accuracy_ci95`` (Wilson), ``tokens_per_question`` (generated),
        ``tokens_in_out_per_question`` (prompt and generated), ``calls_per_question``, ``first_accuracy``,
        ``correction`` (of first proposals that were wrong, ended right), ``preservation`` (of right ones, ended
        right), ``corruption`` (of right ones, ended wrong), ``first_unparsable``, ``final_invalid``,
        ``unparsable_per_call``, ``reviewer_tpr`` and ``reviewer_tnr`` (on the standing answers they judged).

    Raises:
        ValueError: if there are no episodes.
    """
    figures = [e if isinstance(e, EpisodeMetrics) else EpisodeMetrics.of(e) for e in episodes]
    if not figures:
        raise ValueError("there are no episodes to sum up.")
    n = len(figures)
    num_right = sum(e.correct for e in figures)
    first = {kind: [e for e in figures if e.first == kind] for kind in ("right", "wrong", "unparsable")}
    kept = sum(e.correct for e in first["right"])
    return {
        "num_questions": n,
        "accuracy": num_right / n,
        "accuracy_ci95": list(accuracy_interval(num_right, n)),
        "tokens_per_question": _total(figures, "tokens_out") / n,
        "tokens_in_out_per_question": (_total(figures, "tokens_in") + _total(figures, "tokens_out")) / n,
        "calls_per_question": _total(figures, "calls") / n,
        "first_accuracy": len(first["right"]) / n,
        "correction": _rate(sum(e.correct for e in first["wrong"]), len(first["wrong"])),
        "preservation": _rate(kept, len(first["right"])),
        "corruption": _rate(len(first["right"]) - kept, len(first["right"])),
        "first_unparsable": len(first["unparsable"]) / n,
        "final_invalid": sum(e.final_invalid for e in figures) / n,
        "unparsable_per_call": _rate(_total(figures, "unparsable"), _total(figures, "calls")),
        "reviewer_tpr": _rate(_total(figures, "said_right"), _total(figures, "judged_right")),
        "reviewer_tnr": _rate(_total(figures, "said_wrong"), _total(figures, "judged_wrong")),
    }


def _total(figures: Sequence[EpisodeMetrics], name: str) -> int:
    return sum(getattr(e, name) for e in figures)
