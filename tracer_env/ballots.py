"""The weighted ballot of ``decide="ballot"``: who leads, and by how much. Pure functions of the transcript.

Source: method.md, section 8 (ours, beyond the paper).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tracer_env.tasks.base import Task
from tracer_env.types import Ballot, Role, Turn, Verdict

__all__ = ["CLIP", "Tally", "same_answer", "tally", "verdict_weight"]

CLIP = 1e-3
"""P(RIGHT) is clipped to [CLIP, 1 - CLIP]: one verdict cannot decide alone for ever."""


def same_answer(task: Task, a: str | None, b: str | None) -> bool:
    """Return whether two answers count as one; no answer is the same as no answer only."""
    if a is None or b is None:
        return a is b
    return a == b or task.answers_match(a, b)


def verdict_weight(ballot: Ballot, turn: Turn) -> float:
    """Return what a review adds to the score of the answer it judges, in log-odds; 0 when unparsable."""
    if turn.verdict is None:
        return 0.0
    p_right = turn.utterance.p_right
    if p_right is None:
        return ballot.verdict if turn.verdict is Verdict.RIGHT else -ballot.verdict
    p_right = min(max(p_right, CLIP), 1.0 - CLIP)
    return ballot.intercept + ballot.slope * math.log(p_right / (1.0 - p_right))


@dataclass(slots=True)
class _Cluster:
    """All proposals of one answer, and the weights of these and of their verdicts."""

    first: Turn
    weights: list[float] = field(default_factory=list)
    votes: int = 0

    @property
    def score(self) -> float:
        """Their sum, rounded once: in whatever order the same weights came, a tie is a tie."""
        return math.fsum(self.weights)


@dataclass(frozen=True, slots=True)
class Tally:
    """The state of a ballot.

    Attributes:
        leader: the earliest proposal of the leading answer.
        margin: its score less that of the next answer, or its score when there is no other; log-odds.
        votes: verdicts RIGHT less verdicts WRONG on its proposals.
    """

    leader: Turn
    margin: float
    votes: int


def tally(ballot: Ballot, task: Task, turns: Sequence[Turn], standing: str | None = None) -> Tally | None:
    """Count the ballot.

    Args:
        ballot: the weights.
        task: compares answers.
        turns: the transcript; a review judges the last proposal before it.
        standing: the answer that stood so far: it stays in a tie; the next tie goes to the earliest proposal.

    Returns:
        The tally, or None while there is no valid proposal.
    """
    clusters: list[_Cluster] = []
    judged: _Cluster | None = None
    for turn in turns:
        if not turn.spoke:
            continue
        if turn.seat.role is Role.PROPOSER:
            judged = _cluster_of(task, clusters, turn)
            if judged is not None:
                judged.weights.append(ballot.prior)
        elif judged is not None:
            judged.weights.append(verdict_weight(ballot, turn))
            judged.votes += 0 if turn.verdict is None else 1 if turn.verdict is Verdict.RIGHT else -1
    if not clusters:
        return None
    # max takes the first of equals, and clusters are in order of their first proposal
    leader = max(clusters, key=lambda c: (c.score, same_answer(task, c.first.answer, standing)))
    others = [c.score for c in clusters if c is not leader]
    return Tally(leader.first, leader.score - max(others) if others else leader.score, leader.votes)


def _cluster_of(task: Task, clusters: list[_Cluster], turn: Turn) -> _Cluster | None:
    """Find or open the cluster of a proposal; an unparsable one has none."""
    if turn.answer is None:
        return None
    for cluster in clusters:
        if same_answer(task, turn.answer, cluster.first.answer):
            return cluster
    clusters.append(_Cluster(turn))
    return clusters[-1]
