"""Calibration of the ballot: the weights of proposals and verdicts, fitted on the questions of a recorded pool.

With y = 1 for a right proposal and p the P(RIGHT) of one verdict on it, logistic regression on x = log(p / (1 - p)) and
the log-odds of a fresh proposal give the weights::

    logit P(y = 1 | x) = a + b x,      prior = logit P(y = 1),      intercept = a - prior,      slope = b

so that ``prior + intercept + slope x`` is the calibrated log-odds of a proposal with one verdict. A verdict without
P(RIGHT) is a judge with the rates TPR = P(RIGHT | y = 1) and TNR = P(WRONG | y = 0); a ballot weighs both words alike,
so it gets the mean of what they are worth, half the log diagnostic odds ratio::

    verdict = (log TPR / (1 - TNR) + log TNR / (1 - TPR)) / 2 = (logit TPR + logit TNR) / 2

Proposals without an answer have no ballot and unparsable verdicts weigh nothing, so neither is fitted on. All fits
maximise the likelihood times Jeffreys' prior. It keeps every weight finite, whatever the data, and for shares it adds
one half to each count.

Sources: method.md, section 8; Platt 1999 (logistic calibration); Firth 1993 (Jeffreys' prior).
Promises: calibrated for one proposal with one verdict. A ballot adds weights up as if they were independent: several
proposals of one answer are not when wrong answers agree, and several verdicts on one proposal are not when the judge
repeats itself (the same prompt has one P(RIGHT)).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tracer_env.ballots import CLIP
from tracer_env.dialogue import check_ballot
from tracer_env.errors import ConfigError
from tracer_env.recordings import Recording
from tracer_env.tasks.recorded import RecordedTask
from tracer_env.types import Ballot

__all__ = ["fit_ballot", "fit_logistic", "log_odds", "verdict_log_odds"]

# shape legend: n observations, d columns, U = Q M proposals, V reviews of each

_STEPS = 100
_TOLERANCE = 1e-10


def fit_ballot(source: Recording | RecordedTask) -> Ballot:
    """Fit the weights of a ballot on all questions of a recorded pool: take a recording of training questions.

    Args:
        source: a recording with ``decide="ballot"``, or the task that plays it (``game.task``).

    Returns:
        The weights, in the ranges of ``check_ballot``. Where the judge is worse than chance, ``slope`` or ``verdict``
        is 0. What the recording says nothing about keeps its default: ``intercept`` and ``slope`` without any
        P(RIGHT), all but ``prior`` without reviews.

    Raises:
        ConfigError: if it is no recorded pool, or holds no valid proposal.
    """
    recording = source.recording if isinstance(source, RecordedTask) else source
    if not isinstance(recording, Recording) or recording.manifest["settings"]["decide"] != "ballot":
        raise ConfigError(
            "a ballot is fitted on a recorded pool: make one with tracer record --decide ballot, and take "
            "load_recording(path), or Game('recorded:...').task."
        )
    valid = np.array([answer is not None for answer in recording.proposals.answer], dtype=np.bool_)
    right = recording.proposals.correct == 1
    if not valid.any():
        raise ConfigError("the pool has no valid proposal to fit on; record one with a larger --max-new-tokens.")
    prior = log_odds(int(right[valid].sum()), int(valid.sum()))
    reviews = int(recording.manifest["reviews"])
    verdict = recording.reviews.verdict
    judged = np.repeat(valid, reviews) & (verdict >= 0)
    if not judged.any():
        return _checked(Ballot(prior=prior))
    said_right, truth = verdict[judged] == 1, np.repeat(right, reviews)[judged]
    p_right = recording.reviews.p_right[judged].astype(np.float64)
    known = ~np.isnan(p_right)
    intercept, slope = Ballot().intercept, Ballot().slope
    if known.any():
        x, y = _logit(p_right[known]), truth[known]
        constant = np.ones_like(x)
        at_zero, slope = fit_logistic(np.stack([constant, x], axis=1), y)
        if slope < 0.0:  # worse than chance: the best weight that is allowed is none
            (at_zero,), slope = fit_logistic(constant[:, None], y), 0.0
        intercept = float(at_zero) - prior
    weight = max(verdict_log_odds(said_right, truth), 0.0)
    return _checked(Ballot(prior=prior, intercept=intercept, slope=float(slope), verdict=weight))


def _checked(ballot: Ballot) -> Ballot:
    check_ballot(ballot)
    return ballot


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-odds of P(RIGHT) as the ballot reads it, shape (n,)."""
    clipped = np.clip(p, CLIP, 1.0 - CLIP)
    return np.asarray(np.log(clipped / (1.0 - clipped)))


def log_odds(hits: int, count: int) -> float:
    """Return the log-odds of a share, with one half added to hits and to misses: finite for all shares."""
    return math.log((hits + 0.5) / (count - hits + 0.5))


def verdict_log_odds(said_right: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """Return (logit TPR + logit TNR) / 2 of a judge: what one of its words is worth, in log-odds.

    Args:
        said_right: where the verdict is RIGHT (else WRONG), shape (n,).
        right: where what it judges is right, shape (n,).
    """
    true_positive = log_odds(int((said_right & right).sum()), int(right.sum()))
    true_negative = log_odds(int((~said_right & ~right).sum()), int((~right).sum()))
    return (true_positive + true_negative) / 2.0


def fit_logistic(columns: NDArray[np.float64], y: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fit a logistic regression: Newton's method on the likelihood times Jeffreys' prior.

    The score with p = P(y = 1) and h the diagonal of W^(1/2) X (X' W X)^(-1) X' W^(1/2), W = p (1 - p), is
    X' (y - p + h (1/2 - p)) (Firth 1993); every step goes along (X' W X)^(-1) times it, and is halved until the
    penalised likelihood does not fall.

    Args:
        columns: X, float64, shape (n, d); a column of ones gives the intercept.
        y: bool, shape (n,).

    Returns:
        The coefficients, float64, shape (d,); always finite.

    Raises:
        ConfigError: if the columns depend on each other.
    """
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        if columns.shape[1] == 2 and not np.ptp(columns[:, 1]):  # one value of P(RIGHT): it tells nothing
            (only,) = fit_logistic(columns[:, :1], y)
            return np.array([only, 0.0])
        raise ConfigError(f"the {columns.shape[1]} columns of a regression must be independent, and there are more.")
    beta = np.zeros(columns.shape[1])
    value = _penalised(columns, y, beta)
    for _ in range(_STEPS):
        p = _sigmoid(columns @ beta)
        weighted = columns * np.sqrt(p * (1.0 - p))[:, None]
        information = weighted.T @ weighted
        leverage = np.einsum("ij,ji->i", weighted, np.linalg.solve(information, weighted.T))
        step = np.linalg.solve(information, columns.T @ (y - p + leverage * (0.5 - p)))
        while (ahead := _penalised(columns, y, beta + step)) < value and np.abs(step).max() > _TOLERANCE:
            step = step / 2.0
        beta, value = beta + step, ahead
        if np.abs(step).max() <= _TOLERANCE:
            break
    return beta


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(z / 2.0)))  # neither end overflows


def _penalised(columns: NDArray[np.float64], y: NDArray[np.bool_], beta: NDArray[np.float64]) -> float:
    """Return the log-likelihood plus half the log-determinant of the information."""
    z = columns @ beta
    p = _sigmoid(z)
    sign, log_det = np.linalg.slogdet((columns * (p * (1.0 - p))[:, None]).T @ columns)
    if sign <= 0:  # so far out that every p is 0 or 1
        return -math.inf
    return float((y * z).sum() - np.logaddexp(0.0, z).sum() + 0.5 * log_det)
